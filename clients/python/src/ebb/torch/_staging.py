"""Copies what a rank has of a state into a slot, and gives the state back with views of the slot for its tensors.

I1  When `stage` has returned, the state may change: every tensor is copied, and every value that could change.
I2  Tensors that share all their memory (tied weights) are copied once, and are one view's memory again.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
import torch
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard as LocalShard
from torch.distributed.tensor import DTensor

from ..checkpoint import _arrays
from ..checkpoint._image import FOOTER_BYTES, Shard, align
from ..checkpoint._image_writer import ImageWriter
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from ..checkpoint import Checkpointer

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size, torch.device)
#: Room in the table for a shard, beside its name and what each dimension takes; and for a value as DCP writes it.
_ROW_BYTES = 256
_DIMENSION_BYTES = 64
_VALUE_BYTES = 4096
#: By which DCP knows a plain tensor for shards of a larger one.
_SHARD_ATTRIBUTES = ("global_shape", "global_offsets", "local_offsets", "local_sizes")


class StagedState:
    """What of a state lies in a slot."""

    def __init__(self, image: ImageWriter) -> None:
        self.image = image

    def find(self, tensor: torch.Tensor) -> int | None:
        """Where the tensor's bytes lie in the image; None: elsewhere, or not so that they could be a shard there."""
        address = _arrays.address_of(tensor)
        if address is None:
            return None
        offset = address - self.image.address
        size = tensor.numel() * tensor.element_size()
        is_inside = offset >= 0 and offset + size <= self.image.room_bytes
        return offset if is_inside and offset == align(offset) else None


def stage(
    owner: Checkpointer, step: int, session: str, state: Mapping[str, Any]
) -> tuple[dict[str, Any], StagedState] | None:
    """None: the run leaves the snapshot out.

    Raises:
        UnsupportedError: a tensor that checkpoints do not take; names it.
        BusyError, TierFullError: no slot, no memory.
    """
    shards, sources, room_bytes = _lay_out(state)
    image = ImageWriter.open(owner, step, session, room_bytes)
    if image is None:
        return None
    try:
        image.write(sources)
        view = _arrays.wrapper(_arrays.TORCH, np.frombuffer(image.view, np.uint8))

        def staged(tensor: torch.Tensor) -> torch.Tensor:
            shard = shards[_arrays.identity(tensor)]
            assert shard.dtype is not None, "it is a tensor"
            found: torch.Tensor = view(shard.offset, shard.length, shard.dtype, shard.shape or ())
            for name in _SHARD_ATTRIBUTES:
                if hasattr(tensor, name):
                    setattr(found, name, getattr(tensor, name))
            return found

        return {key: _rebuilt(value, staged) for key, value in state.items()}, StagedState(image)
    except BaseException:
        image.abort()
        raise


def room_for(state: Mapping[str, Any]) -> int:
    """Bytes of the image that `stage` takes for such a state. Raises as that."""
    return _lay_out(state)[2]


def _lay_out(state: Mapping[str, Any]) -> tuple[dict[Hashable, Shard], list[tuple[Shard, torch.Tensor]], int]:
    """Where the tensors go, by their memory; what goes there; the room for all."""
    shards: dict[Hashable, Shard] = {}
    sources: list[tuple[Shard, torch.Tensor]] = []
    end = 0
    table_bytes = 0
    for path, tensor in _tensors(state, ()):
        spec = spec_of(".".join(path), tensor)
        table_bytes += _ROW_BYTES + 2 * len(".".join(path)) + _DIMENSION_BYTES * len(spec.shape)
        key = _arrays.identity(tensor)
        if key in shards:
            continue
        shards[key] = Shard("", align(end), spec.nbytes, spec.dtype, spec.shape)
        sources.append((shards[key], tensor))
        end = align(end) + spec.nbytes
    return shards, sources, align(end) + table_bytes + _bytes_of_values(state) + _VALUE_BYTES + FOOTER_BYTES


def _tensors(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """What this rank has itself of all tensors that DCP finds in a state: those in dicts and lists."""
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            yield from _tensors(shard.tensor, path)
    elif isinstance(value, DTensor):
        yield path, _local(value)
    elif isinstance(value, torch.Tensor):
        yield path, arrived(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(one, (*path, str(key)))
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from _tensors(one, (*path, str(n)))


def _rebuilt(value: Any, staged: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, ShardedTensor):
        shards = [LocalShard(_rebuilt(one.tensor, staged), one.metadata) for one in value.local_shards()]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, value.metadata(), process_group=value._process_group, init_rrefs=False
        )
    if isinstance(value, DTensor):
        # Not `from_local`: that would move it to the mesh's device.
        make: Any = DTensor
        return make(staged(_local(value)), value._spec, requires_grad=False)
    if isinstance(value, torch.Tensor):
        return staged(arrived(value))
    if isinstance(value, Mapping):
        return {key: _rebuilt(one, staged) for key, one in value.items()}
    if isinstance(value, list):
        return [_rebuilt(one, staged) for one in value]
    return _frozen(value)


def _frozen(value: Any) -> Any:
    """A copy that nobody changes any more, of what DCP writes as a value."""
    if isinstance(value, _IMMUTABLE):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if type(value) is tuple:
        return tuple(_frozen(one) for one in value)
    if type(value) in (dict, list):
        return {k: _frozen(v) for k, v in value.items()} if type(value) is dict else [_frozen(v) for v in value]
    return copy.deepcopy(value)


def _bytes_of_values(value: Any) -> int:
    """Room for all that is no tensor. A guess: what does not fit is noticed, and takes another image."""
    if isinstance(value, (torch.Tensor, ShardedTensor)):
        return 0
    if isinstance(value, Mapping):
        return sum(_bytes_of_values(one) for one in value.values())
    if isinstance(value, list):
        return sum(_bytes_of_values(one) for one in value)
    size = _VALUE_BYTES + _ROW_BYTES
    if isinstance(value, (str, bytes)):
        return size + 4 * len(value)
    if isinstance(value, _IMMUTABLE):
        return size
    try:
        return size + 2 * len(pickle.dumps(value))
    except Exception:
        return size


def spec_of(name: str, tensor: torch.Tensor) -> _arrays.Spec:
    """
    Raises:
        UnsupportedError: names the tensor, and says what to save instead.
    """
    if hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor):
        try:
            parts = " and ".join(f'"{name}.{part}"' for part in tensor.__tensor_flatten__()[0])
        except Exception:
            parts = "tensors of its own"
        raise UnsupportedError(
            f"{name} is a {type(tensor).__qualname__}, which consists of other tensors: put those into the state as "
            f"{parts}, and make it of them after the load, or save a plain copy (dequantized, say)"
        )
    try:
        return _arrays.spec_of(tensor)
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {error.message}") from error


def arrived(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, where a collective is still bringing it (a redistribution that nobody has waited for)."""
    if isinstance(tensor, AsyncCollectiveTensor):
        waited: torch.Tensor = tensor.wait()
        return waited
    return tensor


def _local(tensor: DTensor) -> torch.Tensor:
    with torch.no_grad():
        return arrived(tensor.to_local())
