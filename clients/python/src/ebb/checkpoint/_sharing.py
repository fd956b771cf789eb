"""Arrays of a state that lie on each other, or whose elements do: their memory becomes one shard, and they views of it.

So an expanded tensor takes the bytes that it has, and what shared memory when it was saved shares it when it comes
back. Arrays that only lie beside each other in one allocation, as parameters in a flat buffer do, are shards each.

I1  Two arrays are views of one shard if they have an element in common; others may be where that is hard to know.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UnsupportedError
from . import _arrays
from ._tree import View, unused
from ._values import dtype_of

#: Memory that two arrays span is saved whole: beyond this share of what they have, they are refused.
_SPAN_MAX = 4
_SPAN_BYTES_MAX = 1024 * 1024
#: Where more arrays lie between each other, they are not compared one by one.
_COMPARED_MAX = 32
_COMPARE_WORK_MAX = 10_000
_TooHardError: type[Exception] = getattr(np, "exceptions", np).TooHardError


class _Memory(NamedTuple):
    name: str
    array: Any
    device: str
    low: int
    high: int
    item_bytes: int
    nbytes: int
    #: Its elements lie row by row, without gaps.
    is_dense: bool

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return _strides(self.array, self.item_bytes)


def share(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, View]]:
    """The arrays to be written, by the names of their shards, and the views of them.

    Raises:
        UnsupportedError: names arrays that lie on each other in a way that cannot be kept.
    """
    shards = dict(arrays)
    views: dict[str, View] = {}
    memories = [_memory_of(name, array) for name, array in arrays.items() if _has_memory(array)]
    for group in _groups(memories):
        low, high = min(one.low for one in group), max(one.high for one in group)
        _assert_can_share(group, high - low)
        low -= _step_back(group, low)
        whole = next((one for one in group if _is_whole(one, low, high)), None)
        base = unused(f"{group[0].name}#memory", shards) if whole is None else whole.name
        memory = _bytes_of(group, low, high) if whole is None else whole.array
        for one in group:
            del shards[one.name]
            views[one.name] = View(base, _start(one) - low, _dtype_name(one.array), tuple(one.array.shape), one.strides)
        shards[base] = memory
    return shards, views


def assert_apart(arrays: Mapping[str, Any], buffers: Mapping[str, bytearray]) -> None:
    """
    Raises:
        UnsupportedError: names an array that lies in a bytearray of the state: they would not share memory any more.
    """
    if not any(buffers.values()):
        return
    spans: list[tuple[int, int, str, bool]] = []
    for name, array in arrays.items():
        if _has_memory(array):
            memory = _memory_of(name, array)
            if memory.device == "cpu":
                spans.append((memory.low, memory.high, name, False))
    for name, buffer in buffers.items():
        if buffer:
            low = _arrays.address(np.frombuffer(buffer, np.uint8))
            spans.append((low, low + len(buffer), name, True))
    reach: dict[bool, tuple[int, str]] = {True: (0, ""), False: (0, "")}
    for low, high, name, is_buffer in sorted(spans):
        end, other = reach[not is_buffer]
        if low < end:
            array_name, buffer_name = (other, name) if is_buffer else (name, other)
            raise UnsupportedError(
                f"{array_name} lies in the bytearray {buffer_name}, and they would share no memory when they come "
                "back: save one of them, or a copy"
            )
        reach[is_buffer] = max(reach[is_buffer], (high, name))


def _has_memory(array: Any) -> bool:
    return _arrays.kind_of(array) != _arrays.JAX and 0 not in array.shape


def _memory_of(name: str, array: Any) -> _Memory:
    shape = array.shape
    if _arrays.kind_of(array) == _arrays.TORCH:
        start, item_bytes, is_dense = array.data_ptr(), array.element_size(), array.is_contiguous()
        device = "cpu" if array.is_cpu else str(array.device)
    else:
        start, item_bytes, is_dense = _arrays.address(array), array.itemsize, array.flags.c_contiguous
        device = "cpu"
    nbytes = math.prod(shape) * item_bytes
    low, high = start, start + nbytes
    if not is_dense:
        low, high = _arrays.extent(start, shape, _strides(array, item_bytes), item_bytes)
    return _Memory(name, array, device, low, high, item_bytes, nbytes, is_dense)


def _strides(array: Any, item_bytes: int) -> tuple[int, ...]:
    if _arrays.kind_of(array) == _arrays.TORCH:
        return tuple(stride * item_bytes for stride in array.stride())
    return tuple(array.strides)


def _start(one: _Memory) -> int:
    is_torch = _arrays.kind_of(one.array) == _arrays.TORCH
    return int(one.array.data_ptr()) if is_torch else _arrays.address(one.array)


def _groups(memories: list[_Memory]) -> Iterator[list[_Memory]]:
    """Those that have to be views of one shard."""
    memories.sort(key=lambda one: (one.device, one.low, one.high))
    cluster: list[_Memory] = []
    high = 0
    for one in memories:
        if cluster and (one.device != cluster[0].device or one.low >= high):
            if _is_group(cluster):
                yield cluster
            cluster, high = [], 0
        cluster.append(one)
        high = max(high, one.high)
    if cluster and _is_group(cluster):
        yield cluster


def _is_group(cluster: Sequence[_Memory]) -> bool:
    if len(cluster) == 1:
        return _overlaps_itself(cluster[0])
    if len(cluster) > _COMPARED_MAX or any(_overlaps_itself(one) for one in cluster):
        return True
    elements = [_elements(one) for one in cluster]
    return any(_share(one, other) for n, one in enumerate(elements) for other in elements[:n])


def _overlaps_itself(one: _Memory) -> bool:
    return not one.is_dense and _arrays.overlaps_itself(tuple(one.array.shape), one.strides, one.item_bytes)


class _Addresses(_arrays.LookedUpMemory):
    """Where elements lie, for NumPy's arithmetic: nothing is read there."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface
        #: Whose memory it is.
        self.kept: Sequence[_Memory] = ()

    def assert_there(self) -> None:
        """
        Raises:
            UnsupportedError: the memory of one of them was freed since, or lies elsewhere.
        """
        for one in self.kept:
            _arrays.address_of(one.array)
            now = _memory_of(one.name, one.array)
            if (now.low, now.high) != (one.low, one.high):
                raise UnsupportedError(f"the memory of {one.name} is another one than when it was looked at")


