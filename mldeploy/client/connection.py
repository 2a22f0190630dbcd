"""A store, its log and who is asking: what every method of a Client works through.

Nothing is opened before it is used. Mutations go through `change`, so that doing again what is done and dry
runs work the same everywhere. Left out: what is wanted of a state (`intents.py`).
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from mldeploy.client.cache import StateCache
from mldeploy.client.describe import describe, in_full, names_of
from mldeploy.client.intents import Intent
from mldeploy.client.types import Change
from mldeploy.config import Settings, load_settings
from mldeploy.core.fold import refusal
from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.errors import NotFoundError
from mldeploy.progress import Reporter
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore, open_store

#: Intervals after which a command line writes the checkpoint that no host has written.
LATE = 3


def utc_now() -> datetime:
    """The local clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Written:
    """What came of an intent. `seq` is None where nothing was written."""

    seq: int | None
    actions: tuple[Action, ...]
    state: State
    names: Mapping[str, str] = field(default_factory=dict)  # for the ids in the actions, as it was before


@dataclass(slots=False)
class Connection:
    """The store and environment of one Client."""

    url: str | None = None
    environment_name: str | None = None
    actor_name: str | None = None
    now: Callable[[], datetime] = field(default=utc_now)
    clock: float | None = None  # the store's time minus time.monotonic(), once known

    @cached_property
    def settings(self) -> Settings:
        """Store and environment, chosen when first asked for."""
        return load_settings(self.url, self.environment_name)

    @property
    def environment(self) -> str:
        """The environment that is meant."""
        return self.settings.environment

    @cached_property
    def actor(self) -> str:
        """Who is said to have done it: MLDEPLOY_ACTOR, else user@host."""
        return self.actor_name or os.environ.get("MLDEPLOY_ACTOR") or f"{_user()}@{socket.gethostname()}"

    @cached_property
    def store(self) -> ObjectStore:
        """The store, which must exist. Raises NotFoundError and StoreError."""
        try:
            return open_store(self.settings.store)
        except NotFoundError as error:
            first = "is it mounted?" if self.settings.store.startswith("file:") else "is the name right?"
            raise NotFoundError(
                f"{error.message} (named by {self.settings.store_from})",
                f"{first} A new one is made by the first `mldeploy push SOURCE`, or by "
                "`mldeploy init --store URL`; --store names another",
            ) from error

    def create_store(self, reporter: Reporter | None = None, *, dry_run: bool = False) -> bool:
        """Make the store if there is none: whether there was none. `reporter` is told, for one may be there
        and not mounted.
        """
        try:
            _ = self.store
        except NotFoundError:
            if not dry_run:
                self.__dict__["store"] = open_store(self.settings.store, create=True)
                if reporter is not None:
                    reporter.info(f"made a new store: {self.settings.store}")
            return True
        return False

    @cached_property
    def log(self) -> Log:
        """The log of the store; until refreshed empty, or as this machine saw it last."""
        return Log(self.store, state=self._cache.load())

    @cached_property
    def _cache(self) -> StateCache:
        return StateCache(self.store)

    def refresh(self) -> State:
        """The state at the head."""
        self.log.refresh()
        self._cache.keep(self.log.state)
        return self.log.state

    def leave_checkpoint(self) -> None:
        """Write a checkpoint where nobody has for long: in a store that no host follows. After an append."""
        self.log.checkpoint(intervals=LATE)

    def change(self, intent: Intent, *, dry_run: bool) -> Written:
        """Append what `intent` wants. Raises what it raises, RaceLostError and OutcomeUnknownError."""
        asked: list[Sequence[Action]] = [()]

        def remember(state: State) -> Sequence[Action]:
            asked[0] = intent(state)
            return asked[0]

        state = self.refresh()
        names = names_of(state)
        if dry_run:
            actions = tuple(intent(state))
            refused = refusal(state, actions) if actions else None
            if refused is not None:
                raise refused
            return Written(None, actions, state, names)
        appended = self.log.append(remember, actor=self.actor, now=self.now())
        if appended is None:
            return Written(None, (), self.log.state)
        self.leave_checkpoint()
        return Written(appended.seq, tuple(asked[0]), appended.state, names)

    def told(
        self,
        written: Written,
        dry_run: bool,
        *,
        model: str,
        version: int | None,
        environment: str | None,
        warnings: tuple[str, ...] = (),
    ) -> Change:
        """What to tell the caller about it."""
        names = {**names_of(written.state), **written.names}
        said = [describe(action, names) for action in written.actions]
        if dry_run:
            said = [
                text + in_full(action, written.state)
                for text, action in zip(said, written.actions, strict=True)
            ]
        return Change(
            store=self.settings.store, model=model, version=version, environment=environment,
            seq=written.seq, already=not written.actions, dry_run=dry_run, actions=tuple(said),
            warnings=warnings,
        )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return str(os.getuid())
