"""Checkpoints by `torch.distributed.checkpoint`: each rank hands over a part, and all parts become one snapshot.

```python
from torch.distributed import checkpoint as dcp

writer, stager = EbbStorageWriter(checkpointer), EbbStager(checkpointer)
dcp.save(state, checkpoint_id=step, storage_writer=writer)
dcp.async_save(state, checkpoint_id=step, storage_writer=writer, async_stager=stager.at(step))
dcp.load(state, checkpoint_id="latest", storage_reader=EbbStorageReader(checkpointer))
```

`save`, `async_save` and `load` of this module do the same with less to write, and raise Ebb's errors.

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

import dataclasses
import io
import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from ..checkpoint import Checkpointer, Save, Snapshot, _arrays
from ..checkpoint._api import Plan, Step
from ..checkpoint._checkpointer import COMMIT_WAIT_S, PLANS_MAX
from ..checkpoint._image import Shard, align
from ..checkpoint._image_writer import ImageWriter, layout_of
from ..checkpoint._restore import Wanted, fetch
from ..errors import DataCorruptError, DataLostError, NotFoundError, RequestInvalidError, UnsupportedError
from ._metadata import admitted, assert_admitted, decode_metadata, encode_metadata
from ._slices import Runs, runs_of_box, strides_of
from ._staging import StagedState, room_for, stage

__all__ = ["EbbStager", "EbbStorageReader", "EbbStorageWriter", "async_save", "load", "save"]

_log = logging.getLogger("ebb.checkpoint")
METADATA_PART = "dcp-metadata"
_METADATA_SHARD = "metadata"
_SKIP = "skip"
#: Shorter runs are not copied one by one: the bytes from the first to the last are read, and PyTorch picks.
_RUN_BYTES_MIN = 4096
_FEW_RUNS = 64
#: What is read beside its tensor, at a time.
_BESIDE_BYTES = 256 * 1024 * 1024

CheckpointId = Union[int, str, "os.PathLike[str]", None]


class Place(NamedTuple):
    """Where an item lies. In DCP's metadata it is a plain tuple."""

    part: str
    offset: int
    length: int


class _Staged:
    """What `stage` did for a step: a state in a slot, or why there is none."""

    def __init__(self, session: str, state: StagedState | None) -> None:
        self.session = session
        self.state = state
        self.failure: BaseException | None = None

    def discard(self) -> None:
        state, self.state = self.state, None
        if state is not None:
            state.image.abort()


class _Shared:
    """What stagers and writers of a `Checkpointer` share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.staged: dict[int, _Staged] = {}
        #: Saves that this rank coordinates: it alone learns that all went well.
        self.coordinated: list[_Saving] = []
        self.group: Any = None

    def put(self, step: int, staged: _Staged) -> None:
        with self.lock:
            before = self.staged.pop(step, None)
            self.staged[step] = staged
        if before is not None:
            before.discard()

    def take(self, step: int) -> _Staged | None:
        with self.lock:
            return self.staged.pop(step, None)

    def drop(self, step: int, staged: _Staged) -> None:
        """When nobody has the staged state any more: a save that did not come to write it."""
        with self.lock:
            if self.staged.get(step) is not staged:
                return
            del self.staged[step]
        staged.discard()

    def open_group(self) -> Any:
        """For saves behind the job's back: with collectives of the job in between, ranks would meet the wrong ones."""
        if self.group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")
        return self.group


_all_shared: weakref.WeakKeyDictionary[Checkpointer, _Shared] = weakref.WeakKeyDictionary()
_all_shared_lock = threading.Lock()


def _shared(checkpointer: Checkpointer) -> _Shared:
    with _all_shared_lock:
        return _all_shared.setdefault(checkpointer, _Shared())


def _abort_left(checkpointer: Checkpointer, step: int | None = None) -> None:
    """Once more for saves that failed: other ranks may have come with their parts after one had given the snapshot up.

    Args:
        step: that is being saved now.
    """
    shared = _shared(checkpointer)
    with shared.lock:
        left = [one for one in shared.coordinated if one.is_left]
        shared.coordinated = [one for one in shared.coordinated if not one.is_left and not one.is_finished]
    for one in left:
        if one.step != step:
            _abort(checkpointer, one.step, one.session)


