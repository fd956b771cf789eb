"""Saves by DCP that are under way: what was staged and waits to be written, and what failed and has to be given up.

The invariants I1 to I6 are those of dcp.py.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

import torch.distributed as dist

from .._locks import new_lock
from ..checkpoint import Checkpointer
from ._staging import StagedState

_log = logging.getLogger("ebb.checkpoint")


class Staged:
    """What `stage` did for a step: a state in a slot, or why there is none."""

    def __init__(self, session: str, state: StagedState | None) -> None:
        self.session = session
        self.state = state
        self.failure: BaseException | None = None

    def discard(self) -> None:
        state, self.state = self.state, None
        if state is not None:
            state.image.abort()


class Saving:
    """One save of one rank."""

    def __init__(self, step: int, staged: Staged | None) -> None:
        self.step = step
        self.staged = staged
        #: None: no slot was asked for.
        self.session = None if staged is None else staged.session
        self.is_skipped = staged is not None and staged.state is None and staged.failure is None
        self.thread = threading.current_thread()
        self.is_finished = False

    @property
    def is_left(self) -> bool:
        """Whether it failed: its thread has ended, or does something else now."""
        return not self.is_finished and (self.thread is threading.current_thread() or not self.thread.is_alive())


class Shared:
    """What stagers and writers of a `Checkpointer` share."""

    def __init__(self) -> None:
        self.lock = new_lock()
        #: By step, in the order of the saves: what was staged stays as it is until its save is written.
        self.staged: dict[int, list[Staged]] = {}
        #: Saves that this rank coordinates: it alone learns that all went well.
        self.coordinated: list[Saving] = []
        self.group: Any = None

    def put(self, step: int, staged: Staged) -> None:
        with self.lock:
            self.staged.setdefault(step, []).append(staged)

    def take(self, step: int) -> Staged | None:
        with self.lock:
            waiting = self.staged.get(step)
            if not waiting:
                return None
            first = waiting.pop(0)
            if not waiting:
                del self.staged[step]
            return first

    def drop(self, step: int, staged: Staged) -> None:
        """When nobody has the staged state any more: a save that did not come to write it."""
        with self.lock:
            waiting = self.staged.get(step, [])
            if staged not in waiting:
                return
            waiting.remove(staged)
            if not waiting:
                del self.staged[step]
        staged.discard()

    def open_group(self) -> Any:
        """For saves behind the job's back: with collectives of the job in between, ranks would meet the wrong ones."""
        if self.group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")
        return self.group


_all_shared: weakref.WeakKeyDictionary[Checkpointer, Shared] = weakref.WeakKeyDictionary()
_all_shared_lock = new_lock()


def shared_of(checkpointer: Checkpointer) -> Shared:
    """Made with the first of them, and gone with the `Checkpointer`."""
    with _all_shared_lock:
        return _all_shared.setdefault(checkpointer, Shared())


def abort_left(checkpointer: Checkpointer, step: int | None = None) -> None:
    """Once more for saves that failed: other ranks may have come with their parts after one had given the snapshot up.

    Args:
        step: that is being saved now.
    """
    shared = shared_of(checkpointer)
    with shared.lock:
        left = [one for one in shared.coordinated if one.is_left]
        shared.coordinated = [one for one in shared.coordinated if not one.is_left and not one.is_finished]
    for one in left:
        if one.step != step:
            abort(checkpointer, one.step, one.session)


def abort(checkpointer: Checkpointer, step: int, session: str | None) -> None:
    """Gives a snapshot up, for a save that has failed already: that is what it will tell."""
    if session is None:
        return
    try:
        checkpointer.api.abort(step, session)
    except Exception as error:
        _log.debug("step %d could not be given up: %s", step, error)
