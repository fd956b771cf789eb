"""Copies many runs of memory with a few threads that share one queue: a barrier for each tensor, as the frameworks' own
threading has, costs most where a core is busy with something else."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Callable, NamedTuple

from .._locks import new_lock

#: Bytes that a thread takes from the queue at once.
CHUNK_BYTES = 8 * 1024 * 1024


class Run(NamedTuple):
    """`length` bytes from address `source` to address `target`."""

    target: int
    source: int
    length: int


def default_threads() -> int:
    """Two are enough for the memory of a small machine, and leave the other processors to the job."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:
        available = os.cpu_count() or 1
    return max(1, min(2 if available < 16 else 4, available))


class Copier:
    """Its threads live as long as it does; the caller's thread copies too."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = default_threads() if threads is None else max(1, threads)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = new_lock()

    def copy(self, runs: Iterable[Run]) -> None:
        """Returns when all is copied. The memory on both sides must stay where it is until then."""
        queue: deque[Run] = deque()
        for target, source, length in runs:
            for at in range(0, length, CHUNK_BYTES):
                queue.append(Run(target + at, source + at, min(CHUNK_BYTES, length - at)))

        def work() -> None:
            move = ctypes.memmove  # lets go of the GIL while it copies
            while True:
                try:
                    target, source, length = queue.popleft()
                except IndexError:
                    return
                move(target, source, length)

        self.run(work, len(queue))

    def run(self, work: Callable[[], None], pieces: int) -> None:
        """Calls `work` in each thread, and returns when all calls have. The first failure is raised."""
        others = min(self.threads, pieces) - 1
        pending: list[Future[None]] = []
        # At the end of the interpreter there are no threads to be had: the caller does it alone.
        with suppress(RuntimeError):
            pending.extend(self._executor().submit(work) for _ in range(others))
        try:
            work()
            for one in pending:
                one.result()
        except BaseException:
            wait(pending)
            raise

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def after_fork(self) -> None:
        """In the child there are none of these threads."""
        self._pool = None

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="ebb-copy")
            return self._pool