def _abort(checkpointer: Checkpointer, step: int, session: str | None) -> None:
    if session is None:
        return
    try:
        checkpointer.api.abort(step, session)
    except Exception as error:
        _log.debug("step %d could not be given up: %s", step, error)


# -- staging ---------------------------------------------------------------------------------------------------------


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
        shared = _shared(self._checkpointer)
        state: dict[str, Any] = dict(state_dict)
        staged = _Staged(self._checkpointer.session, None)

        def begin(session: str) -> tuple[dict[str, Any], StagedState] | None:
            staged.session = session
            return stage(self._checkpointer, step, session, state_dict)

        try:
            _abort_left(self._checkpointer, step)
            done = self._checkpointer.start(step, begin)
            if done is not None:
                state, staged.state = done
        except Exception as error:
            staged.failure = error
        shared.put(step, staged)
        watched = _StateDict(state)
        weakref.finalize(watched, shared.drop, step, staged).atexit = False
        return watched

    def synchronize_staging(self) -> None:
        pass

    def close(self) -> None:
        """Nothing to do: slots belong to the `Checkpointer`."""


# -- writing ---------------------------------------------------------------------------------------------------------


class _Saving:
    """One save of one rank."""

    def __init__(self, step: int, staged: _Staged | None) -> None:
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


