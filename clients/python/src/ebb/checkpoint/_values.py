"""Plain values of a state, and how they are written in JSON: what JSON has of its own stays as it is, everything else
is a list that begins with a tag. Nothing is written that would be read as something else."""

from __future__ import annotations

import base64
import math
import struct
import sys
from typing import Any, Callable

import numpy as np

from ..errors import UnsupportedError

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, range})
#: Scalars of NumPy with a fixed layout: all but those of C's long double, of objects, and of records.
_SCALAR_KINDS = "biufcmM"
_LONG_DOUBLES = frozenset({np.longdouble, np.clongdouble} - {np.float64, np.complex128})
#: JSON's numbers are doubles for many readers.
_JSON_INT_MAX = 2**53


def is_plain(value: Any) -> bool:
    """Whether it is a value that comes back equal, of the same type."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is tuple:
        return len(value) == 0  # there is only one
    if isinstance(value, np.generic):
        return kind in (np.str_, np.bytes_) or _is_scalar(value)
    torch = sys.modules.get("torch")
    return torch is not None and kind in (torch.Size, torch.dtype, torch.device)


def is_constant(value: Any) -> bool:
    """Whether it is a plain value, or tuples and frozen sets of them: what nobody can change."""
    return is_plain(value) or (type(value) in (tuple, frozenset) and all(is_constant(one) for one in value))


def kind_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def pack(value: Any) -> Any:
    """A plain value as JSON has it."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if _is_text(value) else ["text", _base64(value.encode("utf-8", "surrogatepass"))]
    if kind is int:
        # Decimal digits would take quadratic time, and Python limits them.
        return value if abs(value) < _JSON_INT_MAX else ["hex", format(value, "x")]
    if kind is float:
        # repr gives the same float back; JSON has no NaN and no infinity.
        return value if math.isfinite(value) else ["float", repr(value), *_nan_bits(value)]
    if kind is complex:
        return ["complex", pack(value.real), pack(value.imag)]
    if kind is bytes:
        return ["bytes", _base64(value)]
    if kind is range:
        return ["range", pack(value.start), pack(value.stop), pack(value.step)]
    if kind is tuple:
        return ["tuple", []]
    if kind is np.str_:
        return ["numpy.str_", pack(str.__str__(value))]  # NumPy's own drops zeros at the end
    if kind is np.bytes_:
        return ["numpy.bytes_", _base64(bytes(value))]
    if isinstance(value, np.generic):
        return ["numpy", _scalar_dtype(value), _base64(value.tobytes())]
    if kind.__module__ == "torch":
        body = list(value) if isinstance(value, tuple) else str(value).removeprefix("torch.")
        return [f"torch.{kind.__name__}", body]
    raise AssertionError(f"{kind_name(value)} is no plain value")


def unpack(tag: str, body: list[Any], again: Callable[[Any], Any]) -> Any:
    """What was written with this tag. `again`: reads a value within.

    Raises:
        KeyError: no such tag.
        UnsupportedError: it takes a library that is not here.
    """
    return _UNPACK[tag](body, again)


def dtype_of(name: str) -> np.dtype[Any]:
    """Also of the dtypes that NumPy has from ml_dtypes alone.

    Raises:
        UnsupportedError: that is not installed.
    """
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ImportError as error:
        raise UnsupportedError(
            f"NumPy has no {name}: install PyTorch, or ml_dtypes, to restore this snapshot"
        ) from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def _torch_value(kind: str) -> Callable[[list[Any], Any], Any]:
    def make(body: list[Any], _: Any) -> Any:
        try:
            import torch
        except ImportError as error:
            raise UnsupportedError(f"the state has a torch.{kind}: install PyTorch to restore it") from error
        if kind == "dtype":
            return getattr(torch, body[0])
        return torch.device(body[0]) if kind == "device" else torch.Size(body[0])

    return make


_UNPACK: dict[str, Callable[[list[Any], Callable[[Any], Any]], Any]] = {
    "int": lambda body, _: int(body[0]),
    "hex": lambda body, _: int(body[0], 16),
    "float": lambda body, _: struct.unpack("<d", bytes.fromhex(body[1]))[0] if len(body) > 1 else float(body[0]),
    "complex": lambda body, again: complex(again(body[0]), again(body[1])),
    "text": lambda body, _: base64.b64decode(body[0]).decode("utf-8", "surrogatepass"),
    "bytes": lambda body, _: base64.b64decode(body[0]),
    "bytearray": lambda body, _: bytearray(base64.b64decode(body[0])),
    "range": lambda body, again: range(again(body[0]), again(body[1]), again(body[2])),
    "numpy.str_": lambda body, again: np.str_(again(body[0])),
    "numpy.bytes_": lambda body, _: np.bytes_(base64.b64decode(body[0])),
    "numpy": lambda body, _: np.frombuffer(base64.b64decode(body[1]), dtype_of(body[0]))[0],
    "torch.Size": _torch_value("Size"),
    "torch.dtype": _torch_value("dtype"),
    "torch.device": _torch_value("device"),
}


def _is_scalar(value: np.generic) -> bool:
    if type(value) in _LONG_DOUBLES or type(value) is not value.dtype.type:
        return False
    return value.dtype.kind in _SCALAR_KINDS or type(value).__module__ == "ml_dtypes"


def _scalar_dtype(value: np.generic) -> str:
    """The name that gives the same type back: `longlong` is another type than `int64`, though both have 8 bytes."""
    dtype = value.dtype
    if dtype.kind not in _SCALAR_KINDS:
        return dtype.name
    return dtype.str if np.dtype(dtype.str).type is type(value) else dtype.char


def _nan_bits(value: float) -> list[str]:
    """Of a NaN that is another one than Python's own: with a sign, or a number of its own."""
    bits = struct.pack("<d", value)
    return [bits.hex()] if math.isnan(value) and bits != struct.pack("<d", math.nan) else []


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()
