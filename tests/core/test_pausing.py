from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core.pausing import (
    LONGEST,
    RELAPSE,
    SHORTEST,
    Load,
    Pausing,
    look,
)

QUIET = Load()
BUSY = Load(pressure=0.9)
STEP = 0.25


def after(state: Pausing, load: Load, seconds: float, start: float) -> Pausing:
    for step in range(round(seconds / STEP)):
        state = look(state, load, start + step * STEP)
    return state


def test_it_pauses_at_once_and_resumes_after_a_while():
    state = look(Pausing(), BUSY, 10.0)
    assert (state.paused, state.why, state.pauses) == (True, "processor", 1)
    state = after(state, QUIET, SHORTEST, 10.25)
    assert state.paused
    state = after(state, QUIET, 2 * STEP, 10.25 + SHORTEST)
    assert (state.paused, state.pauses) == (False, 1)


def test_between_the_marks_nothing_changes():
    between = Load(pressure=0.2, queue=0.5)
    assert not after(Pausing(), between, 60, 0.0).paused
    paused = look(Pausing(), BUSY, 0.0)
    assert after(paused, between, 600, 1.0).paused


def test_one_sign_of_trouble_starts_the_wait_again():
    state = look(Pausing(), Load(queue=0.8), 0.0)
    assert state.why == "queue"
    for turn in range(20):
        state = after(state, QUIET, SHORTEST - STEP, 1.0 + turn * 10)
        state = look(state, Load(queue=0.5), 6.0 + turn * 10)
    assert state.paused


def test_who_resumes_into_trouble_waits_longer_and_longer():
    state, now, waits = Pausing(), 0.0, []
    for _ in range(12):
        state = look(state, BUSY, now)
        begun = now
        while state.paused:
            now += STEP
            state = look(state, QUIET, now)
        waits.append(now - begun)
        now += STEP
    assert waits == sorted(waits)
    assert waits[0] < 3 * SHORTEST
    assert LONGEST <= waits[-1] <= LONGEST + 1
    assert state.pauses == 12
    now += RELAPSE
    state = look(state, BUSY, now)
    assert state.wait == SHORTEST


def test_latency_is_held_against_what_it_was_when_nothing_was_wrong():
    fast = Load(latency={"m": 0.010})
    state = after(Pausing(), fast, 10, 0.0)
    assert not look(state, Load(latency={"m": 0.014}), 20.0).paused
    slow = look(state, Load(latency={"m": 0.016}), 20.0)
    assert (slow.paused, slow.why) == (True, "latency")
    assert after(slow, Load(latency={"m": 0.013}), 10, 21.0).paused
    assert not after(slow, Load(latency={"m": 0.011}), 10, 21.0).paused
    # what stays slow in a long pause is not slow because of the copies
    assert not after(slow, Load(latency={"m": 0.016}), 600, 21.0).paused
    assert after(slow, Load(latency={"m": 0.016}, pressure=0.2), 600, 21.0).paused


def test_what_was_seen_on_a_busy_host_is_not_what_is_calm():
    fast, busy = Load(latency={"m": 0.010}), Load(latency={"m": 0.014}, pressure=0.2)
    state = after(after(Pausing(), fast, 10, 0.0), busy, 1_000, 10.0)
    assert look(state, Load(latency={"m": 0.016}), 2_000.0).paused


def test_a_few_looks_are_no_baseline():
    state = after(Pausing(), Load(latency={"m": 0.001}), 1, 0.0)
    assert not look(state, Load(latency={"m": 1.0}), 2.0).paused


@given(st.lists(st.builds(
    Load,
    pressure=st.floats(0, 1), queue=st.floats(0, 1),
    latency=st.dictionaries(st.sampled_from("ab"), st.floats(1e-6, 10), max_size=2),
), max_size=60))  # fmt: skip
def test_it_never_resumes_early_and_counts_every_pause(loads):
    state, pauses = Pausing(), 0
    for step, load in enumerate(loads):
        now = step * STEP
        after_ = look(state, load, now)
        if after_.paused and not state.paused:
            pauses += 1
        if state.paused and not after_.paused:
            assert load.pressure <= 0.1
            assert load.queue <= 0.25
            assert now - state.since >= SHORTEST
        assert after_.pauses == pauses
        assert SHORTEST <= after_.wait <= LONGEST
        state = after_


def test_a_pause_long_after_a_resume_is_no_relapse_on_a_host_that_is_rather_busy():
    """It learns no calm latency meanwhile, but has seen that it was well."""
    state = after(Pausing(), Load(latency={"m": 0.001}), 10, 0.0)
    now = 10.0
    for _ in range(4):
        state = look(state, Load(latency={"m": 0.1}, pressure=0.15), now)
        assert (state.paused, state.wait) == (True, SHORTEST)
        state = after(state, QUIET, SHORTEST + 1, now + STEP)
        assert not state.paused
        state = after(state, Load(latency={"m": 0.001}, pressure=0.15), 600, now + 10)
        now += 620
