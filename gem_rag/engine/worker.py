"""One thread that runs what is queued, there only while there is something to run."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import torch

from gem_rag.engine.answers import Answer
from gem_rag.engine.runner import Runner, Task, Written
from gem_rag.engine.scheduler import Limits, Prompt, Scheduler, Step, Unit
from gem_rag.engine.work import Place, place, require_wanted
from gem_rag.errors import EngineFull, GemError
from gem_rag.forks import in_child

T = TypeVar("T")
IDLE_SECONDS = 5.0
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """Queues what callers want, and computes it in one thread, in the scheduler's order.

    Args:
        runner: Computes.
        limits: Bounds.
    """

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self._in_child = False
        self._start_anew()
        _workers.add(self)
        in_child(self._start_in_child)

    def _start_in_child(self) -> None:
        """A forked child has its parent's queue, and no thread that would work on it."""
        self._in_child = True
        pending = self.scheduler.rows
        self._start_anew()
        for answer in pending:
            answer.end_in_child()

    def _start_anew(self) -> None:
        """With nothing queued and no thread."""
        self._runner.start_anew()
        self.scheduler: Scheduler[Answer, Task] = Scheduler(self._limits)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self.step_seconds = self.busy_seconds = 0.0
        self.written = Written()

    def call(self, run: Callable[[], T], *, wait: bool = True) -> T:
        """Compute something between other things, and wait for it.

        Raises:
            EngineFull: Too much is queued, and the caller does not want to wait.
        """
        require_wanted()
        if threading.current_thread() is self._thread:
            return run()  # asked for by what runs now, such as a logits hook
        task = Task(run)
        self._queue(partial(self._add, task, place()), wait)
        try:
            result: T = task.future.result()
        except BaseException:
            task.future.cancel()  # the wait was interrupted
            raise
        return result

    def _add(self, task: Task, mine: Place | None) -> None:
        arrival = self.scheduler.add_unit(task, None if mine is None else mine.arrival)
        if mine is not None:
            mine.arrival = arrival

    def submit(self, answers: Iterable[Answer], *, wait: bool = True) -> None:
        """Queue answers.

        Raises:
            EngineFull: Too much is queued, and the caller does not want to wait.
            GemError: A hook of a running answer asks for another.
        """
        if threading.current_thread() is self._thread:
            raise GemError("a logits hook or `cancelled` cannot generate: it would wait for itself")
        self._queue(lambda: self.scheduler.add_rows(answers), wait)

    def _queue(self, add: Callable[[], None], wait: bool) -> None:
        if self._in_child:
            self._runner.require_usable_in_child()
        with self._changed:
            most = self.scheduler.limits.queued
            if not wait and self.scheduler.queued >= most:
                raise EngineFull(
                    f"{self.scheduler.queued} requests are waiting, the limit is {most}; try again "
                    "later, or wait (wait=True)"
                )
            add()
            self.wake()

    def wake(self) -> None:
        """Look again at what there is to do: somebody reads on, or has stopped reading."""
        with self._changed:
            self._changed.notify_all()
            if self._thread is None and (self.scheduler.queued or self.scheduler.running):
                thread = threading.Thread(target=self._work, name="gem-rag", daemon=True)
                thread.start()  # and waits for the lock that is held here
                self._thread = thread

    def _work(self) -> None:
        while (action := self._next()) is not None:
            before = Written.of(action.rows) if isinstance(action, Step) else None
            started = time.perf_counter()
            over = self._run(action)
            seconds = time.perf_counter() - started
            with self._changed:
                self.busy_seconds += seconds
                if isinstance(action, Step) and before is not None:
                    self.step_seconds += seconds
                    self.written = self.written.more(before, Written.of(action.rows))
                self.scheduler.spent(action, seconds)
                for answer in over:
                    self.scheduler.remove(answer)
                self._changed.notify_all()
            del action, over  # an idle thread holds on to nothing

    def _next(self) -> Step[Answer] | Prompt[Answer] | Unit[Task] | None:
        with self._changed:
            action, goes_on = None, True
            while not self._is_stopped and (action := self.scheduler.next()) is None and goes_on:
                goes_on = self._changed.wait(IDLE_SECONDS)  # then looks once more
            if action is None:
                self._thread = None
            return action

    def _run(self, action: Step[Answer] | Prompt[Answer] | Unit[Task]) -> list[Answer]:
        """Do it; the answers that are over. Whatever goes wrong, nobody is left waiting."""
        try:
            with torch.inference_mode():
                match action:
                    case Step(rows):
                        return self._runner.step(rows)
                    case Prompt(rows, tokens):
                        return self._runner.prompt(rows, tokens)
                    case Unit(task):
                        self._runner.task(task)
                        return []
        except BaseException as error:
            running = list(self.scheduler.running)
            self._runner.start_anew()
            for answer in running:
                answer.slots.clear()
                answer.end(error)
            return running

    def limit(self, limits: Limits) -> None:
        """Exchange the bounds, from the next decision on."""
        with self._changed:
            self._limits = self.scheduler.limits = limits
            self.wake()

    def leave(self, answer: Answer, *, wait: bool) -> None:
        """Have a cancelled answer put out of the way, and wait until it is."""
        with self._changed:
            if answer not in self.scheduler.running:
                self.scheduler.remove(answer)
                answer.end()
                return
            self.wake()
            if wait and threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: answer not in self.scheduler.running)

    def stop(self) -> None:
        """End the thread after what it is computing."""
        with self._changed:
            self._is_stopped = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()


def _at_exit() -> None:
    """A thread that computes while Python is torn down would abort the process."""
    for worker in list(_workers):
        worker.stop()


atexit.register(_at_exit)
