"""Arrays of NumPy, PyTorch and JAX as runs of bytes. None of the last two is imported unless the caller has done so."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable
from typing import Any, Callable, NamedTuple

import numpy as np

from ..errors import UnsupportedError

NUMPY, TORCH, JAX = "numpy", "torch", "jax"

_TORCH_DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
#: Of a dtype that NumPy has no name for, the one that moves its bytes.
_CARRIERS = {"bfloat16": np.uint16, **dict.fromkeys((name for name in _TORCH_DTYPES if "float8" in name), np.uint8)}


class Spec(NamedTuple):
    """What an array is. `dtype` is a key of ``ITEM_BYTES``; `shape` in elements; `nbytes` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def kind_of(value: Any) -> str | None:
    """Whose array a value is; None: it is no array."""
    if isinstance(value, (np.ndarray, np.generic)):
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return TORCH
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        return JAX
    return None


def spec_of(value: Any) -> Spec:
    """
    Raises:
        UnsupportedError: what checkpoints do not take (objects, strings; quantized, sparse or distributed tensors).
    """
    kind = kind_of(value)
    if kind == TORCH:
        return _torch_spec(value)
    return Spec(_numpy_dtype_name(value.dtype), tuple(value.shape), int(value.nbytes))


def identity(value: Any) -> Hashable:
    """The same for arrays that are the same elements of the same memory: tied weights have a tensor each in a state."""
    kind = kind_of(value)
    if kind == TORCH and _has_memory(value) and value.numel() > 0:
        marks = (value.is_conj(), value.is_neg())
        return (TORCH, str(value.device), value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), *marks)
    if kind == NUMPY and isinstance(value, np.ndarray) and value.size > 0:
        return (NUMPY, address(value), value.dtype.str, value.shape, value.strides)
    return id(value)


def is_cuda(value: Any) -> bool:
    return kind_of(value) == TORCH and value.is_cuda


def address_of(value: Any) -> int | None:
    """Where the bytes of a CPU array lie in memory, row by row; None when they do not lie so, or on a device."""
    kind = kind_of(value)
    if kind == TORCH:
        is_plain = value.device.type == "cpu" and value.is_contiguous() and not (value.is_conj() or value.is_neg())
        return int(value.data_ptr()) if is_plain else None
    if kind == NUMPY and isinstance(value, np.ndarray) and value.flags.c_contiguous and _is_native(value.dtype):
        return address(value)
    return None


def address(array: np.ndarray[Any, Any]) -> int:
    """Of a host array's first byte."""
    return int(array.__array_interface__["data"][0])


def host_copy(value: Any) -> np.ndarray[Any, Any]:
    """The bytes of any array as a contiguous host array; one that lies so already is not copied."""
    kind = kind_of(value)
    if kind == TORCH:
        return _torch_bytes(resolved(value).cpu().contiguous())
    array = np.asarray(value)
    native = array if _is_native(array.dtype) else array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native).reshape(-1).view(np.uint8)


def resolved(tensor: Any) -> Any:
    """A tensor whose bytes are its values: `conj` and the imaginary part of it only mark what is to be computed."""
    return tensor.detach().resolve_conj().resolve_neg()


def fill(target: Any, source: np.ndarray[Any, Any]) -> None:
    """Overwrites an array in place with bytes of its dtype and shape.

    Raises:
        UnsupportedError: the array cannot be written (JAX arrays, read-only ones).
    """
    kind, spec = kind_of(target), spec_of(target)
    if kind == TORCH:
        import torch

        with torch.no_grad():
            target.copy_(wrap(TORCH, source, spec.dtype, spec.shape))
        return
    if kind != NUMPY or not isinstance(target, np.ndarray) or not target.flags.writeable:
        raise UnsupportedError("an array that cannot be written is not restored in place: take what `restore` returns")
    np.copyto(target, wrap(NUMPY, source, spec.dtype, spec.shape))


def wrap(kind: str, source: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    """An array over these bytes (``uint8``, one dimension), without a copy, except for JAX."""
    if kind == TORCH and "torch" in sys.modules:
        return _torch_wrap(source, dtype, shape)
    array = source.view(_numpy_dtype(dtype)).reshape(shape)
    if kind == JAX and "jax" in sys.modules:
        import jax.numpy as jnp

        return jnp.array(array)
    return array


def wrapper(kind: str, source: np.ndarray[Any, Any]) -> Callable[[int, int, str, tuple[int, ...]], Any]:
    """As `wrap`, for many arrays over the same bytes: takes offset and length in bytes, dtype and shape."""
    if kind != TORCH or "torch" not in sys.modules:
        return lambda offset, length, dtype, shape: wrap(kind, source[offset : offset + length], dtype, shape)
    import torch

    whole = _torch_wrap(source, "uint8", (source.size,))
    dtypes = {name: getattr(torch, name) for name in _TORCH_DTYPES if hasattr(torch, name)}
    return lambda offset, length, dtype, shape: (
        whole[offset : offset + length].view(dtypes[dtype]).reshape(shape)
        if length > 0
        else torch.empty(shape, dtype=dtypes[dtype])
    )


def empty(kind: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """A fresh array whose bytes are to be written."""
    if kind == TORCH and "torch" in sys.modules:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype))
    return np.empty(shape, _numpy_dtype(dtype))


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name not in _CARRIERS:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(_CARRIERS[name])
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def _numpy_dtype_name(dtype: Any) -> str:
    name = str(np.dtype(dtype).newbyteorder("=").name) if np.dtype(dtype).kind in "biufc" else str(dtype)
    if name not in _TORCH_DTYPES:
        raise UnsupportedError(f"arrays of dtype {dtype} are not checkpointed: use numbers or bool")
    return name


def _is_native(dtype: Any) -> bool:
    return bool(np.dtype(dtype).isnative)


def _torch_spec(tensor: Any) -> Spec:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _TORCH_DTYPES or tensor.layout != sys.modules["torch"].strided or tensor.is_quantized:
        raise UnsupportedError(
            f"tensors of {tensor.dtype}, {tensor.layout} are not checkpointed: make them dense and strided"
        )
    if tensor.device.type == "meta":
        raise UnsupportedError("tensors on the device meta have no values that could be checkpointed")
    if not _has_memory(tensor):
        raise UnsupportedError(
            f"a {type(tensor).__qualname__} consists of other tensors: save it by ebb.torch.dcp, or what it consists of"
        )
    return Spec(name, tuple(tensor.shape), tensor.numel() * tensor.element_size())


def _has_memory(tensor: Any) -> bool:
    """It is dense and strided, and no wrapper of other tensors."""
    is_dense = tensor.layout == sys.modules["torch"].strided and tensor.device.type != "meta"
    return is_dense and not hasattr(tensor, "__tensor_flatten__")


def _torch_bytes(tensor: Any) -> np.ndarray[Any, Any]:
    import torch

    if tensor.numel() == 0:
        return np.empty(0, np.uint8)
    array: np.ndarray[Any, Any] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array


def _torch_wrap(source: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    import torch

    kind = getattr(torch, dtype)
    if source.size == 0:
        return torch.empty(shape, dtype=kind)
    with warnings.catch_warnings():
        # The bytes of an open snapshot are read-only, which PyTorch has no notion of.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.frombuffer(source.data, dtype=kind).reshape(shape)
