"""Breadth first through everything that can happen: the shortest way to what must never be, or none."""

from __future__ import annotations

from dataclasses import dataclass

from tests.protocol.world import Config, State, World


@dataclass(frozen=True)
class Explored:
    """`wrong` and `trace` are empty where every reachable state is well."""

    world: World
    states: int
    depth: int
    wrong: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{number:3}. {line}" for number, line in enumerate(self.trace, 1)]
        legend = "(key v.1 is that of blob v, brought by push 1; push 0 is older, and its version retired)"
        return "\n".join([f"after {self.states:,} states: {self.wrong}", legend, *lines])


def explore(config: Config, *, beyond_wrong: int = 0, limit: int = 3_000_000) -> Explored:
    """Visit every state that can be reached, until one is wrong; with `beyond_wrong` those that many steps
    away, wrong or not, and none is told. AssertionError beyond `limit` states.
    """
    world = World(config)
    start = world.start()
    before: dict[State, State | None] = {start: None}
    layer, depth = [start], 0
    wrong = world.wrong(start)
    assert wrong is None, wrong
    while layer and not 0 < beyond_wrong == depth:
        depth += 1
        following: list[State] = []
        for state in layer:
            for _, after in world.steps(state):
                if after in before:
                    continue
                before[after] = state
                wrong = None if beyond_wrong else world.wrong(after)
                if wrong is not None:
                    return Explored(world, len(before), depth, wrong, _trace(world, before, after))
                following.append(after)
        assert len(before) < limit, f"more than {limit:,} states: the world is too large"
        layer = following
    return Explored(world, len(before), depth - 1)


def _trace(world: World, before: dict[State, State | None], last: State) -> tuple[str, ...]:
    lines: list[str] = []
    state: State | None = last
    while state is not None:
        earlier = before[state]
        if earlier is not None:
            lines.append(next(_told(world, step) for step, after in world.steps(earlier) if after == state))
        state = earlier
    return tuple(reversed(lines))


def _told(world: World, step: tuple[object, ...]) -> str:
    who, what = step
    if who == "create":
        record = world.book.records[what]  # type: ignore[call-overload]
        return f"record {record.seq} of {record.writer} arrives: {world.told(record.action)}"
    if who in ("put", "delete"):
        assert isinstance(what, int)
        return f"{who} {world.named(what)} arrives"
    return f"{who} {what}"
