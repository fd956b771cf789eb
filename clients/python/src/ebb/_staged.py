"""Writes one staged file: through the file itself where it is seen, else through the node.

I1  Bytes are written only within the reservation: `extend` comes first. Beyond it a full tmpfs answers with a signal.
I2  When tier 0 has no more room, the write moves: staged anew on tier 1, what is written is copied, the first one is
    aborted. Callers notice only by `tier` and `path`. A write that was mapped does not move: its views are of the
    first file.
I3  A buffer given to `write` belongs to its caller again when `write` returns.
I4  After a failure the write only aborts. One that is left by an exception aborts.
I5  All calls go through the session that staged the file (_connection.py, I3). When that is lost, so is the write.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, NamedTuple

from ._connection import Pending, Session
from ._limits import PIECE_BYTES, PIECES_INFLIGHT, RESERVE_FIRST_BYTES, RESERVE_STEP_BYTES_MAX
from ._messages import (
    ABORT,
    COMMIT,
    EXTEND,
    WRITE,
    Ack,
    CommitRequest,
    Empty,
    ExtendRequest,
    StagedResponse,
    WriteOnly,
    WriteRequest,
)
from ._reader import readable_view
from ._transport import unreachable
from .errors import (
    EbbError,
    IoFailedError,
    RequestInvalidError,
    TierFullError,
    UnsupportedError,
    WriteNotFoundError,
)

TIER_DISK = 1
#: Present pages of a recycled file are put into the mapping at once: a third of the cost of a fault for each.
_MAP_POPULATE = getattr(mmap, "MAP_POPULATE", 0x8000)
_COPY_BYTES = 4 * 1024 * 1024

#: Stages for (room in bytes, tier, calls that were begun): the session that holds the write, and the file.
StageCall = Callable[[int, int, "list[Pending[StagedResponse]]"], tuple[Session, StagedResponse]]


class Committed(NamedTuple):
    """What a write came to."""

    version: int
    etag: str
    size_bytes: int
    #: What holds now.
    durability: Ack


class StagedFile:
    """Bytes that nobody sees before `commit`. For one thread at a time.

    Every byte of the object must be written: the file may have held other bytes before. Of bytes written by `map`, or
    by the caller through `path`, `commit` is told the end as ``size_bytes``. Leaving ``with`` without a commit aborts.
    """

    def __init__(self, bucket: str, key: str, stage: StageCall, reserve_bytes: int, tier: int) -> None:
        self.bucket = bucket
        self.key = key
        self._stage = stage
        self._fd: int | None = None
        self._state = "open"
        started: list[Pending[StagedResponse]] = []
        try:
            self._session, self._staged = stage(reserve_bytes, tier, started)
        except BaseException:
            for call in started:  # an interrupt came when the node had answered
                call.abandon()
            raise
        self._reserved_bytes = self._staged.reserved_bytes
        self._size_bytes = 0
        self._through_node = self._session.files is None
        self._mapping: mmap.mmap | None = None
        self._waiting: list[Pending[Empty]] = []

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def write_id(self) -> int:
        return self._staged.write_id

    @property
    def tier(self) -> int:
        """0 memory, 1 disk."""
        return self._staged.tier

    @property
    def slot_id(self) -> int:
        """Identifies the underlying file across recycling, for callers that keep mappings; 0: never recycled."""
        return self._staged.slot_id

    @property
    def path(self) -> str | None:
        """Absolute path, for callers that write the file themselves; None when it is not seen here."""
        files = self._session.files
        return None if files is None or self._through_node else files.path(self._staged.tier, self._staged.path)

    @property
    def reserved_bytes(self) -> int:
        """Room that may be written; `extend` raises it."""
        return self._reserved_bytes

    @property
    def size_bytes(self) -> int:
        """End of what `write` and `pwrite` have written."""
        return self._size_bytes

    @property
    def is_lost(self) -> bool:
        """Whether the connection it was staged on is gone, and the bytes with it."""
        return not self._session.is_alive

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, data: Any) -> int:
        """Appends a contiguous buffer; its length in bytes. Raises as `pwrite`."""
        return self.pwrite(data, self._size_bytes)

    def pwrite(self, data: Any, offset: int) -> int:
        """Writes a contiguous buffer at ``offset``, and reserves room for it when needed.

        Raises:
            TierFullError: no room for it in any tier that may take it.
            NodeUnreachableError: the connection was lost, and what was written with it: stage anew.
        """
        view = readable_view(data)
        if len(view) > 0:
            self._guarded(lambda: self._place(view, offset))
        return len(view)

    def map(self, length: int | None = None) -> memoryview:
        """The first ``length`` bytes (default: what is reserved) as a writable view of the node's own pages.

        Copies that release the interpreter's lock (``numpy.copyto``, ``Tensor.copy_``) may fill it from several
        threads. Nothing may be written through it after `commit` or `abort`.

        Raises:
            UnsupportedError: the file is not seen here (`path` is None).
            TierFullError: there is less room than was promised.
        """
        wanted = self._reserved_bytes if length is None else length
        view: list[memoryview] = []
        self._guarded(lambda: view.append(self._map(wanted)))
        return view[0]

    def extend(self, reserve_bytes: int) -> None:
        """Makes sure that this much may be written in all. May move the write to tier 1, unless it was mapped.

        Raises:
            TierFullError: no room.
        """
        self._guarded(lambda: self._reserve(reserve_bytes, reserve_bytes))

    # -- ending ----------------------------------------------------------------------------------------------

    def commit(
        self,
        size_bytes: int | None = None,
        *,
        crc32c: int | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        ack: Ack | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Committed:
        """Makes the first ``size_bytes`` (default: what `write` and `pwrite` wrote) visible under the name, atomically.

        Args:
            crc32c: of all bytes, where the caller knows it. The node takes its word, and compares when the bytes change
                their tier; without it the node computes it.
            if_match: ETag that the object must have now.
            if_none_match: the object must not exist.
            ack: what must hold before this returns; the bucket's unless given.

        Raises:
            AlreadyExistsError, PreconditionFailedError: the condition did not hold; nothing was changed.
            LengthMismatchError: there are fewer bytes.
            ChecksumMismatchError: found when the bytes were copied to disk for the acknowledgement.
            NodeUnreachableError: the connection was lost. It may have been committed: look (`Client.head`).
        """
        size = self._size_bytes if size_bytes is None else size_bytes
        request = CommitRequest(
            self.write_id,
            size,
            crc32c,
            if_match or "",
            if_none_match,
            ack,
            content_type,
            normal_metadata(metadata),
        )
        self._guarded(self._settle_all)
        self._close_file()
        try:
            # Tier 2 may take its time; a node that is gone is noticed by the connection.
            answer = self._session.call(COMMIT, request, timeout_s=None)
        except EbbError as error:
            self._state = "failed"
            if error.retry != "ambiguous":
                self.abort()
            raise
        self._state = "committed"
        return Committed(answer.version, answer.etag, size, answer.durability)

    def abort(self) -> None:
        """Throws the bytes away. Aborting twice, or after a commit, does nothing."""
        if self._state in ("committed", "aborted"):
            return
        self._state = "aborted"
        for pending in self._waiting:
            pending.abandon()
        self._waiting.clear()
        self._close_file()
        # If the session is gone, so is the staged write; any other failure leaves it to its deadline.
        with contextlib.suppress(EbbError):
            self._session.call(ABORT, WriteOnly(self.write_id))

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)
        staged = getattr(self, "_staged", None)
        if staged is not None and self._state not in ("committed", "aborted"):
            self._session.abort_later(staged.write_id)

    # -- inside ----------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """The first failure is final (I4)."""
        if self._state != "open":
            raise WriteNotFoundError(f"this staged write is {self._state}")
        if self.is_lost:
            self._state = "failed"
            raise unreachable(
                f"the connection was lost, and with it what was staged for {self.bucket}/{self.key}: stage it anew"
            )
        try:
            work()
        except BaseException:
            self._state = "failed"
            raise

    def _place(self, view: memoryview, offset: int) -> None:
        if offset < 0:
            raise RequestInvalidError(f"{offset} is no position in an object")
        end = offset + len(view)
        if not self._through_node:
            self._reserve_for(end)
        fd = self._open_file()
        if fd is None:
            self._send(view, offset)
        else:
            self._pwrite(fd, view, offset)
        self._size_bytes = max(self._size_bytes, end)

    def _pwrite(self, fd: int, view: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done)
        except OSError as error:
            raise self._translated(error) from error

    def _send(self, view: memoryview, offset: int) -> None:
        """By `write` frames, a few under way at a time. All are answered when this returns: a refusal belongs to it."""
        for at in range(0, len(view), PIECE_BYTES):
            if len(self._waiting) >= PIECES_INFLIGHT:
                self._waiting.pop(0).result()
            piece = view[at : at + PIECE_BYTES]
            self._waiting.append(self._session.start(WRITE, WriteRequest(self.write_id, offset + at, piece)))
        self._settle_all()

    def _settle_all(self) -> None:
        while self._waiting:
            self._waiting.pop(0).result()

    def _map(self, length: int) -> memoryview:
        if length == 0:
            return memoryview(bytearray())
        self._reserve_for(length)
        fd = self._open_file()
        if fd is None:
            raise UnsupportedError("a file of the node that is not seen here cannot be mapped")
        try:
            os.posix_fallocate(fd, 0, length)  # want of space is an error here, and would be a signal later
            self._mapping = mmap.mmap(
                fd, length, flags=mmap.MAP_SHARED | _MAP_POPULATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        except OSError as error:
            raise self._translated(error) from error
        return memoryview(self._mapping)

    def _reserve_for(self, end: int) -> None:
        if end <= self._reserved_bytes:
            return
        step = min(max(self._reserved_bytes, RESERVE_FIRST_BYTES), RESERVE_STEP_BYTES_MAX)
        self._reserve(max(end, self._reserved_bytes + step), end)

    def _reserve(self, wished_bytes: int, needed_bytes: int) -> None:
        """What is wished, or else what is needed; moves to tier 1 when tier 0 has neither (I2)."""
        for reserve_bytes in dict.fromkeys((wished_bytes, needed_bytes)):
            if reserve_bytes <= self._reserved_bytes:
                return
            try:
                answer = self._session.call(EXTEND, ExtendRequest(self.write_id, reserve_bytes))
                self._reserved_bytes = answer.reserved_bytes
                return
            except TierFullError:
                if self._through_node:
                    return  # a hint only: the node moves the write itself
                if reserve_bytes == needed_bytes and (self.tier != 0 or self._mapping is not None):
                    raise
        self._move_to_disk(needed_bytes)

    def _move_to_disk(self, reserve_bytes: int) -> None:
        source = self._fd if self._fd is not None else (self._open_file() if self._size_bytes > 0 else None)
        left = self._staged
        session, staged = self._stage(reserve_bytes, TIER_DISK, [])
        if session is not self._session:
            session.send(ABORT, WriteOnly(staged.write_id))
            raise unreachable("the connection was lost during this write: stage it anew")
        self._staged = staged
        self._reserved_bytes = staged.reserved_bytes
        self._fd = None
        try:
            target = self._open_file()
            if source is not None:
                self._copy(source, target)
        finally:
            if source is not None:
                os.close(source)
            session.send(ABORT, WriteOnly(left.write_id))

    def _copy(self, source: int, target: int | None) -> None:
        at = 0
        while at < self._size_bytes:
            piece = os.pread(source, min(_COPY_BYTES, self._size_bytes - at), at)
            if not piece:
                raise IoFailedError("a staged file holds less than was written to it")
            if target is None:
                self._send(memoryview(piece), at)
            else:
                self._pwrite(target, memoryview(piece), at)
            at += len(piece)

    def open_file(self) -> int:
        """A descriptor of the file, for reading and writing; the caller closes it. For callers with a `path`.

        Raises:
            OSError: it cannot be opened.
            IoFailedError: what the node named is not a file of its own.
        """
        files = self._session.files
        assert files is not None, "only a client that sees the files opens them"
        return files.open(self._staged.tier, self._staged.path, os.O_RDWR)

    def _open_file(self) -> int | None:
        """None: through the node."""
        if self._fd is None and not self._through_node:
            try:
                self._fd = self.open_file()
            except (FileNotFoundError, PermissionError) as error:
                if self._size_bytes > 0:
                    raise self._translated(error) from error
                self._through_node = True
            except OSError as error:
                raise self._translated(error) from error
        return self._fd

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        self._mapping = None
        if fd is not None:
            os.close(fd)

    def _translated(self, error: OSError) -> EbbError:
        details = {"tier": self.tier, "path": self._staged.path, "errno": error.errno}
        if error.errno == errno.ENOSPC:
            return TierFullError(None, details)
        return IoFailedError(f"cannot write a file of the node: {error}", details)


def normal_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """Names in lower case, as HTTP hands them over: both paths store the same.

    Raises:
        RequestInvalidError: a name or a value that a header cannot hold.
    """
    normal = {}
    for name, value in (metadata or {}).items():
        if not name or any(char not in _NAME_CHARS for char in name):
            raise RequestInvalidError(f"{name!r} is no name for metadata: letters, digits, - _ and . only")
        if any((ord(char) < 0x20 and char != "\t") or char == "\x7f" for char in value):
            raise RequestInvalidError(f"the metadata {name!r} has control characters")
        normal[name.lower()] = value
    return normal


_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&'*+.^_`|~-")
