"""Virtual time and who runs next: many tasks of real, synchronous code in one thread, in an order the seed
gives.

A task is a greenlet: plain code that gives way only where it calls `pause` (every call of the store, every
sleep and every look at a clock does). Exactly one runs at a time. The one whose moment has come goes next;
among those of the same moment the seed chooses. When all wait, time jumps to the next moment.

A `Life` is one run of a process: all its tasks end together. `kill` is a kill -9: what the tasks of the
life were doing is cut off at the point where they wait, and whatever their unwinding (`finally`, `with`)
still tries to do through `pause` is refused as well. Code that runs threads of its own gets an `Inline`
executor: what is submitted is done at once, by the submitting task, and gives way like anything else.
"""

from __future__ import annotations

import heapq
import random
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import greenlet

#: Steps after which a world that does not come to an end is given up.
MOST_STEPS = 3_000_000


class Killed(BaseException):
    """The process is dead. Not an Exception: no code under test may catch it."""


class FailedError(AssertionError):
    """A task ended with an error that nobody expected. The text is its traceback."""


@dataclass(eq=False)
class Life:
    """One run of a process, from its start to its end."""

    name: str
    dead: bool = False
    tasks: list[Task] = field(default_factory=list)


class Task:
    """One line of execution of a life."""

    __slots__ = ("done", "green", "life", "name", "turn")

    def __init__(self, life: Life, name: str, work: Callable[[], object], hub: greenlet.greenlet) -> None:
        self.life, self.name = life, name
        self.turn = 0  # grows with every wait: what was to wake an earlier one is stale
        self.done = False
        self.green = greenlet.greenlet(work, hub)  # where it goes on when this one ends


class Scheduler:
    """`now` is the true time, in seconds from the start of the world. `before` may kill
    who would be next, or give the seconds that it stands still instead."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self.switches = 0
        self.before: Callable[[Task], float] = lambda task: 0.0
        self.current: Task | None = None
        self._rng = rng
        self._heap: list[tuple[float, float, int, int, Task | None, Callable[[], object] | None]] = []
        self._count = 0
        self._hub = self._main = greenlet.getcurrent()
        self.failed: BaseException | None = None

    # --- called by whoever builds the world, and by events

    def spawn(self, life: Life, name: str, work: Callable[[], object], after: float = 0.0) -> Task:
        """Start `work` as a task of `life` in `after` seconds."""
        task = Task(life, name, lambda: self._run(task, work), self._main)
        life.tasks.append(task)
        self._push(after, task, None)
        return task

    def at(self, after: float, event: Callable[[], object]) -> None:
        """Call `event` in `after` seconds, whoever is dead by then. It must not wait."""
        self._push(after, None, event)

    def wake(self, task: Task) -> None:
        """End the task's present wait now."""
        if not task.done and task is not self.current:
            task.turn += 1
            self._push(0.0, task, None)

    def kill(self, life: Life) -> None:
        """End a life: every task of it is cut off where it waits. Not for a task to do to its own life."""
        assert self.current is None or self.current.life is not life
        life.dead = True
        outer, hub = self.current, self._hub
        for task in list(life.tasks):
            if not task.done:
                self.current, self._hub = task, greenlet.getcurrent()
                task.green.parent = self._hub
                task.done = True
                if task.green:  # it has begun
                    task.green.throw(Killed)
        life.tasks.clear()
        self.current, self._hub = outer, hub

    def run(self, until: float = float("inf")) -> None:
        """Go on until nothing is left to do before `until`. Raises the first failure."""
        heap = self._heap
        while heap and heap[0][0] <= until and self.failed is None:
            moment, _, _, turn, task, event = heapq.heappop(heap)
            if task is not None and (task.done or task.turn != turn):
                continue
            self.now = max(self.now, moment)
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise FailedError(f"the world did not come to an end in {MOST_STEPS} steps")
            try:
                if task is None:
                    assert event is not None
                    event()
                    continue
                still = self.before(task)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the world
                self.failed = error
                break
            if task.done:
                continue
            if still > 0:
                self._push(still, task, None)
            else:
                self._switch(task)
        if self.failed is not None:
            raise self.failed
        if until != float("inf"):
            self.now = max(self.now, until)

    # --- called by tasks

    def check(self) -> Task:
        """The task that runs. Raises Killed where its life has ended."""
        task = self.current
        assert task is not None, "only a task can wait"
        if task.life.dead:
            raise Killed
        return task

    def pause(self, seconds: float = 0.0) -> None:
        """Let others go on, for so long. Raises Killed where the life has ended."""
        task = self.check()
        task.turn += 1
        self._push(seconds, task, None)
        self._hub.switch()

    def wait(self) -> None:
        """Let others go on until somebody wakes this task."""
        task = self.check()
        task.turn += 1
        self._hub.switch()

    # --- inside

    def _push(self, after: float, task: Task | None, event: Callable[[], object] | None) -> None:
        self._count += 1
        turn = task.turn if task is not None else 0
        moment = self.now + (after if after > 0 else 0.0)
        heapq.heappush(self._heap, (moment, self._rng.random(), self._count, turn, task, event))

    def _switch(self, task: Task) -> None:
        self.switches += 1
        self.current = task
        try:
            task.green.switch()
        finally:
            self.current = None

    def _run(self, task: Task, work: Callable[[], object]) -> None:
        try:
            work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the world
            if self.failed is None:
                text = f"{task.name}: {''.join(traceback.format_exception(error))}"
                self.failed = error if isinstance(error, AssertionError) else FailedError(text)
        finally:
            task.done = True
            if task in task.life.tasks:
                task.life.tasks.remove(task)


