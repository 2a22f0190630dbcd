"""The environments there are: those with hosts, models, settings or a freeze, and production.

Nobody makes an environment: it is there once something names it, so a mistyped one is there as well, and for
good. What names a new one is warned of, with the nearest that there is; what only looks at one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mldeploy.client.intents import Intent
from mldeploy.core.records import Action
from mldeploy.core.state import Serving, State
from mldeploy.core.types import PRODUCTION, check_name
from mldeploy.errors import NotFoundError

if TYPE_CHECKING:
    from mldeploy.client.connection import Connection


def environments(state: State) -> list[str]:
    """All of them, by name."""
    hosts = (host.environment for host in state.hosts.values())
    # a model that was frozen there, is not any more, and was never promoted, has left nothing
    models = (name for name, there in state.environments.items() if any(map(in_use, there.values())))
    named = {*models, *hosts, *state.frozen, *state.policy, PRODUCTION}
    return sorted(named - {""})


def in_use(now: Serving) -> bool:
    """Whether the model has done anything in the environment, or is frozen there."""
    return now != Serving()


def find_environment(state: State, name: str) -> str:
    """The name, of an environment that there is. Raises NotFoundError naming the nearest."""
    there = environments(state)
    if check_name(name, "environment name") in there:
        return name
    near = _nearest(name, there)
    hint = f"did you mean {near!r}?" if near else f"environments here: {', '.join(there[:10])}"
    raise NotFoundError(f"there is no environment {name!r} in this store", hint)


def looked_at(at: Connection) -> State:
    """The state at the head, for what looks at the environment that is meant. Raises NotFoundError."""
    state = at.refresh()
    find_environment(state, at.environment)
    return state


def warn_of_new(state: State, names: Iterable[str]) -> tuple[str, ...]:
    """For each name of an environment in which nothing is yet: perhaps it was mistyped."""
    there = environments(state)
    return tuple(_warning(name, there) for name in dict.fromkeys(names) if name and name not in there)


@dataclass(slots=True)
class Warned:
    """An intent in an environment ("": in all), and what to warn of in the state it was asked for last."""

    intent: Intent
    environment: str
    warnings: tuple[str, ...] = ()

    def __call__(self, state: State) -> Sequence[Action]:
        self.warnings = warn_of_new(state, (self.environment,))
        return self.intent(state)


def _warning(name: str, there: list[str]) -> str:
    near = _nearest(name, there)
    return f"no host, model or setting is in {name} yet{f': did you mean {near}?' if near else ''}"


def _nearest(name: str, there: list[str]) -> str | None:
    return next(iter(get_close_matches(name, there, 1, 0.6)), None)
