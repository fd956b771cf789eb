"""The locks of this package.

I1  A thread that has a lock may take it again: a signal handler runs between any two steps of the program, also of this
    package, and may call it. What such a lock guards is a few lines that stand being run once more in between.
I2  In a forked child no lock is held: the thread that had it is not there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    Lock = AbstractContextManager[Any]

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> Lock:
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _after_fork_in_child() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()


os.register_at_fork(after_in_child=_after_fork_in_child)
