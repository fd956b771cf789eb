"""Reads an open version of an object, by position or as a mapping.

Where the node's files are seen: ``pread`` or ``mmap`` under a lease. What lies in tier 2 only, or cannot be opened
here, is fetched by `read` frames. Without frames: HTTP ranges.

I1  One version: bytes of two versions are never mixed. When the connection was lost in between, the object is opened
    again and must still be at that version, else `precondition_failed`.
I2  Bytes count only if the lease still held when they had arrived: after the end of a session a file may be recycled.
I3  A read gives fewer bytes than asked for only at the end of the object.
I4  The lease under a mapping is given back when the mapping is gone, which is after the last view of it: an array made
    from a view keeps both.
"""

from __future__ import annotations

import mmap
import os
import weakref
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ._closing import Closing
from ._connection import Connection, Session
from ._http import HttpClient, OpenInfo, changed_while_read
from ._limits import EAGER_FILES_MAX, PIECE_BYTES, PIECES_INFLIGHT
from ._local_files import LocalFiles
from ._locks import new_lock
from ._messages import (
    OPEN,
    READ,
    RELEASE,
    Extent,
    OpenResponse,
    Place,
    ReadRange,
    ReadRequest,
    ReleaseRequest,
)
from ._retry import RetryPolicy, with_retry
from ._transport import unreachable
from .errors import (
    DataCorruptError,
    IoFailedError,
    LeaseNotFoundError,
    RangeInvalidError,
)

#: os.preadv and os.pread take no more at once.
_READ_BYTES_MAX = 0x7FFF_F000


class Part(NamedTuple):
    """A piece of an extent: where it lies, and where it belongs in the target."""

    extent: Extent
    offset: int
    length: int
    target_offset: int


class Lease:
    """An open object on one session, with the files of its extents.

    Reads run inside ``with lease:``, so that a descriptor is never closed, and its number given to another file, under
    one.
    """

    def __init__(self, session: Session, opened: OpenResponse) -> None:
        self.session = session
        self.opened = opened
        self._lock = new_lock()
        self._fds: dict[tuple[int, str], int | None] = {}
        self._users = 0
        self._is_closing = False
        for extent in opened.extents[:EAGER_FILES_MAX]:
            self.find_fd(extent)

    def find_fd(self, extent: Extent) -> int | None:
        """A descriptor of the extent's file; None when it cannot be opened here."""
        files = self.session.files
        if files is None or extent.path == "" or extent.tier == 2:
            return None
        place = (extent.tier, extent.path)
        with self._lock:
            if place not in self._fds:
                self._fds[place] = _find_open(files, *place)
            return self._fds[place]

    def parts(self, offset: int, length: int) -> Iterator[Part]:
        start = 0
        done = 0
        for extent in self.opened.extents:
            skip = offset + done - start
            start += extent.length
            if skip >= extent.length:
                continue
            if done >= length:
                return
            part = min(length - done, extent.length - skip)
            yield Part(extent, extent.offset + skip, part, done)
            done += part

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills ``target``, which lies within the object."""
        through_node: list[Part] = []
        for part in self.parts(offset, len(target)):
            fd = self.find_fd(part.extent)
            if fd is None:
                through_node.append(part)
            else:
                _pread_into(fd, target[part.target_offset : part.target_offset + part.length], part)
        if through_node:
            self._read_through_node(through_node, target)

    def close(self) -> None:
        self.close_files()
        self.session.send(RELEASE, ReleaseRequest([self.opened.lease_id]))

    def close_files(self) -> None:
        """Now, or when the last read that goes on has ended."""
        with self._lock:
            self._is_closing = True
            if self._users == 0:
                self._close_fds()

    def __enter__(self) -> Lease:
        with self._lock:
            if self._is_closing:
                raise LeaseNotFoundError("this reader was closed")
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._is_closing:
                self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds.values():
            if fd is not None:
                os.close(fd)
        self._fds.clear()

    def _read_through_node(self, parts: list[Part], target: memoryview) -> None:
        """A few pieces are under way at a time."""
        pieces = [
            (
                ReadRange(part.extent.blob_id, part.offset + at, min(PIECE_BYTES, part.length - at)),
                part.target_offset + at,
            )
            for part in parts
            for at in range(0, part.length, PIECE_BYTES)
        ]
        waiting: list[tuple[Any, int, int]] = []
        try:
            for wanted, at in pieces:
                waiting.append((self.session.start(READ, ReadRequest([wanted])), at, wanted.length))
                if len(waiting) == PIECES_INFLIGHT:
                    self._take_piece(waiting.pop(0), target)
            while waiting:
                self._take_piece(waiting.pop(0), target)
        finally:
            for pending, _, _ in waiting:
                pending.abandon()

    @staticmethod
    def _take_piece(piece: tuple[Any, int, int], target: memoryview) -> None:
        pending, at, length = piece
        data = pending.result().data
        if len(data) != length:
            raise DataCorruptError("the node answered with fewer bytes than it was asked for")
        target[at : at + length] = data


def open_lease(session: Session, bucket: str, key: str) -> Lease:
    def undo(late: OpenResponse) -> None:
        session.send(RELEASE, ReleaseRequest([late.lease_id]))

    opened = session.call(OPEN, Place(bucket, key), undo=undo)
    try:
        return Lease(session, opened)
    except BaseException:
        undo(opened)
        raise


class ObjectReader(Closing):
    """An open version of an object. It stays readable while this is open, whatever happens to the name. Thread-safe."""

    info: OpenInfo

    @property
    def size_bytes(self) -> int:
        return self.info.size_bytes

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from ``offset``: ``length`` of them, or fewer at the end of the object.

        Raises:
            RangeInvalidError: a negative offset or length.
            PreconditionFailedError: the connection was lost, and the object replaced meanwhile.
            SupersededError: the object was replaced or deleted, and nothing keeps this version any more: it lay in tier
                2 alone, or it is read over HTTP. Open the object again.
        """
        target = bytearray(self._readable(offset, length))
        self.read_into(target, offset)
        return bytes(target)

    @abstractmethod
    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fills a writable, contiguous buffer from ``offset``; how many bytes there were. Raises as `read`."""

    def local_path(self) -> str | None:
        """Absolute path of the file that is the whole object, if there is one that is seen; it holds until `close`."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Gives the lease back. Closing twice does nothing."""

    def _readable(self, offset: int, length: int | None) -> int:
        if offset < 0 or (length is not None and length < 0):
            raise RangeInvalidError("a range has whole numbers from 0", {"offset": offset})
        left = max(0, self.info.size_bytes - offset)
        return left if length is None else min(left, length)