class Threads(Executor):
    """Stands in for a pool of threads: what is submitted is done by other tasks of the submitter's life.

    Its futures are waited for one by one with `result` or `exception` (`wait` and `as_completed` would wait
    for another thread, for ever).
    """

    def __init__(self, scheduler: Scheduler, threads: int) -> None:
        self._scheduler, self._free = scheduler, threads
        self._queue: list[Waited] = []
        self._begun: list[Waited] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done by the next task that is free."""
        waited = Waited(self._scheduler, lambda: fn(*args, **kwargs))
        self._queue.append(waited)
        if self._free:
            self._free -= 1
            task = self._scheduler.check()
            self._scheduler.spawn(task.life, f"{task.name} thread", self._work)
        return waited

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted; with `cancel_futures` for what has begun, and nothing else begins."""
        for waited in self._queue if cancel_futures else ():
            waited.cancel()
        if cancel_futures:
            self._queue.clear()
        while wait and self._queue:
            self._queue[0].exception()
        while wait and self._begun:
            self._begun[0].exception()

    def _work(self) -> None:
        try:
            while self._queue:
                waited = self._queue.pop(0)
                self._begun.append(waited)
                waited.do()
                self._begun.remove(waited)
        finally:
            self._free += 1


class Waited(Future[Any]):
    """A future for whose result other tasks are let go on."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], Any]) -> None:
        super().__init__()
        self._scheduler, self._work = scheduler, work
        self._waiting: list[Task] = []

    def do(self) -> None:
        """Called once, by a task."""
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(self._work())
        except Exception as error:  # noqa: BLE001 - as a pool of threads does
            self.set_exception(error)
        for task in self._waiting:
            self._scheduler.wake(task)

    def result(self, timeout: float | None = None) -> Any:
        """As Future.result."""
        self._wait()
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future.exception."""
        self._wait()
        return super().exception(0)

    def _wait(self) -> None:
        while not self.done():
            self._waiting.append(self._scheduler.check())
            self._scheduler.wait()


class Inline(Executor):
    """Stands in for a pool of threads: what is submitted is done at once, by whoever submits it.

    A Killed goes through to the submitter, as the end of a process would.
    """

    def __init__(self, threads: int = 1) -> None:
        """Called as a ThreadPoolExecutor is."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it, and give a future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as a pool of threads does
            future.set_exception(error)
        return future