class EbbStorageWriter(StorageWriter):
    """Saves to a run. The ``checkpoint_id`` is the step.

    Args:
        checkpointer: one on each rank, of the same run and session.
        step: where no ``checkpoint_id`` is given.
        metadata: texts to be kept with the snapshot; the coordinator's count.
        overwrite: whether a snapshot of the step that is there is replaced.
        weights_only: refuse values that could be loaded only by running code (see `EbbStorageReader`).
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        step: int | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
        weights_only: bool = True,
    ) -> None:
        super().__init__()
        self._checkpointer = checkpointer
        self._step = step
        self._metadata = dict(metadata or {})
        self._overwrite = overwrite
        self._weights_only = weights_only
        self._local = threading.local()
        #: The last that this rank committed.
        self.snapshot: Snapshot | None = None

    # In the order of DCP's calls.

    def reset(self, checkpoint_id: CheckpointId = None) -> None:
        self._local.id = checkpoint_id

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=str(self.checkpoint_id), save_id=self._checkpointer.session)

    @property
    def checkpoint_id(self) -> CheckpointId:
        found: CheckpointId = getattr(self._local, "id", None)
        return self._step if found is None else found

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise UnsupportedError("a save without collectives has no rank that commits for all")
        step = _step_of(self.checkpoint_id)
        if isinstance(step, str):
            raise RequestInvalidError(f'"{step}" names a snapshot that is there: save with a whole number')
        shared = _shared(self._checkpointer)
        _abort_left(self._checkpointer, step)
        saving = _Saving(step, shared.take(step))
        self._local.saving = saving
        if is_coordinator:
            with shared.lock:
                shared.coordinated.append(saving)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        saving = self._saving
        if saving.staged is not None and saving.staged.failure is not None:
            raise saving.staged.failure
        if saving.staged is None and not self._take_slot(saving):
            saving.is_skipped = True
        return _with_data(plan, _SKIP if saving.is_skipped else None)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        if any(plan.storage_data == _SKIP for plan in plans):
            self._saving.is_skipped = True
            return [_with_data(plan, _SKIP) for plan in plans]
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        saving = self._saving
        done: Future[list[WriteResult]] = Future()
        staged = None if saving.staged is None else saving.staged.state
        try:
            if saving.is_skipped or plan.storage_data == _SKIP:
                done.set_result([])
            else:
                done.set_result(self._write(saving, staged, plan.items, planner))
            if staged is not None:
                staged.image.discard()
        except BaseException:
            if staged is not None:
                staged.image.discard()
            self._abort(saving)
            raise
        return done

    def finish(self, metadata: Metadata, results: Sequence[Sequence[WriteResult]]) -> None:
        saving = self._saving
        try:
            if saving.is_skipped:
                _log.warning("step %d of run %s is left out: storing is behind", saving.step, self._checkpointer.run)
                self._abort(saving)
            else:
                self.snapshot = self._commit(saving, metadata, [one for rank in results for one in rank])
        except BaseException:
            self._abort(saving)
            raise
        saving.is_finished = True

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        return _is_step(checkpoint_id)

    # Inside.

    @property
    def _saving(self) -> _Saving:
        found = getattr(self._local, "saving", None)
        if found is None:
            raise RequestInvalidError("set_up_storage_writer comes first, on the same thread")
        assert isinstance(found, _Saving)
        return found

    def _take_slot(self, saving: _Saving) -> bool:
        """Before the plan: whether a save is left out is decided by all ranks. The image's size comes later."""
        owner = self._checkpointer

        def begin(session: str) -> tuple[str, str] | None:
            saving.session = session
            return owner.api.begin(saving.step, session, owner.part, 1, None)

        return owner.start(saving.step, begin) is not None

    def _write(
        self, saving: _Saving, staged: StagedState | None, items: Sequence[WriteItem], planner: SavePlanner
    ) -> list[WriteResult]:
        if not items:
            return []
        found = [self._resolved(item, planner) for item in items]
        shards = None if staged is None else _shards_in_place(staged, items, found)
        if staged is None or shards is None:
            image, shards = self._copied(saving, items, found)
        else:
            image = staged.image
        try:
            for shard, data in zip(shards, found):
                if isinstance(data, memoryview):
                    image.put(shard, data)
            image.seal(layout_of(list(dict.fromkeys(shards))))
            image.commit()
        except BaseException:
            image.discard()
            raise
        return [
            WriteResult(item.index, shard.length, (image.part, shard.offset, shard.length))
            for item, shard in zip(items, shards)
        ]

    def _resolved(self, item: WriteItem, planner: SavePlanner) -> torch.Tensor | memoryview:
        found = planner.resolve_data(item)
        name = item.index.fqn
        if isinstance(found, torch.Tensor):
            assert item.tensor_data is not None, "DCP says what tensors are"
            if found.shape != item.tensor_data.chunk.sizes:
                raise RequestInvalidError(
                    f"{name} is {list(found.shape)} here, and {list(item.tensor_data.chunk.sizes)} in the plan"
                )
            try:
                _arrays.spec_of(found)
            except UnsupportedError as error:
                raise UnsupportedError(f"{name}: {error.message}") from error
            return found.detach()
        data = found.getvalue()
        if self._weights_only:
            lookup = getattr(planner, "lookup_object", None)
            assert_admitted(data, name, lambda: NotImplemented if lookup is None else lookup(item.index))
        return memoryview(data)

    def _copied(
        self, saving: _Saving, items: Sequence[WriteItem], found: Sequence[torch.Tensor | memoryview]
    ) -> tuple[ImageWriter, list[Shard]]:
        """An image of its own, with all tensors in it."""
        shards: list[Shard] = []
        end = 0
        for item, data in zip(items, found):
            shards.append(_shard_of(item, align(end), data))
            end = shards[-1].offset + shards[-1].length
        image = self._open(saving, layout_of(shards).image_bytes)
        try:
            image.write((shard, data) for shard, data in zip(shards, found) if isinstance(data, torch.Tensor))
        except BaseException:
            image.discard()
            raise
        return image, shards

    def _commit(self, saving: _Saving, metadata: Metadata, results: Sequence[WriteResult]) -> Snapshot:
        metadata.storage_data = {one.index: tuple(one.storage_data) for one in results}
        metadata.storage_meta = self.storage_meta()
        text = encode_metadata(metadata)
        shard = Shard(_METADATA_SHARD, 0, len(text))
        layout = layout_of([shard])
        image = self._open(saving, layout.image_bytes, METADATA_PART)
        try:
            image.put(shard, text)
            image.seal(layout)
            image.commit()
        except BaseException:
            image.discard()
            raise
        parts = [*sorted({one.storage_data[0] for one in results}), METADATA_PART]
        return self._checkpointer.api.commit(
            image.step, image.session, parts, self._metadata, self._overwrite, COMMIT_WAIT_S
        )

    def _open(self, saving: _Saving, room_bytes: int, part: str | None = None) -> ImageWriter:
        assert saving.session is not None, "the slot is taken"
        image = ImageWriter.open(self._checkpointer, saving.step, saving.session, room_bytes, part=part)
        assert image is not None, "the slot is taken"
        return image

    def _abort(self, saving: _Saving) -> None:
        _abort(self._checkpointer, saving.step, saving.session)


