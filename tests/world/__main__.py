"""Run worlds by hand.

python -m tests.world --worlds 100               seeds from the clock; statistics at the end
python -m tests.world --seed 17 --trace          replay one, with all its events
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.world.world import Outcome, World


def main() -> int:
    """Returns 1 if a world was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.world", description="Run simulated worlds.")
    parser.add_argument("--seed", type=int, help="the first seed (default: from the clock)")
    parser.add_argument("--worlds", type=int, default=1, help="how many, with consecutive seeds")
    parser.add_argument("--trace", action="store_true", help="print every event")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the code under test logs, thousands of times
    first = given.seed if given.seed is not None else time.time_ns() // 1_000_000
    began, broken = time.monotonic(), 0
    total: Outcome = Outcome(first)
    for seed in range(first, first + given.worlds):
        outcome = World(seed, trace=print if given.trace else None).run()
        if outcome.error:
            broken += 1
            print(story(outcome), file=sys.stderr)
        total.counts += outcome.counts
        total.faults += outcome.faults
        total.steps += outcome.steps
        total.seconds += outcome.seconds
    took = time.monotonic() - began
    print(
        f"{given.worlds} worlds from seed {first}: {broken} broken, {total.steps:,} steps, "
        f"{total.seconds / 3600:,.0f} hours of virtual time"
    )
    print(f"took {took:.1f} s", file=sys.stderr)
    _print("what happened", total.counts)
    _print("what went wrong on the way", total.faults)
    return 1 if broken else 0


def story(outcome: Outcome) -> str:
    """What to print of a world that is broken."""
    events = "\n".join(outcome.tail)
    return (
        f"{events}\n\nworld {outcome.seed} is broken: {outcome.error}\n"
        f"replay it: python -m tests.world --seed {outcome.seed} --trace\n"
    )


def _print(title: str, counts: Counter[str]) -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items()):
        print(f"  {count:>9,}  {name}")


if __name__ == "__main__":
    sys.exit(main())
