"""Checkpoints by `torch.distributed.checkpoint`: each rank hands over a part, and all parts become one snapshot.

```python
from torch.distributed import checkpoint as dcp

writer, stager = EbbStorageWriter(checkpointer), EbbStager(checkpointer)
dcp.save(state, checkpoint_id=step, storage_writer=writer)
dcp.async_save(state, checkpoint_id=step, storage_writer=writer, async_stager=stager.at(step))
dcp.load(state, checkpoint_id="latest", storage_reader=EbbStorageReader(checkpointer))
```

`save`, `async_save` and `load` of this module do the same with less to write, and raise Ebb's errors. What DCP calls
is in _stager.py, _writer.py and _reader.py; _saves.py knows what is under way, _metadata.py what may be unpickled.

I1  `stage` returns when all of this rank lies in a slot of the node: training may go on, and nothing is copied again.
I2  The snapshot appears when every rank has handed its part over, in one step, with DCP's metadata as one more part.
I3  What fails in `stage` is told by the save: a rank that raised there would leave the others waiting for it. The
    save fails on all ranks then, and is left out on all when it is left out on one.
I4  A part's table names what the plan gave to the rank. What another rank saves is overwritten with zeros.
I5  No code of a checkpoint is run (_metadata.py).
I6  DCP makes all calls of one save on one thread; what belongs to a save is kept by thread. So saves may be under way
    at once, where each has a process group of its own, or there is one rank. `async_save` here makes them one after
    another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import LoadPlanner, SavePlanner
from torch.distributed.checkpoint.stateful import Stateful

from ..checkpoint import Checkpointer, Save, Snapshot
from ..checkpoint._api import Step
from ._reader import EbbStorageReader
from ._saves import abort_left, shared_of
from ._stager import EbbStager
from ._writer import EbbStorageWriter

__all__ = ["EbbStager", "EbbStorageReader", "EbbStorageWriter", "async_save", "load", "save"]


def save(
    checkpointer: Checkpointer,
    step: int,
    state: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    planner: SavePlanner | None = None,
) -> Snapshot | None:
    """Saves, and returns when the snapshot is committed. Called on all ranks; None but on the one that commits, and
    when the run leaves the snapshot out.

    Raises:
        EbbError: what went wrong, on whichever rank.
    """
    saving = async_save(checkpointer, step, state, metadata=metadata, overwrite=overwrite, planner=planner)
    return checkpointer.settle(saving)


def async_save(
    checkpointer: Checkpointer,
    step: int,
    state: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    planner: SavePlanner | None = None,
) -> Save:
    """Copies the state into a slot, and returns: it may change. Called on all ranks, in the same order.

    The rest is done behind the caller's back, one save after another, in a process group of its own (gloo).

    Raises:
        EbbError: what went wrong with an earlier save (once).
    """
    checkpointer.turns.refuse("async_save")
    checkpointer.raise_failure()
    shared = shared_of(checkpointer)
    group = shared.open_group()
    plain = {key: value.state_dict() if isinstance(value, Stateful) else value for key, value in state.items()}
    staged = [EbbStager(checkpointer, step).stage(plain)]
    writer = EbbStorageWriter(checkpointer, step, metadata=metadata, overwrite=overwrite)

    def work() -> Snapshot | None:
        try:
            state_dict_saver.save(staged.pop(), storage_writer=writer, planner=planner, process_group=group)
        except CheckpointException as error:
            abort_left(checkpointer)
            raise _cause(error) from error
        return writer.snapshot

    return checkpointer.behind(step, work)


def load(
    checkpointer: Checkpointer,
    state: dict[str, Any],
    step: Step = "latest",
    *,
    planner: LoadPlanner | None = None,
) -> int:
    """Loads into the state, in place; the step that was loaded. Called on all ranks, of which there may be more or
    fewer than saved.

    Raises:
        NotFoundError: no such snapshot.
        DataCorruptError, DataLostError: bytes that are not what was saved, and no other copy; `fallback` in details is
            the newest older step. Tensors of the state may have been overwritten.
        EbbError: what else went wrong, on whichever rank.
    """
    group = shared_of(checkpointer).open_group()
    chosen = _same_step(checkpointer, step, group)
    reader = EbbStorageReader(checkpointer, chosen)
    reader.open()
    try:
        state_dict_loader.load(state, storage_reader=reader, planner=planner, process_group=group)
    except CheckpointException as error:
        raise _cause(error) from error
    return chosen


def _same_step(checkpointer: Checkpointer, step: Step, group: Any) -> int:
    """The coordinator's choice on all ranks: a snapshot may be committed while they look."""
    found: list[Any] = [None]
    if group is None or dist.get_rank() == 0:
        try:
            found[0] = checkpointer.api.get(step).step
        except Exception as error:
            found[0] = error
    if group is not None:
        dist.broadcast_object_list(found, src=0, group=group)
    if isinstance(found[0], BaseException):
        raise found[0]
    return int(found[0])


def _cause(error: CheckpointException) -> BaseException:
    """What the first rank that failed said."""
    failure = error.failures[min(error.failures)][0]
    return failure if isinstance(failure, BaseException) else error
