"""The front: HTTP, routing and metrics. No request is decoded here, and nothing blocks."""