def _elements(one: _Memory) -> np.ndarray[Any, Any]:
    shape = tuple(one.array.shape)
    row = {"data": (_start(one), True), "shape": shape, "strides": one.strides, "typestr": f"|V{one.item_bytes}"}
    return np.asarray(_Addresses({**row, "version": 3}))


def _share(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    try:
        return bool(np.shares_memory(one, other, max_work=_COMPARE_WORK_MAX))
    except _TooHardError:
        return True


def _assert_can_share(group: Sequence[_Memory], span: int) -> None:
    names = " and ".join(one.name for one in group[:3]) + (" …" if len(group) > 3 else "")
    for one in group:
        if _arrays.kind_of(one.array) == _arrays.TORCH and (one.array.is_conj() or one.array.is_neg()):
            raise UnsupportedError(
                f"{one.name} is a conjugate or negative view and shares its memory in {names}: save resolve_conj() or "
                "resolve_neg() of it"
            )
    if span > max(_SPAN_BYTES_MAX, _SPAN_MAX * sum(min(one.nbytes, one.high - one.low) for one in group)):
        raise UnsupportedError(
            f"{names} share memory that spans {span} bytes, far more than their elements: save copies of them"
        )


def _is_whole(one: _Memory, low: int, high: int) -> bool:
    """Whether it is all of the memory, row by row, so that its shard is what its name says."""
    if one.low != low or one.high != high:
        return False
    if not one.is_dense or _arrays.kind_of(one.array) == _arrays.TORCH:
        return one.is_dense
    dtype = one.array.dtype
    return bool(dtype.isnative and dtype.kind in "biufc")


def _step_back(group: Sequence[_Memory], low: int) -> int:
    """PyTorch has views at multiples of their elements from the start of a storage."""
    most = max(one.item_bytes for one in group)
    back = 0
    for one in group:
        if _arrays.kind_of(one.array) == _arrays.TORCH and (_start(one) - low) % one.item_bytes:
            storage = one.array.untyped_storage().data_ptr()
            if low < storage:
                raise UnsupportedError(f"{one.name} shares memory in a way that cannot be made again: save a copy")
            back = (low - storage) % most
    return back


def _bytes_of(group: Sequence[_Memory], low: int, high: int) -> Any:
    """The memory as one array; of their dtype where they have one, and the memory is whole elements of it."""
    first = group[0]
    if first.device != "cpu":
        torch = sys.modules["torch"]
        storage = first.array.untyped_storage()
        whole = torch.empty(0, dtype=torch.uint8, device=first.array.device)
        return whole.set_(storage, low - storage.data_ptr(), (high - low,), (1,))
    typestr = "|u1"
    names = {_dtype_name(one.array) for one in group}
    ends = (high, *(one.low for one in group))
    if len(names) == 1 and all((end - low) % first.item_bytes == 0 for end in ends):
        with contextlib.suppress(TypeError):
            dtype = np.dtype(names.pop())
            typestr = dtype.str if dtype.kind in "biufc" and dtype.isnative else typestr
    row = {"data": (low, True), "shape": ((high - low) // int(typestr[2:]),), "typestr": typestr, "version": 3}
    addresses = _Addresses(row)
    addresses.kept = group
    return np.asarray(addresses)


def _dtype_name(array: Any) -> str:
    if _arrays.kind_of(array) == _arrays.TORCH:
        return str(array.dtype).removeprefix("torch.")
    return _arrays.dtype_text(array.dtype) if array.dtype.kind in "biufcmM" else str(array.dtype.name)


def view_of(memory: np.ndarray[Any, Any], view: View, kind: str) -> Any:
    """The view of a shard's bytes (``uint8``, one dimension)."""
    if kind == _arrays.TORCH and _arrays.is_here(_arrays.TORCH):
        import torch

        dtype = getattr(torch, view.dtype)
        whole = _arrays.wrap(_arrays.TORCH, memory, "uint8", (memory.size,))
        strides = tuple(stride // dtype.itemsize for stride in view.strides)
        made = torch.empty(0, dtype=dtype)
        return made.set_(whole.untyped_storage(), view.offset // dtype.itemsize, view.shape, strides)
    dtype = dtype_of(view.dtype)
    return np.ndarray(view.shape, dtype, memory, view.offset, view.strides)
