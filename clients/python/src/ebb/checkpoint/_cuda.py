"""Tensors on a GPU, copied into a slot by its copy engine.

The slot's pages are registered with CUDA once, and stay so while the slot is kept: a copy into pageable memory goes
through a bounce buffer of the driver at a fraction of what the bus does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ._arrays import flat, resolved

_log = logging.getLogger("ebb.checkpoint")
#: Address and length of what is registered.
_registered: dict[int, int] = {}
_streams: dict[int, Any] = {}


def copy_from_devices(view: memoryview, address: int, tensors: Sequence[tuple[int, Any]], *, register: bool) -> None:
    """Copies tensors to their offsets, on a stream of their own. Returns when all bytes are there.

    The copies wait for what the current streams have been given so far, so they take the values that the caller sees.
    """
    import torch

    if register:
        _register(address, len(view))
    whole = torch.frombuffer(view, dtype=torch.uint8)
    used = set()
    for offset, tensor in tensors:
        device = tensor.device.index
        stream = _stream(device)
        used.add(device)
        source = resolved(tensor).contiguous()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            raw = flat(source).view(torch.uint8)
            whole[offset : offset + raw.numel()].copy_(raw, non_blocking=True)
            raw.record_stream(stream)
    for device in used:
        _streams[device].synchronize()


def _stream(device: int) -> Any:
    import torch

    if device not in _streams:
        cuda: Any = torch.cuda
        _streams[device] = cuda.Stream(device)
    return _streams[device]


def _register(address: int, length: int) -> None:
    if _registered.get(address, 0) >= length:
        return
    runtime = _runtime()
    if address in _registered:
        runtime.cudaHostUnregister(address)
        del _registered[address]
    result = runtime.cudaHostRegister(address, length, 0)
    if int(result) != 0:
        _log.warning("cudaHostRegister refused a slot (%s): copies from the GPU are slower", result)
        return
    _registered[address] = length


def unregister(address: int) -> None:
    """Before the memory is unmapped."""
    if _registered.pop(address, None) is not None:
        _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    import torch

    cuda: Any = torch.cuda
    return cuda.cudart()
