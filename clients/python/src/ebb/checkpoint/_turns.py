"""What a signal handler may do with a `Checkpointer`, where it interrupted the work of one: it runs on the same thread,
between any two steps of that work, and whatever it waited for there would never come. Several in a process share a
client, and locks of Python itself: so it does not matter which of them was interrupted.

A thread's stack says what was interrupted. So nothing has to be noted when the work begins, and forgotten when it ends.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..errors import RequestInvalidError
from ._copy import Copier

if TYPE_CHECKING:
    from ._api import Snapshot
    from ._checkpointer import Checkpointer, Save

_log = logging.getLogger("ebb.checkpoint")
_NAMES = ("save", "save_directory", "restore", "prepare_bytes", "close")


class _Postponed(NamedTuple):
    thread: int
    owner: Checkpointer
    step: int
    work: Callable[[], Save]
    done: Future[Snapshot | None]


_postponed: deque[_Postponed] = deque()
os.register_at_fork(after_in_child=_postponed.clear)


class Turns:
    def __init__(self, owner: Checkpointer) -> None:
        self._owner = owner

    def is_interrupting(self, name: str) -> bool:
        """Whether a handler calls `name` that interrupted a save.

        Raises:
            RequestInvalidError: it interrupted something else.
        """
        interrupted = self._interrupted()
        if interrupted not in (None, "save"):
            raise _refused(name, str(interrupted))
        return interrupted is not None

    def refuse(self, name: str) -> None:
        """
        Raises:
            RequestInvalidError: a handler calls `name`, and interrupted this thread at work.
        """
        interrupted = self._interrupted()
        if interrupted is not None:
            raise _refused(name, interrupted)

    def postpone(self, step: int, work: Callable[[], Save]) -> Save:
        """To the end of the save that was interrupted: the state stays as it is until that returns."""
        from ._checkpointer import Save

        _log.warning(
            "save(%d) was called by a signal handler that interrupted another save: it is made when that one has "
            "ended, before that returns. Better set a flag in the handler, and save at the next step",
            step,
        )
        one = _Postponed(threading.get_ident(), self._owner, step, work, Future())
        _postponed.append(one)
        return Save(step, one.done)

    def make_postponed(self) -> None:
        """At the end of a save. What goes wrong is told as with any save behind the caller's back."""
        here = threading.get_ident()
        while (one := next((one for one in list(_postponed) if one.thread == here), None)) is not None:
            _postponed.remove(one)
            try:
                save = one.work()
            except Exception as error:
                one.owner.note_failure(error)
                one.done.set_exception(error)
            else:
                save.tell(one.done)

    def _interrupted(self) -> str | None:
        """The innermost work of a `Checkpointer` on the stack of the thread, above whoever asks."""
        from ._checkpointer import Checkpointer

        codes = {getattr(Checkpointer, name).__code__: name for name in _NAMES}
        frame = sys._getframe(2).f_back
        copying: str | None = None
        while frame is not None:
            name = codes.get(frame.f_code)
            if name is not None:
                return name
            if frame.f_code is Copier.run.__code__:
                copying = "a copy"  # of a save or restore, or of what DCP does
            frame = frame.f_back
        return copying


def _refused(name: str, interrupted: str) -> RequestInvalidError:
    return RequestInvalidError(
        f"{name} was called by a signal handler that interrupted {interrupted} on the same thread, which cannot go on "
        f"before the handler returns: set a flag in the handler, and call {name} at the next step",
        {"interrupted": interrupted},
    )
