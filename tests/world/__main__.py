"""Run worlds by hand.

python -m tests.world --seeds 100                seeds from the clock; statistics at the end
python -m tests.world --seeds 1000 --hosts 50    rollouts among so many hosts, on every core
python -m tests.world --seed 17 --trace          replay one, with all its events
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.world.world import Cast, Outcome, World


def main() -> int:
    """Returns 1 if a world was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.world", description="Run simulated worlds.")
    parser.add_argument("--seed", type=int, help="the first seed (default: from the clock)")
    parser.add_argument("--seeds", "--worlds", type=int, default=1, help="how many, with consecutive seeds")
    parser.add_argument(
        "--hosts", type=int, default=0, help="hosts of each world, and what fleets do (0: drawn)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)"
    )
    parser.add_argument("--trace", action="store_true", help="print every event")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the code under test logs, thousands of times
    first = given.seed if given.seed is not None else time.time_ns() // 1_000_000
    began, broken = time.monotonic(), 0
    total: Outcome = Outcome(first)
    for outcome in outcomes(first, given.seeds, given.hosts, given.jobs, trace=given.trace):
        if outcome.error:
            broken += 1
            print(story(outcome, given.hosts), file=sys.stderr)
        total.add(outcome)
    took = time.monotonic() - began
    print(
        f"{given.seeds} worlds from seed {first}: {broken} broken, {total.steps:,} steps, "
        f"{total.seconds / 3600:,.0f} hours of virtual time"
    )
    print(f"took {took:.1f} s", file=sys.stderr)
    _print("what happened", total.counts)
    _print("what went wrong on the way", total.faults)
    return 1 if broken else 0


def outcomes(
    first: int, seeds: int, hosts: int = 0, jobs: int = 1, *, trace: bool = False
) -> Iterator[Outcome]:
    """The worlds of so many seeds, in their order, in so many processes."""
    live = partial(lived, hosts=hosts)
    if trace or jobs == 1 or seeds == 1:
        yield from (lived(seed, hosts, trace=trace) for seed in range(first, first + seeds))
        return
    with ProcessPoolExecutor(jobs, initializer=logging.disable, initargs=(logging.CRITICAL,)) as pool:
        yield from pool.map(live, range(first, first + seeds))


def lived(seed: int, hosts: int = 0, *, trace: bool = False) -> Outcome:
    """One world. The collector of cycles is kept off it: there are many values, and no cycles among them."""
    gc.disable()
    try:
        return World(seed, cast=Cast.fleet(hosts) if hosts else None, trace=print if trace else None).run()
    finally:
        gc.enable()
        gc.collect()


def story(outcome: Outcome, hosts: int = 0) -> str:
    """What to print of a world that is broken."""
    events = "\n".join(outcome.tail)
    more = f" --hosts {hosts}" if hosts else ""
    return (
        f"{events}\n\nworld {outcome.seed} is broken: {outcome.error}\n"
        f"replay it: python -m tests.world --seed {outcome.seed}{more} --trace\n"
    )


def _print(title: str, counts: Counter[str]) -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items()):
        print(f"  {count:>9,}  {name}")


if __name__ == "__main__":
    sys.exit(main())
