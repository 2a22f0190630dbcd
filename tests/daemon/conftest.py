"""A session's bundles, and a place with a store for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mldeploy.core.records import Action
from mldeploy.core.types import ModelRef
from mldeploy.store.objects import ObjectStore, open_store
from tests.support.bundles import Maker, append, promote, publish
from tests.support.daemons import Daemon


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("bundles"))


@dataclass
class Place:
    """A store, and daemons on it. Everything is ended with the test."""

    root: Path
    maker: Maker
    store: ObjectStore
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "store"

    def push(
        self, answer: float = 1.0, name: str = "answer", share: int | None = 10_000, **more: Any
    ) -> ModelRef:
        """Publish a version that answers `answer`, and promote it to `share`."""
        return publish(self.store, self.maker.bundle(name, answer, **more), share=share)

    def promote(self, ref: ModelRef) -> int:
        return promote(self.store, ref)

    def append(self, *actions: Action) -> int:
        return append(self.store, *actions)

    def daemon(self, state: str = "state", *, seeded: bool = True, **options: Any) -> Daemon:
        """Not started yet; with the shared environment on its disk unless `seeded` is false."""
        path = self.root / state
        if seeded and not (path / "environments").exists():
            self.maker.seed(path)
        daemon = Daemon(self.folder, path, **options)
        self.daemons.append(daemon)
        return daemon


@pytest.fixture
def place(tmp_path: Path, maker: Maker) -> Iterator[Place]:
    made = Place(tmp_path, maker, open_store(str(tmp_path / "store"), create=True))
    yield made
    for daemon in made.daemons:
        daemon.__exit__(None, None, None)
        print(daemon.text())  # pytest shows it with a failure


@pytest.fixture
def start(place: Place) -> Callable[..., Daemon]:
    """Start a daemon on the test's store."""

    def run(**options: Any) -> Daemon:
        return place.daemon(**options).start()

    return run
