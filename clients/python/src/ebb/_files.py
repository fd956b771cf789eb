"""Objects as Python's files: what fsspec and smart_open hand out.

I1  A reader has one version, from its opening on.
I2  What is written is seen at the close, whole; a file that is dropped, or left by an exception, publishes nothing.
"""

from __future__ import annotations

import io
import os
import tempfile
from types import TracebackType
from typing import Any, BinaryIO

from ._client import Client
from ._limits import MIB, PIECE_BYTES
from ._messages import Ack
from ._reader import ObjectReader, readable_view
from ._staged import Committed, StagedFile
from .errors import PreconditionFailedError

#: Small reads come out of one of this size: from a file of the node, and through the node.
LOCAL_BUFFER_BYTES = 64 * 1024
REMOTE_BUFFER_BYTES = MIB


class _RawReader(io.RawIOBase):
    mode = "rb"

    def __init__(self, reader: ObjectReader) -> None:
        self.name = f"ebb://{reader.info.bucket}/{reader.info.key}"
        #: What somebody put between: fsspec's caches of blocks.
        self.cache: Any = None
        self._reader = reader
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.cache is not None:
            end = min(self._at + len(buffer), self._reader.size_bytes)
            data = self.cache._fetch(self._at, end) if end > self._at else b""
            buffer[: len(data)] = data
            got = len(data)
        else:
            got = self._reader.read_into(buffer, self._at)
        self._at += got
        return got

    def readall(self) -> bytes:
        if self.cache is not None:
            data = bytes(self.cache._fetch(self._at, self._reader.size_bytes))
        else:
            data = self._reader.read(self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._reader.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


class ReadFile(io.BufferedReader):
    """A version of an object, opened to be read."""

    def __init__(self, client: Client, bucket: str, key: str) -> None:
        reader = client.open(bucket, key)
        #: Bytes of the object.
        self.size = reader.size_bytes
        #: Which version it is.
        self.opened = reader.info
        self.path = f"{bucket}/{key}"
        #: Bytes that are read ahead.
        self.blocksize = LOCAL_BUFFER_BYTES if client.path == "local" else REMOTE_BUFFER_BYTES
        self._client = client
        self._reader = reader
        super().__init__(_RawReader(reader), self.blocksize)

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened again where it arrives, at the same place of the same version (I1)."""
        return (_open_version, (type(self), self._arguments(), self.opened.etag, self.tell()))

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def _arguments(self) -> tuple[Any, ...]:
        return (self._client, *split_url(self.path))


class WriteFile(io.BufferedIOBase):
    """An object that is being written. ``mode``: ``wb``, ``xb`` (it must not exist) or ``ab``.

    ``ab`` copies what there is into the new version, and publishes only if nobody has replaced it meanwhile.
    """

    def __init__(
        self,
        client: Client,
        bucket: str,
        key: str,
        mode: str = "wb",
        *,
        autocommit: bool = True,
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        ack: Ack | None = None,
        if_match: str | None = None,
        reserve_bytes: int = MIB,
    ) -> None:
        self.path = f"{bucket}/{key}"
        self.mode = mode
        self.name = f"ebb://{self.path}"
        self.committed: Committed | None = None
        self._client = client
        self._place = (bucket, key)
        self._autocommit = autocommit
        self._options: dict[str, Any] = {"content_type": content_type, "metadata": metadata, "ack": ack}
        self._is_settled = False
        self._gathered = bytearray()
        self._at = 0
        self._staged: StagedFile | None = None
        self._spool: BinaryIO | None = None
        if mode == "xb":
            if client.exists(bucket, key):
                self._is_settled = True
                raise FileExistsError(self.path)
            self._options["if_none_match"] = True
        elif if_match is not None:
            self._options["if_match"] = if_match
        if client.is_connected:
            self._staged = client.stage(bucket, key, reserve_bytes)
        else:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the commit, or the discard
        if mode == "ab":
            self._take_over()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"cannot pickle {self.path}, which is being written")

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        view = readable_view(data)
        if len(self._gathered) + len(view) < PIECE_BYTES:
            self._gathered += view
        else:
            self._flush()
            self._pass(view)
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        """Publishes, unless it is part of a transaction: then `commit` does."""
        if self.closed:
            return
        try:
            if not self._is_settled:
                self._flush()
                if self._autocommit:
                    self.commit()
        except BaseException:
            self.discard()
            raise
        finally:
            super().close()

    def commit(self) -> None:
        """Makes what was written visible."""
        if self._is_settled:
            return
        self._flush()
        if self._staged is not None:
            self.committed = self._staged.commit(**self._options)
        elif self._spool is not None:
            self._spool.seek(0)
            self.committed = self._client.put(*self._place, self._spool, **self._options)
            self._spool.close()
        self._is_settled = True

    def discard(self) -> None:
        """Throws away what was written."""
        if self._is_settled:
            return
        self._is_settled = True
        self._gathered.clear()
        if self._staged is not None:
            self._staged.abort()
        if self._spool is not None:
            self._spool.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        # io's own would close, and so publish, what nobody has finished.
        if not getattr(self, "_is_settled", True):
            self.discard()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        self._pass(memoryview(gathered))

    def _pass(self, view: memoryview) -> None:
        if self._staged is not None:
            self._staged.write(view)
        elif self._spool is not None:
            self._spool.write(view)

    def _take_over(self) -> None:
        try:
            reader = self._client.open(*self._place)
        except FileNotFoundError:
            self._options["if_none_match"] = True
            return
        with reader:
            self._options["if_match"] = reader.info.etag
            while self._at < reader.size_bytes:
                piece = reader.read(self._at, 4 * MIB)
                self._pass(memoryview(piece))
                self._at += len(piece)


def _open_version(kind: type[ReadFile], arguments: tuple[Any, ...], etag: str, position: int) -> ReadFile:
    """
    Raises:
        PreconditionFailedError: the object was replaced since the file was opened.
        NotFoundError: it was deleted.
    """
    file = kind(*arguments)
    if file.opened.etag != etag:
        file.close()
        raise PreconditionFailedError(
            f"{file.path} was replaced since it was opened: it is version {file.opened.etag} now, and was {etag}",
            {"path": file.path, "etag": file.opened.etag, "expected": etag},
        )
    file.seek(position)
    return file


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of ``ebb://bucket/key``, or of ``bucket/key``. The key is '' where only a bucket is named."""
    name = url[len("ebb://") :] if url.startswith("ebb://") else url
    bucket, _, key = name.partition("/")
    return bucket, key
