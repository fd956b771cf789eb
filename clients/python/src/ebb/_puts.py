"""What `Client.put` takes, with which options, and how a file becomes pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Union

from ._http import Header, header_text, quoted_etag
from ._limits import FILE_PIECE_BYTES
from ._messages import Ack
from .errors import RequestInvalidError

#: What `Client.put` takes: a contiguous buffer (bytes, array, memoryview …), a binary file, or the path of one.
PutData = Union[bytes, bytearray, memoryview, BinaryIO, "os.PathLike[str]", Any]


@dataclass(frozen=True)
class PutOptions:
    content_type: str
    metadata: Mapping[str, str]
    if_match: str | None
    if_none_match: bool
    ack: Ack | None
    job: str

    def __post_init__(self) -> None:
        assert_ack(self.ack)

    @property
    def is_conditional(self) -> bool:
        """A condition may fail because of the very write whose answer was lost."""
        return self.if_match is not None or self.if_none_match

    def headers(self) -> Header:
        headers: Header = {f"x-ebb-meta-{name}": header_text(value) for name, value in self.metadata.items()}
        if self.content_type:
            headers["content-type"] = header_text(self.content_type)
        if self.if_match is not None:
            headers["if-match"] = quoted_etag(self.if_match)
        if self.if_none_match:
            headers["if-none-match"] = "*"
        if self.ack is not None:
            headers["x-ebb-ack"] = self.ack
        if self.job:
            headers["x-ebb-job"] = header_text(self.job)
        return headers


def assert_ack(ack: Any) -> None:
    if ack not in (None, "memory", "disk", "remote"):
        raise RequestInvalidError(f"ack {ack!r:.100} is none of memory, disk, remote")


def assert_names(bucket: Any, key: Any) -> None:
    for what, name in (("bucket", bucket), ("key", key)):
        if not isinstance(name, str):
            raise TypeError(f"a {what} is text, not {type(name).__name__}")


def find_extent(file: Any) -> tuple[int | None, int | None]:
    """Where a file stands and how much is left of it; (None, None) for a pipe and the like."""
    try:
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
    except (OSError, AttributeError, ValueError):
        return None, None
    return start, max(0, end - start)


def pieces_of(file: Any) -> Iterator[bytes]:
    while True:
        piece = file.read(FILE_PIECE_BYTES)
        if not piece:
            return
        if isinstance(piece, str):
            raise TypeError("put takes a file opened in binary mode")
        yield piece
