"""Frames: length-prefixed, multiplexed calls on one upgraded connection. Mirror of ``packages/protocol/src/frames.ts``.

::

    0        4          8        10       12
    | length | request  | op     | flags  | payload (length bytes)
    | u32    | u32      | u16    | u16    |

All numbers are little-endian. ``str`` is a u16 length and UTF-8, ``bytes`` a u32 length and raw bytes; u64 values stay
below 2**53. ``packages/protocol/vectors/frames.json`` has golden examples.
"""

from __future__ import annotations

import builtins
import struct
from typing import NamedTuple, Union

from .errors import RequestInvalidError

FRAME_HEADER = struct.Struct("<IIHH")
FRAME_HEADER_BYTES = FRAME_HEADER.size
#: Longest payload; a longer frame ends the connection.
FRAME_PAYLOAD_BYTES_MAX = 16 * 1024 * 1024 + 64 * 1024
FRAME_FLAG_ERROR = 1

Bytes = Union[bytes, bytearray, memoryview]

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SAFE_MAX = (1 << 53) - 1


class FrameHeader(NamedTuple):
    payload_bytes: int
    request_id: int
    op: int
    flags: int


def encode_frame(request_id: int, op: int, flags: int, payload: Bytes) -> bytes:
    return FRAME_HEADER.pack(len(payload), request_id, op, flags) + payload


def parse_frame_header(source: Bytes, at: int = 0) -> FrameHeader:
    """The header at this place.

    Raises:
        RequestInvalidError: the announced payload is longer than allowed.
    """
    header = FrameHeader(*FRAME_HEADER.unpack_from(source, at))
    if header.payload_bytes > FRAME_PAYLOAD_BYTES_MAX:
        raise RequestInvalidError(f"frame of {header.payload_bytes} bytes, at most {FRAME_PAYLOAD_BYTES_MAX} allowed")
    return header


class PayloadWriter:
    """Appends primitives. ``ValueError`` where a value does not fit its field."""

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = bytearray()

    def u8(self, value: int) -> None:
        self.buffer.append(value)

    def u16(self, value: int) -> None:
        self.buffer += _pack(_U16, value)

    def u32(self, value: int) -> None:
        self.buffer += _pack(_U32, value)

    def u64(self, value: int) -> None:
        if not 0 <= value <= _SAFE_MAX:
            raise ValueError(f"u64 out of range: {value}")
        self.buffer += _U64.pack(value)

    def bool(self, value: bool) -> None:
        self.buffer.append(1 if value else 0)

    def str(self, value: str) -> None:
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!r} is not text that UTF-8 can hold") from error
        if len(raw) > 0xFFFF:
            raise ValueError(f"string of {len(raw)} bytes, at most 65535")
        self.buffer += _U16.pack(len(raw))
        self.buffer += raw

    def bytes(self, value: Bytes) -> None:
        self.buffer += _pack(_U32, len(value))
        self.buffer += value


class PayloadReader:
    """Reads primitives; every read checks the end.

    Raises:
        RequestInvalidError: the payload is too short, or text is not UTF-8.
    """

    __slots__ = ("_at", "_view")

    def __init__(self, payload: Bytes) -> None:
        self._view = memoryview(payload)
        self._at = 0

    def u8(self) -> int:
        return self._view[self._take(1)]

    def u16(self) -> int:
        value: int = _U16.unpack_from(self._view, self._take(2))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._view, self._take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self._view, self._take(8))[0]
        if value > _SAFE_MAX:
            raise RequestInvalidError("number beyond 2^53 in frame")
        return value

    def bool(self) -> bool:
        return self.u8() != 0

    def str(self) -> str:
        length = self.u16()
        at = self._take(length)
        try:
            return str(self._view[at : at + length], "utf-8")
        except UnicodeDecodeError as error:
            raise RequestInvalidError("text in a frame is not UTF-8") from error

    def bytes(self) -> memoryview:
        """A view into the payload."""
        length = self.u32()
        at = self._take(length)
        return self._view[at : at + length]

    def is_at_end(self) -> builtins.bool:
        return self._at == len(self._view)

    def end(self) -> None:
        left = len(self._view) - self._at
        if left != 0:
            raise RequestInvalidError(f"{left} bytes left over in frame")

    def _take(self, length: int) -> int:
        at = self._at
        if at + length > len(self._view):
            raise RequestInvalidError("frame ends too early")
        self._at = at + length
        return at


def _pack(form: struct.Struct, value: int) -> bytes:
    try:
        return form.pack(value)
    except struct.error as error:
        raise ValueError(f"{value} does not fit a field of {form.size} bytes") from error
