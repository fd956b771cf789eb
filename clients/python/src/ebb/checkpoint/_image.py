"""The image of a part: shards, the table that names them, a footer. The format is in docs/checkpoint-format.md."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import DataCorruptError

#: Bytes. Shards begin at multiples of it.
ALIGNMENT = 64
_FOOTER = struct.Struct("<QQII8s")
FOOTER_BYTES = _FOOTER.size
_FORMAT = 1
_MAGIC = b"EBBCKPT1"

#: Bytes of one element.
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}


class Shard(NamedTuple):
    """A named run of bytes of an image.

    Attributes:
        name: once in a part, or several times with different pieces.
        offset: bytes from the start of the image.
        length: bytes.
        dtype: of a tensor, a key of `ITEM_BYTES`; None: plain bytes.
        shape: of the tensor, row-major; None: plain bytes.
        piece_of: shape of the larger tensor of which this is a part, or None.
        piece_start: where in that it begins, one index a dimension.
    """

    name: str
    offset: int
    length: int
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    piece_of: tuple[int, ...] | None = None
    piece_start: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "offset": self.offset, "length": self.length}
        if self.dtype is not None:
            row["dtype"] = self.dtype
            row["shape"] = list(self.shape or ())
        if self.piece_of is not None:
            row["piece"] = {"shape": list(self.piece_of), "start": list(self.piece_start or ())}
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Shard:
        piece = row.get("piece")
        return cls(
            row["name"],
            row["offset"],
            row["length"],
            row.get("dtype"),
            tuple(row["shape"]) if "shape" in row else None,
            tuple(piece["shape"]) if piece else None,
            tuple(piece["start"]) if piece else None,
        )


def align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode_tail(shards: Sequence[Shard], offset: int) -> bytes:
    """Table and footer; `offset` is where they will lie in the image."""
    rows = [shard.to_json() for shard in shards]
    table = json.dumps({"shards": rows}, separators=(",", ":"), ensure_ascii=False).encode()
    return table + _FOOTER.pack(offset, len(table), zlib.crc32(table), _FORMAT, _MAGIC)


def parse_tail(tail: bytes, image_bytes: int) -> list[Shard]:
    """The shards of an image, from its last bytes.

    Raises:
        DataCorruptError: it is no image, or more of its end is needed (`needed_bytes` says how much, before).
    """
    offset, length = _footer(tail, image_bytes)
    start = offset - (image_bytes - len(tail))
    if start < 0:
        raise DataCorruptError(f"the table begins {-start} bytes before what was read of the image")
    table = tail[start : start + length]
    if zlib.crc32(table) != _FOOTER.unpack(tail[-FOOTER_BYTES:])[2]:
        raise DataCorruptError("the table of the image does not match its CRC-32")
    return [Shard.from_json(row) for row in json.loads(table)["shards"]]


def needed_bytes(tail: bytes, image_bytes: int) -> int:
    """How much of the end of an image `parse_tail` needs."""
    return image_bytes - _footer(tail, image_bytes)[0]


def _footer(tail: bytes, image_bytes: int) -> tuple[int, int]:
    if len(tail) < FOOTER_BYTES:
        raise DataCorruptError(f"{len(tail)} bytes are no image")
    offset, length, _, version, magic = _FOOTER.unpack(tail[-FOOTER_BYTES:])
    if magic != _MAGIC or version != _FORMAT or offset + length + FOOTER_BYTES != image_bytes:
        raise DataCorruptError("the image does not end with a footer")
    return offset, length
