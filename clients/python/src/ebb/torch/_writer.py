"""The writer that DCP calls: one part of each rank, and the snapshot of all of them (I2 to I6 of dcp.py)."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from ..checkpoint import Checkpointer, Snapshot, _arrays
from ..checkpoint._image import Shard, align
from ..checkpoint._image_writer import ImageWriter, layout_of
from ..errors import RequestInvalidError, UnsupportedError
from ._metadata import assert_admitted, encode_metadata
from ._names import METADATA_PART, METADATA_SHARD, TIED_SHARD, CheckpointId, is_step, step_of
from ._saves import Saving, abort, abort_left, shared_of
from ._staging import StagedState, arrived, spec_of

_log = logging.getLogger("ebb.checkpoint")
_SKIP = "skip"


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
        step = step_of(self.checkpoint_id)
        if isinstance(step, str):
            raise RequestInvalidError(f'"{step}" names a snapshot that is there: save with a whole number')
        shared = shared_of(self._checkpointer)
        abort_left(self._checkpointer, step)
        saving = Saving(step, shared.take(step))
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
        return is_step(checkpoint_id)

    # Inside.

    @property
    def _saving(self) -> Saving:
        found = getattr(self._local, "saving", None)
        if found is None:
            raise RequestInvalidError("set_up_storage_writer comes first, on the same thread")
        assert isinstance(found, Saving)
        return found

    def _take_slot(self, saving: Saving) -> bool:
        """Before the plan: whether a save is left out is decided by all ranks. The image's size comes later."""
        owner = self._checkpointer

        def begin(session: str) -> tuple[str, str] | None:
            saving.session = session
            return owner.api.begin(saving.step, session, owner.part, 1, None)

        return owner.start(saving.step, begin) is not None

    def _write(
        self, saving: Saving, staged: StagedState | None, items: Sequence[WriteItem], planner: SavePlanner
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
            WriteResult(item.index, shard.length, (image.part, shard.offset, shard.length, image.key))
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
            found = arrived(found)
            spec_of(name, found)
            return found.detach()
        data = found.getvalue()
        if self._weights_only:
            lookup = getattr(planner, "lookup_object", None)
            assert_admitted(data, name, lambda: NotImplemented if lookup is None else lookup(item.index))
        return memoryview(data)

    def _copied(
        self, saving: Saving, items: Sequence[WriteItem], found: Sequence[torch.Tensor | memoryview]
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

    def _commit(self, saving: Saving, metadata: Metadata, results: Sequence[WriteResult]) -> Snapshot:
        # The image's key is for the commit alone. Ranks of an earlier version say none.
        images = {one.storage_data[0]: key for one in results for key in one.storage_data[3:]}
        metadata.storage_data = {one.index: tuple(one.storage_data[:3]) for one in results}
        metadata.storage_meta = self.storage_meta()
        text = encode_metadata(metadata)
        shard = Shard(METADATA_SHARD, 0, len(text))
        tied = _tied(results)
        other = [Shard(TIED_SHARD, align(len(text)), len(tied))] if tied else []
        layout = layout_of([shard, *other])
        image = self._open(saving, layout.image_bytes, METADATA_PART)
        try:
            image.put(shard, text)
            for one in other:
                image.put(one, tied)
            image.seal(layout)
            image.commit()
        except BaseException:
            image.discard()
            raise
        parts = [*sorted({one.storage_data[0] for one in results}), METADATA_PART]
        images[METADATA_PART] = image.key
        return self._checkpointer.api.commit(
            image.step, image.session, parts, self._metadata, self._overwrite, images=images
        )

    def _open(self, saving: Saving, room_bytes: int, part: str | None = None) -> ImageWriter:
        assert saving.session is not None, "the slot is taken"
        image = ImageWriter.open(self._checkpointer, saving.step, saving.session, room_bytes, part=part)
        assert image is not None, "the slot is taken"
        return image

    def _abort(self, saving: Saving) -> None:
        abort(self._checkpointer, saving.step, saving.session)


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


def _tied(results: Sequence[WriteResult]) -> bytes:
    """Names that have no shard of their own, for readers of images that do not unpickle DCP's metadata."""
    firsts: dict[tuple[str, int, int], str] = {}
    others: dict[str, list[str]] = {}
    for one in results:
        part, offset, length = one.storage_data[:3]
        first = firsts.setdefault((part, offset, length), one.index.fqn) if length > 0 else one.index.fqn
        if first != one.index.fqn:
            others[one.index.fqn] = ["array", first, _arrays.TORCH]
    return json.dumps(others, separators=(",", ":")).encode() if others else b""


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