def _shards_in_place(
    staged: StagedState, items: Sequence[WriteItem], found: Sequence[torch.Tensor | memoryview]
) -> list[Shard] | None:
    """None when a tensor lies elsewhere, or not all fits: the planner made new ones."""
    shards: dict[int, Shard] = {}
    known: dict[tuple[int, int], Shard] = {}
    for n, (item, data) in enumerate(zip(items, found)):
        if isinstance(data, torch.Tensor):
            offset = 0 if data.numel() == 0 else staged.find(data)
            if offset is None:
                return None
            shard = _shard_of(item, offset, data)
            # Tied tensors have one place, which the table names once.
            shards[n] = shard if shard.length == 0 else known.setdefault((offset, shard.length), shard)
    end = 0
    for shard in sorted(known.values(), key=lambda one: one.offset):
        if shard.offset < end:
            return None
        end = shard.offset + shard.length
    for n, (item, data) in enumerate(zip(items, found)):
        if n not in shards:
            shards[n] = _shard_of(item, align(end), data)
            end = shards[n].offset + shards[n].length
    placed = [shards[n] for n in range(len(items))]
    return placed if layout_of(placed).image_bytes <= staged.image.room_bytes else None


def _shard_of(item: WriteItem, offset: int, data: torch.Tensor | memoryview) -> Shard:
    if not isinstance(data, torch.Tensor):
        return Shard(item.index.fqn, offset, len(data))
    spec = _arrays.spec_of(data)
    assert item.tensor_data is not None, "DCP says what tensors are"
    whole, start = tuple(item.tensor_data.size), tuple(item.tensor_data.chunk.offsets)
    is_piece = item.type == WriteItemType.SHARD and whole != spec.shape
    piece = (whole, start) if is_piece else (None, None)
    return Shard(item.index.fqn, offset, spec.nbytes, spec.dtype, spec.shape, *piece)


def _with_data(plan: SavePlan, data: str | None) -> SavePlan:
    return dataclasses.replace(plan, storage_data=data)


# -- reading ---------------------------------------------------------------------------------------------------------


class _Beside(NamedTuple):
    """A tensor that cannot be read into as it is: its bytes come to `host`, of which `view` is what is wanted."""

    target: torch.Tensor
    view: torch.Tensor
    wanted: list[Wanted]
    part: str
    host_bytes: int


