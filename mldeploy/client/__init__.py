"""The Python interface: `Client`, whose methods are the commands, and `deploy` for notebooks."""

from __future__ import annotations

from mldeploy.client.client import Client

__all__ = ["Client"]
