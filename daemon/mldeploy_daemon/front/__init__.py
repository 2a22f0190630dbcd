"""The front: HTTP, routing and metrics. Nothing is decoded here but a routing key, and nothing blocks."""