class LeasedReader(ObjectReader):
    def __init__(self, connection: Connection, bucket: str, key: str, retry: RetryPolicy) -> None:
        self._connection = connection
        self._retry = retry
        self._lock = new_lock()
        self._is_closed = False
        self._lease = with_retry(lambda: open_lease(connection.session(), bucket, key), idempotent=True, policy=retry)
        opened = self._lease.opened
        self.info = OpenInfo(bucket, key, opened.version, opened.etag, opened.size_bytes)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        view = writable_view(buffer)
        length = self._readable(offset, len(view))
        if length > 0:
            with_retry(lambda: self._read_once(view[:length], offset), idempotent=True, policy=self._retry)
        return length

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        wanted = self._readable(offset, length)
        whole = self._read_whole(offset, wanted)
        return super().read(offset, wanted) if whole is None else whole

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._lease.close()

    def local_path(self) -> str | None:
        lease = self._living_lease()
        files = lease.session.files
        extents = lease.opened.extents
        if files is None or len(extents) != 1:
            return None
        extent = extents[0]
        is_whole = extent.offset == 0 and extent.length == self.info.size_bytes
        is_seen = extent.path != "" and extent.tier != 2
        return files.path(extent.tier, extent.path) if is_whole and is_seen else None

    def _read_whole(self, offset: int, length: int) -> bytes | None:
        """From one file, without a second copy; None where that is not how it lies."""
        with self._living_lease() as lease:
            parts = list(lease.parts(offset, length))
            if len(parts) != 1 or length > _READ_BYTES_MAX:
                return None
            fd = lease.find_fd(parts[0].extent)
            if fd is None:
                return None
            data = os.pread(fd, length, parts[0].offset)
            return data if len(data) == length and lease.session.still_holds() else None

    def _read_once(self, target: memoryview, offset: int) -> None:
        with self._living_lease() as lease:
            lease.read_into(target, offset)
            if not lease.session.still_holds():
                raise unreachable("the node went away during this read")  # (I2)

    def _living_lease(self) -> Lease:
        lease = self._lease
        if self._is_closed:
            raise LeaseNotFoundError("this reader was closed")
        return lease if lease.session.is_alive else self._renewed(lease)

    def _renewed(self, lost: Lease) -> Lease:
        with self._lock:
            if self._is_closed:
                raise LeaseNotFoundError("this reader was closed")
            if self._lease is not lost:
                return self._lease
            lease = open_lease(self._connection.session(), self.info.bucket, self.info.key)
            if lease.opened.version != self.info.version:
                lease.close()
                raise changed_while_read(self.info, lease.opened.version)  # (I1)
            self._lease = lease
            lost.close_files()
            return lease


class HttpReader(ObjectReader):
    """Each read is a range request that must meet the same version."""

    def __init__(self, http: HttpClient, bucket: str, key: str) -> None:
        self._http = http
        self._is_closed = False
        self.info = http.head_open(bucket, key)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        if self._is_closed:
            raise LeaseNotFoundError("this reader was closed")
        view = writable_view(buffer)
        length = self._readable(offset, len(view))
        self._http.read_into(self.info, offset, view[:length])
        return length

    def close(self) -> None:
        self._is_closed = True


