"""DCP's metadata as a shard, and values as DCP pickles them: read back without running what a checkpoint says.

I1  Metadata is unpickled from DCP's own classes, dtypes and sizes; anything else in it is refused.
I2  A value reaches DCP's planner, which would unpickle anything, only as bytes that were made here, from what PyTorch's
    loader of weights admits.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Callable

import torch
from torch.distributed.checkpoint import metadata as dcp

from ..errors import DataCorruptError, UnsupportedError

_CLASSES: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        dcp.Metadata,
        dcp.MetadataIndex,
        dcp.TensorStorageMetadata,
        dcp.BytesStorageMetadata,
        dcp.ChunkStorageMetadata,
        dcp.TensorProperties,
        dcp.StorageMeta,
        dcp._MEM_FORMAT_ENCODING,
        torch.Size,
    )
}
_CLASSES["torch", "Size"] = torch.Size
_LAYOUTS = ("torch.serialization", "_get_layout")


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _CLASSES.get((module, name))
        if found is not None:
            return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == _LAYOUTS:
            return _layout
        raise UnsupportedError(f"the metadata of a checkpoint names {module}.{name}: it is none of DCP's own classes")


def _layout(name: str) -> torch.layout:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise DataCorruptError(f"{name} is no layout of tensors")
    return found


def encode_metadata(metadata: dcp.Metadata) -> bytes:
    """
    Raises:
        UnsupportedError: it could not be read again: a planner put objects of its own into it.
    """
    text = pickle.dumps(metadata, protocol=4)
    decode_metadata(text)
    return text


def decode_metadata(text: bytes) -> dcp.Metadata:
    """
    Raises:
        UnsupportedError: it holds more than metadata.
        DataCorruptError: it is none.
    """
    try:
        found = _MetadataUnpickler(io.BytesIO(text)).load()
    except UnsupportedError:
        raise
    except Exception as error:
        raise DataCorruptError(f"the metadata of the checkpoint is broken: {error}") from error
    if not isinstance(found, dcp.Metadata):
        raise DataCorruptError(f"the metadata of the checkpoint is a {type(found).__name__}")
    return found


def admitted(data: bytes, name: str) -> io.BytesIO:
    """A value for DCP's planner (I2).

    Raises:
        UnsupportedError: PyTorch's loader of weights does not admit it.
    """
    try:
        value = torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise _not_plain(name) from error
    safe = io.BytesIO()
    torch.save(value, safe)
    safe.seek(0)
    return safe


def assert_admitted(data: bytes, name: str, value: Callable[[], Any]) -> None:
    """At the time of saving, so that nothing is saved that will not load.

    Raises:
        UnsupportedError
    """
    if _is_plain(value()):
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise _not_plain(name) from error


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in (bool, int, float, str, bytes):
        return True
    if type(value) in (list, tuple):
        return all(_is_plain(one) for one in value)
    return type(value) is dict and all(_is_plain(key) and _is_plain(one) for key, one in value.items())


def _not_plain(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name} is neither a tensor nor a plain value, and loading it would run code: make it plain, name its class "
        "by torch.serialization.add_safe_globals, or say weights_only=False to both writer and reader if you trust "
        "whoever writes your checkpoints"
    )
