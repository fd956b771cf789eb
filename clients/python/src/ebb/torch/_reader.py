"""The reader that DCP calls: each rank fetches the bytes that its own tensors need (I5 of dcp.py)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from ..checkpoint import Checkpointer, _arrays
from ..checkpoint._api import Plan, Step
from ..checkpoint._checkpointer import PLANS_MAX
from ..checkpoint._image import Shard
from ..checkpoint._restore import OUTDATED, Wanted, fetch
from ..errors import DataCorruptError, DataLostError, NotFoundError, RequestInvalidError, UnsupportedError
from ._metadata import admitted, decode_metadata
from ._names import METADATA_PART, METADATA_SHARD, CheckpointId, Place, is_step, step_of
from ._slices import Runs, runs_of_box, strides_of

#: Shorter runs are not copied one by one: the bytes from the first to the last are read, and PyTorch picks.
_RUN_BYTES_MIN = 4096
_FEW_RUNS = 64
#: What is read beside its tensor, at a time.
_BESIDE_BYTES = 256 * 1024 * 1024


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
            self._step = step_of(checkpoint_id)

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
                self._metadata = decode_metadata(self._read_bytes(METADATA_PART, part.by_name[METADATA_SHARD]))
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
        return is_step(checkpoint_id)

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
            address = _address_of(item.dest_index.fqn, target, dtype)
            if address is not None and _are_few(runs):
                direct.setdefault(place.part, []).extend(_wanted(runs, place, address))
                targets.append((item, target))
            else:
                beside.append((item, _read_beside(item, place, runs, target, dtype, sizes)))
        try:
            for part, wanted_there in direct.items():
                self._fetch(part, wanted_there)
        finally:
            _arrays.mark_written([target for _, target in targets])
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
        if part is None or not 0 <= place.offset <= place.offset + place.length <= part.image_bytes:
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
            except OUTDATED as error:
                if left == 1:
                    raise DataLostError(error.message, error.details) from error
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


def _address_of(name: str, target: torch.Tensor, dtype: torch.dtype) -> int | None:
    """Where bytes of this dtype can be read to; None: beside the tensor first."""
    try:
        address = _arrays.address_of(target.detach())
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {error.message}") from error
    return address if target.dtype == dtype else None


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
