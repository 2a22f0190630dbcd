"""The scheduler of the simulated world: time, order, kill -9."""

from __future__ import annotations

import random
from concurrent.futures import as_completed

import pytest

from tests.world.scheduler import FailedError, Inline, Killed, Life, Scheduler, Threads


def scheduler(seed: int = 0) -> Scheduler:
    return Scheduler(random.Random(seed))


def test_time_passes_only_while_all_wait() -> None:
    world, life = scheduler(), Life("life")
    seen: list[tuple[str, float]] = []

    def work(name: str, pauses: list[float]) -> None:
        for pause in pauses:
            world.pause(pause)
            seen.append((name, world.now))

    world.spawn(life, "a", lambda: work("a", [1.0, 2.0, 3.5]))
    world.spawn(life, "b", lambda: work("b", [2.0, 2.0]), after=0.5)
    world.run()
    assert seen == [("a", 1.0), ("b", 2.5), ("a", 3.0), ("b", 4.5), ("a", 6.5)]


def test_the_seed_chooses_among_those_of_the_same_moment() -> None:
    def order(seed: int) -> str:
        world, life = scheduler(seed), Life("life")
        seen: list[str] = []
        for name in "abcd":
            world.spawn(life, name, lambda name=name: (world.pause(), seen.append(name)))  # type: ignore[misc]
        world.run()
        return "".join(seen)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(300)}) == 24


def test_a_killed_process_does_nothing_more_not_even_in_finally() -> None:
    world, life = scheduler(), Life("victim")
    done: list[str] = []

    def work() -> None:
        try:
            world.pause(10)
            done.append("went on")
        finally:
            done.append("unwound")
            world.pause()
            done.append("waited after its death")

    world.spawn(life, "one", work)
    world.spawn(life, "two", work)
    world.spawn(life, "never begun", work, after=20)
    world.at(5, lambda: world.kill(life))
    world.run()
    assert done == ["unwound", "unwound"]
    assert life.dead
    assert not life.tasks


def test_no_except_of_exceptions_saves_a_killed_process() -> None:
    world, life = scheduler(), Life("victim")
    caught: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                world.pause(1)
            except Exception as error:  # noqa: BLE001
                caught.append(error)

    world.spawn(life, "stubborn", work)
    world.at(5.5, lambda: world.kill(life))
    world.run()
    assert not caught
    assert not issubclass(Killed, Exception)


def test_whoever_stands_still_goes_on_later() -> None:
    world, life = scheduler(), Life("life")
    world.before = lambda task: 100.0 - world.now if world.now < 100 else 0.0
    seen: list[float] = []
    world.spawn(life, "slow", lambda: (seen.append(world.now), world.pause(1), seen.append(world.now)))
    world.run()
    assert seen == [100.0, 101.0]


def test_woken_before_its_time() -> None:
    world, life = scheduler(), Life("life")
    seen: list[float] = []

    def sleeper() -> None:
        world.pause(100)
        seen.append(world.now)
        world.pause(100)  # the first alarm is stale and must not end this one
        seen.append(world.now)

    task = world.spawn(life, "sleeper", sleeper)
    world.at(3, lambda: world.wake(task))
    world.run()
    assert seen == [3.0, 103.0]


def test_an_error_of_a_task_ends_the_world_with_its_traceback() -> None:
    world, life = scheduler(), Life("life")
    world.spawn(life, "bad", lambda: 1 // 0)
    with pytest.raises(FailedError, match=r"bad: Traceback(.|\n)*ZeroDivisionError"):
        world.run()


def test_a_pool_that_does_it_at_once() -> None:
    with Inline(4) as pool:
        futures = [pool.submit(lambda n=n: 10 // n) for n in range(3)]  # type: ignore[misc]
        assert len(list(as_completed(futures))) == 3
        assert [future.result() for future in futures[1:]] == [10, 5]
        assert isinstance(futures[0].exception(), ZeroDivisionError)
        assert list(pool.map(str, range(3))) == ["0", "1", "2"]


def test_a_pool_of_tasks() -> None:
    world, life = scheduler(), Life("life")
    seen: list[object] = []

    def read(number: int) -> int:
        world.pause(10 - number)
        if number == 3:
            raise ValueError(number)
        return number

    def work() -> None:
        pool = Threads(world, 2)
        futures = [pool.submit(read, number) for number in range(5)]
        seen.extend([futures[0].result(), world.now, futures[1].result(), futures[2].result(), world.now])
        seen.append(str(futures[3].exception()))
        pool.shutdown(cancel_futures=True)
        seen.extend([futures[4].result(), world.now])
        world.pause(1)
        seen.append(world.now)

    world.spawn(life, "main", work)
    world.run()
    # 0: 0 to 10, 1: 0 to 9, 2: 9 to 17, 3: 10 to 17, 4: 17 to 23
    assert seen == [0, 10.0, 1, 2, 17.0, "3", 4, 23.0, 24.0]


def test_a_pool_that_is_closed_early_waits_for_what_has_begun_alone() -> None:
    world, life = scheduler(), Life("life")
    done: list[int] = []

    def work() -> None:
        with Threads(world, 1) as pool:
            for number in range(3):
                pool.submit(lambda number=number: (world.pause(1), done.append(number)))  # type: ignore[misc]
            world.pause(0.5)
            pool.shutdown(cancel_futures=True)
            assert (done, world.now) == ([0], 1.0)

    world.spawn(life, "main", work)
    world.run()
    assert done == [0]