class EbbStorageReader(StorageReader):
    """Loads a snapshot of a run on any number of ranks: each reads what its own tensors need, and compares it.

    The ``checkpoint_id`` is a step, or ``"latest"``.

    Args:
        step: where no ``checkpoint_id`` is given.
        weights_only: load values that are no tensors by PyTorch's loader of weights, which runs no code. With False
            they are unpickled, as DCP does otherwise: for checkpoints that you trust.
    """

    def __init__(self, checkpointer: Checkpointer, step: Step = "latest", *, weights_only: bool = True) -> None:
        super().__init__()
        self._checkpointer = checkpointer
        self._step = step
        self._weights_only = weights_only
        self._plan: Plan | None = None
        self._metadata: Metadata | None = None

    def reset(self, checkpoint_id: CheckpointId = None) -> None:
        self._plan = self._metadata = None
        if checkpoint_id is not None:
            self._step = _step_of(checkpoint_id)

    @property
    def checkpoint_id(self) -> CheckpointId:
        return self._step

    def open(self) -> int:
        """Chooses the snapshot, and reads its metadata; the step.

        Raises:
            NotFoundError: no such snapshot.
            UnsupportedError: it was not saved by DCP.
            DataCorruptError, DataLostError
        """
        if self._plan is None or self._metadata is None:
            owner = self._checkpointer
            plan = owner.api.plan(self._step)
            part = plan.parts.get(METADATA_PART)
            if part is None:
                raise UnsupportedError(
                    f"step {plan.snapshot.step} of run {owner.run} was not saved by torch.distributed.checkpoint: "
                    "restore it by what saved it"
                )
            self._plan = plan
            try:
                self._metadata = decode_metadata(self._read_bytes(METADATA_PART, part.by_name[_METADATA_SHARD]))
            except (DataCorruptError, DataLostError) as error:
                raise owner.with_fallback(error, plan.snapshot.step) from error
        return self._opened.snapshot.step

    def read_metadata(self, *args: Any, **_: Any) -> Metadata:
        self.open()
        assert self._metadata is not None, "it was read"
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._metadata = metadata

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        snapshot = self._opened.snapshot
        plan.storage_data = (snapshot.step, snapshot.session)
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        chosen = sorted({plan.storage_data for plan in plans})
        if len(chosen) > 1:
            steps = ", ".join(str(step) for step, _ in chosen)
            raise RequestInvalidError(f"ranks found different snapshots ({steps}): say which step to load")
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """
        Raises:
            DataCorruptError, DataLostError: bytes that are not what was saved, and no other copy; `fallback` in
                details is the newest older step.
        """
        try:
            self._read(plan.items, planner)
        except (DataCorruptError, DataLostError) as error:
            raise self._checkpointer.with_fallback(error, self._opened.snapshot.step) from error
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: CheckpointId) -> bool:
        return _is_step(checkpoint_id)

    # Inside.

    @property
    def _opened(self) -> Plan:
        if self._plan is None:
            raise RequestInvalidError("read_metadata comes first")
        return self._plan

    def _read(self, items: Sequence[ReadItem], planner: LoadPlanner) -> None:
        direct: dict[str, list[Wanted]] = {}
        beside: list[tuple[ReadItem, _Beside]] = []
        values: list[tuple[ReadItem, bytearray]] = []
        targets: list[tuple[ReadItem, torch.Tensor]] = []
        for item in items:
            place = self._place(item.storage_index)
            if item.type == LoadItemType.BYTE_IO:
                data = bytearray(place.length)
                values.append((item, data))
                wanted = Wanted(place.offset, place.length, _arrays.address(_bytes_array(data)))
                direct.setdefault(place.part, []).append(wanted)
                continue
            target = planner.resolve_tensor(item)
            runs, dtype, sizes = self._runs(item, place)
            if tuple(target.shape) != tuple(item.lengths):
                name = item.dest_index.fqn
                raise RequestInvalidError(f"{name} has room for {list(target.shape)}, not {list(item.lengths)}")
            if not runs.offsets:
                planner.commit_tensor(item, target)
                continue
            address = _arrays.address_of(target.detach()) if target.dtype == dtype else None
            if address is not None and _are_few(runs):
                direct.setdefault(place.part, []).extend(_wanted(runs, place, address))
                targets.append((item, target))
            else:
                beside.append((item, _read_beside(item, place, runs, target, dtype, sizes)))
        for part, wanted_there in direct.items():
            self._fetch(part, wanted_there)
        for item, target in targets:
            planner.commit_tensor(item, target)
        for item, data in values:
            name = item.storage_index.fqn
            planner.load_bytes(item, admitted(bytes(data), name) if self._weights_only else _stream(data))
        self._copy_beside(beside, planner)

    def _copy_beside(self, items: Sequence[tuple[ReadItem, _Beside]], planner: LoadPlanner) -> None:
        """A few at a time: with all of them, the state would be in memory twice."""
        batch: list[tuple[ReadItem, _Beside]] = []
        size = 0
        for n, (item, one) in enumerate(items):
            batch.append((item, one))
            size += one.host_bytes
            if size < _BESIDE_BYTES and n + 1 < len(items):
                continue
            by_part: dict[str, list[Wanted]] = {}
            for _, of in batch:
                by_part.setdefault(of.part, []).extend(of.wanted)
            for part, wanted in by_part.items():
                self._fetch(part, wanted)
            for filled, of in batch:
                with torch.no_grad():
                    of.target.copy_(of.view)
                planner.commit_tensor(filled, of.target)
            batch, size = [], 0

    def _place(self, index: MetadataIndex) -> Place:
        assert self._metadata is not None, "it was read"
        found = (self._metadata.storage_data or {}).get(index)
        if found is None:
            raise DataCorruptError(f"{index.fqn} has no place in the checkpoint", {"name": index.fqn})
        place = Place(*found)
        part = self._opened.parts.get(place.part)
        if part is None or place.offset + place.length > part.image_bytes:
            raise DataCorruptError(f"{index.fqn} does not lie in the checkpoint", {"name": index.fqn})
        return place

    def _runs(self, item: ReadItem, place: Place) -> tuple[Runs, torch.dtype, tuple[int, ...]]:
        """What of a stored chunk is asked for: where, and the chunk's dtype and sizes."""
        assert self._metadata is not None, "it was read"
        index = item.storage_index
        stored = self._metadata.state_dict_metadata.get(index.fqn)
        if not isinstance(stored, TensorStorageMetadata):
            raise DataCorruptError(f"{index.fqn} is no tensor in the checkpoint", {"name": index.fqn})
        hint = index.index
        chunks = stored.chunks
        chunk = chunks[hint] if hint is not None and hint < len(chunks) else None
        if chunk is None or chunk.offsets != index.offset:
            chunk = next((one for one in chunks if one.offsets == index.offset), None)
        sizes = () if chunk is None else tuple(chunk.sizes)
        item_bytes = stored.properties.dtype.itemsize
        if chunk is None or place.length != chunk.sizes.numel() * item_bytes:
            raise DataCorruptError(f"{index.fqn} has not the size that it says", {"name": index.fqn})
        return (
            runs_of_box(sizes, item.storage_offsets, item.lengths, item_bytes),
            stored.properties.dtype,
            sizes,
        )

    def _fetch(self, part: str, wanted: Sequence[Wanted]) -> None:
        owner = self._checkpointer
        for left in range(PLANS_MAX, 0, -1):
            plan = self._opened
            try:
                fetch(owner.client, plan.parts[part], wanted, owner.copier, slots=owner.slots, verify=owner.verify)
                return
            except NotFoundError:
                if left == 1:
                    raise
            again = owner.api.plan(plan.snapshot.step)
            if again.snapshot.session != plan.snapshot.session:
                raise NotFoundError(
                    f"another snapshot of step {plan.snapshot.step} took the place of the one being read"
                )
            self._plan = again

    def _read_bytes(self, part: str, shard: Shard) -> bytes:
        data = bytearray(shard.length)
        self._fetch(part, [Wanted(shard.offset, shard.length, _arrays.address(_bytes_array(data)))])
        return bytes(data)


