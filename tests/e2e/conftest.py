"""A real daemon on a store in a folder, real bundles, and real load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mldeploy.client import Client
from mldeploy.client.daemon import LocalDaemon
from mldeploy.demo.load import Load, v2_answer
from tests.support.bundles import Maker


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("bundles"))


class World:
    """One store, one host, and a client for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "host"
        self.client = Client(str(folder / "store"))
        self.daemon = self._new_daemon()

    def _new_daemon(self) -> LocalDaemon:
        return LocalDaemon(store=self.client.store, state=self.state, listen="127.0.0.1:0")

    def restart(self) -> None:
        """Stop the daemon, if it runs, and start one anew on the same state."""
        self.daemon.stop()
        self.daemon = self._new_daemon()
        self.daemon.start()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.daemon.address)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def children(self, module: str) -> list[int]:
        """The daemon's own processes of a module, by pid."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(parent) == self.daemon.pid and module.encode() in command:
                found.append(int(entry.name))
        return found

    def load(self, model: str = "answer", connections: int = 32) -> Load:
        """Constant load on a model of tests/support/bundles.py, whose version n answers n."""
        bodies = [
            json.dumps(
                {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [float(row)]}]}
            ).encode()
            for row in range(100)
        ]

        def check(_index: int, _status: int, body: bytes) -> str:
            version, data = v2_answer(body)
            if data != [float(version)]:
                raise ValueError(f"version {version} answered {data}")
            return version

        return Load(*self.address, f"/v2/models/{model}/infer", bodies, check, connections)


@pytest.fixture
def world(tmp_path: Path, maker: Maker) -> Iterator[World]:
    """A world whose host has the environment of `maker` already, and whose daemon is not started yet."""
    there = World(tmp_path)
    maker.seed(there.state)
    yield there
    there.daemon.stop()
