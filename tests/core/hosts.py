"""Values of hosts that the tests of the plan share."""

from __future__ import annotations

import msgspec

from mldeploy.core.host import Limits, Wanted, Worker

LIMITS = Limits(grace=100.0)
NOW = 1000.0


def wanted(version: int, model: str = "m") -> Wanted:
    return Wanted(model=model, version=version, digest=f"{model}{version}")


def worker(version: int, replica: int = 0, state: str = "ready", ident: str = "", **more: object) -> Worker:
    return msgspec.convert(
        {
            "id": ident or f"w{version}.{replica}",
            "model": "m",
            "version": version,
            "digest": f"m{version}",
            "environment": "e",
            "replica": replica,
            "state": state,
            "since": NOW,
            **more,
        },
        Worker,
    )
