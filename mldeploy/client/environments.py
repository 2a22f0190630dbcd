"""The environments there are: those with hosts, models, settings or a freeze, and production.

Nobody makes an environment: it is there once something names it, so a mistyped one is there as well, and for
good. What names a new one is warned of, with the nearest that there is; what only looks at one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION, check_name
from mldeploy.errors import NotFoundError


def environments(state: State) -> list[str]:
    """All of them, by name."""
    hosts = (host.environment for host in state.hosts.values())
    named = {*state.environments, *hosts, *state.frozen, *state.policy, PRODUCTION}
    return sorted(named - {""})


def find_environment(state: State, name: str) -> str:
    """The name, of an environment that there is. Raises NotFoundError naming the nearest."""
    there = environments(state)
    if check_name(name, "environment name") in there:
        return name
    near = _nearest(name, there)
    hint = f"did you mean {near!r}?" if near else f"environments here: {', '.join(there[:10])}"
    raise NotFoundError(f"there is no environment {name!r} in this store", hint)


def warn_of_new(state: State, names: Iterable[str]) -> tuple[str, ...]:
    """For each name that no host and no record names yet: perhaps it was mistyped."""
    there = environments(state)
    return tuple(_warning(name, there) for name in dict.fromkeys(names) if name and name not in there)


def _warning(name: str, there: list[str]) -> str:
    near = _nearest(name, there)
    return f"no host and no record names {name} yet{f': did you mean {near}?' if near else ''}"


def _nearest(name: str, there: list[str]) -> str | None:
    return next(iter(get_close_matches(name, there, 1, 0.6)), None)