def _bytes_array(data: bytearray) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, np.uint8)


def _stream(data: bytearray) -> io.BytesIO:
    return io.BytesIO(data)


def _are_few(runs: Runs) -> bool:
    return runs.length >= _RUN_BYTES_MIN or len(runs.offsets) <= _FEW_RUNS


def _wanted(runs: Runs, place: Place, address: int) -> list[Wanted]:
    return [
        Wanted(place.offset + offset, runs.length, address + n * runs.length) for n, offset in enumerate(runs.offsets)
    ]


def _read_beside(
    item: ReadItem, place: Place, runs: Runs, target: torch.Tensor, dtype: torch.dtype, sizes: Sequence[int]
) -> _Beside:
    lengths = tuple(item.lengths)
    if _are_few(runs):
        host = torch.empty(lengths, dtype=dtype)
        return _Beside(target, host, _wanted(runs, place, host.data_ptr()), place.part, host.nbytes)
    first, end = runs.span
    host = torch.empty((end - first) // dtype.itemsize, dtype=dtype)
    view = host.as_strided(lengths, strides_of(sizes))
    wanted = [Wanted(place.offset + first, end - first, host.data_ptr())]
    return _Beside(target, view, wanted, place.part, host.nbytes)


# -- all of it -------------------------------------------------------------------------------------------------------


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
    checkpointer.raise_failure()
    shared = _shared(checkpointer)
    group = shared.open_group()
    plain = {key: value.state_dict() if isinstance(value, Stateful) else value for key, value in state.items()}
    staged = [EbbStager(checkpointer, step).stage(plain)]
    writer = EbbStorageWriter(checkpointer, step, metadata=metadata, overwrite=overwrite)

    def work() -> Snapshot | None:
        try:
            state_dict_saver.save(staged.pop(), storage_writer=writer, planner=planner, process_group=group)
        except CheckpointException as error:
            _abort_left(checkpointer)
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
    group = _shared(checkpointer).open_group()
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


def _step_of(checkpoint_id: CheckpointId) -> int | str:
    if not _is_step(checkpoint_id):
        raise RequestInvalidError(f'{checkpoint_id!r} is no step: use a whole number, or "latest"')
    text = str(checkpoint_id)
    return text if text == "latest" else int(text)


def _is_step(checkpoint_id: CheckpointId) -> bool:
    text = str(checkpoint_id)
    return text == "latest" or (text.isascii() and text.isdigit())
