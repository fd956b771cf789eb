"""The stager that DCP calls: the copy that lets training go on (I1, I3 of dcp.py)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.stateful import Stateful

from ..checkpoint import Checkpointer
from ..errors import RequestInvalidError
from ._saves import Staged, abort_left, shared_of
from ._staging import StagedState, room_for, stage


class _StateDict(dict):  # type: ignore[type-arg]
    """A dict that can be watched: when it goes, nobody will save it."""


class EbbStager(AsyncStager):
    """Stages for `EbbStorageWriter`: the one copy that is made is the final one.

    DCP does not tell a stager the step, which the slot is for: give ``stager.at(step)`` to each `async_save`. What all
    ranks have alike, each stages in full, though one alone saves it: which one is known only when the plan is made.
    """

    def __init__(self, checkpointer: Checkpointer, step: int | None = None) -> None:
        self._checkpointer = checkpointer
        self.step = step

    def at(self, step: int) -> EbbStager:
        """The stager of one save."""
        return EbbStager(self._checkpointer, step)

    def prepare(self, state_dict: Mapping[str, Any], slots: int | None = None) -> None:
        """Makes memory ready for such states, and maps it, so that the first saves are as fast as all others.

        Takes seconds for gigabytes. Raises as `Checkpointer.prepare`.
        """
        plain = {key: one.state_dict() if isinstance(one, Stateful) else one for key, one in state_dict.items()}
        self._checkpointer.prepare_bytes(room_for(plain), slots)

    @property
    def should_synchronize_after_execute(self) -> bool:
        return False

    def stage(self, state_dict: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Copies the state. It may change when this returns; what failed is raised by the save (I3).

        Raises:
            RequestInvalidError: for which step is not said.
        """
        if self.step is None:
            raise RequestInvalidError("EbbStager stages for one step: give async_stager=stager.at(step)")
        step = self.step
        shared = shared_of(self._checkpointer)
        state: dict[str, Any] = dict(state_dict)
        staged = Staged(self._checkpointer.session, None)

        def begin(session: str) -> tuple[dict[str, Any], StagedState] | None:
            staged.session = session
            return stage(self._checkpointer, step, session, state_dict)

        try:
            abort_left(self._checkpointer, step)
            done = self._checkpointer.start(step, begin)
            if done is not None:
                state, staged.state = done
        except Exception as error:
            staged.failure = error
            # DCP's planner must not look at what was refused: it would fail first, and less clearly.
            state = {}
        shared.put(step, staged)
        watched = _StateDict(state)
        weakref.finalize(watched, shared.drop, step, staged).atexit = False
        return watched

    def synchronize_staging(self) -> None:
        pass

    def close(self) -> None:
        """Nothing to do: slots belong to the `Checkpointer`."""
