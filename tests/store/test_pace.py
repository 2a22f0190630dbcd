"""How many requests run at once: pure, with a clock that is told."""

from __future__ import annotations

import threading

from mldeploy.store.pace import CALM, LEAST, MOST, START, WINDOW, Gate, Pace


def played(pace: Pace, seconds: float, rate: float, now: float = 100.0, size: int = 8 << 20) -> Pace:
    """`pace` after `seconds` in which requests of `size` bytes end at `rate` bytes a second in all."""
    count = int(seconds * rate / size)
    for number in range(1, count + 1):
        pace = pace.done(size, now + number * size / rate)
    return pace


def through(
    pace: Pace, rate_at: dict[int, float] | None, most: float, seconds: float = 60.0, start: float = 200.0
) -> Pace:
    """After that time with a store where each connection brings `most`, or what `rate_at` says of a limit."""
    now = start
    while now < start + seconds:
        rate = (rate_at or {}).get(pace.limit, most * pace.limit)
        now += (8 << 20) / rate
        pace = pace.done(8 << 20, now)
    return pace


def test_it_grows_while_that_pays() -> None:
    assert through(Pace(), None, 50e6).limit == MOST
    assert Pace().limit == START


def test_it_stays_where_more_brings_no_more() -> None:
    full = dict.fromkeys(range(1, MOST + 1), 400e6)
    limits = set()
    pace = Pace()
    for number in range(400):
        pace = through(pace, full, 0, seconds=0.5, start=200.0 + number / 2)
        limits.add(pace.limit)
    assert limits == {START, START + START // 4}


def test_it_goes_back_where_more_brought_less() -> None:
    rates = {limit: 400e6 if limit <= START else 100e6 for limit in range(1, MOST + 1)}
    pace = through(Pace(), rates, 0, seconds=6.0)
    assert pace.limit == START
    assert pace.still


def test_throttled_it_halves_once_and_grows_again_after_a_while() -> None:
    pace = Pace(limit=16, began=100.0)
    pace = pace.throttled(101.0)
    assert pace.limit == 8
    for _ in range(15):  # the others that were under way
        pace = pace.throttled(101.1)
    assert pace.limit == 8
    pace = pace.throttled(101.1 + WINDOW)
    assert pace.limit == 4
    calm = played(pace, WINDOW * (CALM - 2), 400e6, 102.0)
    assert calm.limit == 4
    assert through(calm, None, 50e6).limit == MOST


def test_what_was_sent_before_it_was_halved_halves_it_no_more() -> None:
    pace = Pace(limit=32).throttled(100.0, sent=99.9)
    assert pace.limit == 16
    late = pace.throttled(103.0, sent=99.95)
    assert late.limit == 16
    assert played(late, WINDOW, 400e6, 103.0).throttled(110.0, sent=100.5).limit == 8


def test_what_the_budget_keeps_below_the_limit_is_halved_too() -> None:
    assert Pace(limit=32).throttled(100.0, inside=8).limit == 4


def test_it_never_stops() -> None:
    pace = Pace()
    for second in range(100):
        pace = pace.throttled(100.0 + second)
    assert pace.limit == LEAST == 1


def test_small_objects_count_by_their_number() -> None:
    pace, now = Pace(), 100.0
    for _ in range(10_000):
        now += 0.02 / pace.limit
        pace = pace.done(100, now)
    assert pace.limit == MOST


def test_a_window_in_which_nothing_happened_says_nothing() -> None:
    pace = played(Pace(), 5.0, 400e6)
    assert pace.done(8 << 20, 4000.0).done(8 << 20, 4000.01).limit == pace.limit


def test_the_gate_holds_number_and_bytes() -> None:
    gate = Gate(100, pace=Pace(limit=3))
    assert gate.try_enter(60)
    assert not gate.try_enter(60)  # 120 bytes
    assert gate.try_enter(20)
    assert gate.try_enter(20)
    assert not gate.try_enter(0)  # four requests
    gate.leave(60)
    assert gate.try_enter(60)
    for count in (60, 20, 20):
        gate.leave(count)
    assert gate.try_enter(1000)  # one is let through always


def test_the_gate_lets_the_next_in_when_one_leaves() -> None:
    gate = Gate(100, pace=Pace(limit=1))
    gate.enter(10)
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (gate.enter(10), entered.set()))
    thread.start()
    assert not entered.is_set()
    gate.leave(10)
    assert entered.wait(30)
    thread.join()
    gate.leave(10)
    assert gate.try_enter(10)


def test_the_gate_is_told_of_throttling() -> None:
    clock = [100.0]
    gate = Gate(1 << 30, pace=Pace(limit=8), monotonic=lambda: clock[0])
    for _ in range(8):
        gate.enter(1)
    gate.throttled()
    assert gate.pace.limit == 4