class ObjectMap(Closing):
    """The bytes of a version, read-only: mapped where the node's file is seen, else read into memory of this process.

    Use `view` (a ``memoryview`` of bytes) or `array`. Both stay valid after `close`, and keep the memory; the lease
    goes back when the last of them is gone.
    """

    def __init__(self, info: OpenInfo, view: memoryview, *, is_mapped: bool) -> None:
        self.info = info
        self.view = view
        #: Whether these are the node's own pages, without a copy.
        self.is_mapped = is_mapped

    @property
    def size_bytes(self) -> int:
        return self.info.size_bytes

    def __len__(self) -> int:
        return self.info.size_bytes

    def array(self, dtype: Any = np.uint8, shape: Any = -1, offset: int = 0, count: int = -1) -> np.ndarray[Any, Any]:
        """A read-only array over ``count`` items of ``dtype`` from byte ``offset``; without a copy.

        Raises:
            ValueError: the bytes do not hold as many items, or do not have this shape.
        """
        if offset == self.info.size_bytes and count in (-1, 0):
            return np.empty(0, dtype).reshape(shape if shape != -1 else 0)
        return np.frombuffer(self.view, dtype=dtype, count=count, offset=offset).reshape(shape)

    def close(self) -> None:
        """Drops this view of the memory; others stay."""
        self.view = memoryview(b"")


def map_object(connection: Connection, bucket: str, key: str, retry: RetryPolicy) -> ObjectMap:
    """Maps an object of one extent; one of several extents, or that is not seen here, is read."""

    def attempt() -> ObjectMap:
        lease = open_lease(connection.session(), bucket, key)
        try:
            opened = lease.opened
            info = OpenInfo(bucket, key, opened.version, opened.etag, opened.size_bytes)
            mapped = _map_lease(lease, info)
            if mapped is None:
                copy = _fresh_memory(info.size_bytes)
                lease.read_into(copy, 0)
                mapped = ObjectMap(info, copy.toreadonly(), is_mapped=False)
            if not lease.session.still_holds():
                raise unreachable("the node went away while the object was opened")
        except BaseException:
            lease.close()
            raise
        if mapped.is_mapped:
            lease.close_files()  # the mapping has a descriptor of its own, and gives the lease back
        else:
            lease.close()
        return mapped

    return with_retry(attempt, idempotent=True, policy=retry)


def _map_lease(lease: Lease, info: OpenInfo) -> ObjectMap | None:
    extents = [extent for extent in lease.opened.extents if extent.length > 0]
    if len(extents) != 1:
        return None
    fd = lease.find_fd(extents[0])
    if fd is None:
        return None
    slack = extents[0].offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(fd, extents[0].length + slack, access=mmap.ACCESS_READ, offset=extents[0].offset - slack)
    except (OSError, ValueError):
        return None  # no file system that maps, or a file that ends too early: reading tells which
    weakref.finalize(mapping, lease.session.release_later, lease.opened.lease_id)  # (I4)
    return ObjectMap(info, memoryview(mapping)[slack:], is_mapped=True)


def _fresh_memory(size_bytes: int) -> memoryview:
    """Without zeros written first, where there is any."""
    return np.empty(size_bytes, np.uint8).data if size_bytes > 0 else memoryview(b"")


def writable_view(buffer: Any) -> memoryview:
    """The bytes of a writable, contiguous buffer. TypeError for others."""
    view = memoryview(buffer)
    if view.readonly:
        raise TypeError("a buffer to read into must be writable")
    return view.cast("B") if view.nbytes > 0 else memoryview(bytearray())


def readable_view(data: Any) -> memoryview:
    """The bytes of a contiguous buffer. TypeError for others."""
    view = memoryview(data)
    if not view.contiguous:
        raise TypeError("a buffer must be contiguous; copy it first")
    return view.cast("B") if view.nbytes > 0 else memoryview(b"")


def _find_open(files: LocalFiles, tier: int, path: str) -> int | None:
    try:
        return files.open(tier, path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return None  # through the node
    except OSError as error:
        raise IoFailedError(f"cannot open a file of the node: {error}", {"path": path}) from error


def _pread_into(fd: int, target: memoryview, part: Part) -> None:
    done = 0
    while done < part.length:
        try:
            got = os.preadv(fd, [target[done : done + _READ_BYTES_MAX]], part.offset + done)
        except OSError as error:
            raise IoFailedError(f"cannot read a file of the node: {error}", {"path": part.extent.path}) from error
        if got == 0:
            raise DataCorruptError("a file of the node ends too early", {"path": part.extent.path})
        done += got
