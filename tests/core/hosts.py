"""Values of hosts that the tests of the plan share."""

from __future__ import annotations

import msgspec

from mldeploy.core.host import Limits, Wanted, Worker
from mldeploy.core.state import Host, Model, Serving, State, Version

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


def served(serving: Serving, *retired: int, cut: int = 0) -> State:
    """A state in which model m has versions 1 to 3 and does this in production; `cut` by force."""
    versions = {
        n: Version(
            version=n, digest=f"m{n}", push="", blobs=(), size=0, owner="", expires="", python="",
            platform="", actor="", published="", seq=n,
            retired="2026-01-01T00:00:00Z" if n in (*retired, cut) else "", cut=n == cut,
        )
        for n in (1, 2, 3)
    }  # fmt: skip
    return State(
        models={"m": Model(name="m", versions=versions)},
        environments={"production": {"m": serving}},
        hosts={"h": Host(id="h", environment="production", hostname="", labels={}, seq=1, joined="")},
    )
