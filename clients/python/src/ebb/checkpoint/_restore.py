"""Brings parts of a snapshot to where they are wanted, and compares every block with its digest on the way.

I1  Nothing is taken for good that does not match: a block is compared before its bytes are copied (of what is mapped)
    or as they were read. An image that turns out broken is passed over for what is stored; when that is broken too,
    the error names part, shards and place.
I2  Every pass of a loop reads something, or raises: a plan that does not say where a byte is, or an object that ends
    before what is planned to be in it, is corrupt data.
I3  A unit of work is a few neighbouring blocks. Digest and copy of one follow each other, so that the second finds it
    in the processor's cache: together they cost little more than the copy.
"""

from __future__ import annotations

import ctypes
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple

import numpy as np

from .._client import Client
from .._locks import new_lock
from .._reader import ObjectReader
from ..errors import DataCorruptError, DataLostError, NotFoundError, PreconditionFailedError, SupersededError
from . import _arrays
from ._api import PlannedPart
from ._copy import Copier, Run
from ._direct import DirectReads
from ._gmac import ThreadDigests, is_available
from ._slots import SlotMappings

_log = logging.getLogger("ebb.checkpoint")
#: Bytes that a thread takes from the queue at once, and that it reads at once.
_UNIT_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024
#: Threads that read what is not in memory: a disk gives more to several, and a distant store little to each.
_READERS = 8
#: Of what is read from an object store: one request.
_DIRECT_UNIT_BYTES = 16 * 1024 * 1024
#: What lay where a plan says was removed, or replaced, since it was made: a new one tells where it is now.
OUTDATED = (NotFoundError, SupersededError, PreconditionFailedError)
#: An image that says so is gone, or no good; what is stored may be there, and right.
_IMAGE_FAILED = (DataCorruptError, DataLostError, *OUTDATED)
#: Of an image whose blocks have no digests yet.
_BLOCK_BYTES = 256 * 1024

Progress = Callable[[int], None]


class Wanted(NamedTuple):
    """`length` bytes of an image from `offset` on, to be put at `target` (an address)."""

    offset: int
    length: int
    target: int


class PartSource:
    """A part that is being read: its image, where that is in memory, or data objects.

    Raises:
        DataCorruptError: the plan is broken (I2).
    """

    def __init__(self, client: Client, part: PlannedPart, *, use_image: bool = True) -> None:
        part.assert_whole()
        self.part = part
        self.client = client
        self.has_image = use_image and part.image is not None
        self._stack = ExitStack()
        self._lock = new_lock()
        self._readers: dict[tuple[str, str], ObjectReader] = {}
        self._kept: memoryview | None = None
        if self.has_image and part.image is not None:
            try:
                self._reader(*part.image)
            except _IMAGE_FAILED:
                # It was given up since the plan was made, or memory was lost.
                if part.runs is None:
                    raise
                self.has_image = False
        self._run_starts = [run[0] for run in part.runs or ()]
        #: Whether nothing of it is on this node.
        self.is_direct = not self.has_image and len(part.direct) > 0
        self._direct = DirectReads(part.direct if self.is_direct else {})
        self._stack.callback(self._direct.close)

    def map(self) -> memoryview:
        """The whole image, read-only: the node's own pages if it lies in memory, else a copy."""
        if self.has_image and self.part.image is not None:
            try:
                return self.client.open_map(*self.part.image).view
            except _IMAGE_FAILED as error:
                if self.part.runs is None:
                    raise
                _log.warning("%s; reading what is stored instead", error)
                self.has_image = False
        target = np.empty(self.part.image_bytes, np.uint8)
        self.read_into(target.data, 0)
        return target.data.toreadonly()

    def kept_mapping(self, slots: SlotMappings | None) -> int | None:
        """Address of the image in a slot that is mapped here already. Lease and mapping are held until `close`."""
        if slots is None or not self.has_image or self.part.image is None:
            return None
        path = self._reader(*self.part.image).local_path()
        self._kept = None if path is None else slots.find(path)
        if self._kept is None or len(self._kept) < self.part.image_bytes:
            return None
        return _arrays.address(np.frombuffer(self._kept, np.uint8))

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills `target` from `offset` of the image on."""
        part = self.part
        if self.has_image and part.image is not None:
            self._read_object(*part.image, target, offset)
            return
        done = 0
        while done < len(target):
            key, at, length = self._stored(offset + done, offset + len(target))
            self._read_object(part.bucket, key, target[done : done + length], at)
            done += length

    def reading(self, offset: int, length: int) -> Callable[[memoryview], None]:
        """Fills what it is given, from `offset` of the image on, call by call, and no more than `length` in all."""
        end = offset + length
        at = offset
        stream: Callable[[memoryview], int] | None = None
        stream_end = offset

        def read(target: memoryview) -> None:
            nonlocal at, stream, stream_end
            done = 0
            while done < len(target):
                assert at < end, "no more is read than was said"
                if at >= stream_end:
                    stream, stream_end = self._stream(at, end)
                wanted = target[done : done + min(len(target) - done, stream_end - at)]
                got = 0 if stream is None else stream(wanted)
                if got == 0:
                    self.read_into(wanted, at)
                    got = len(wanted)
                done += got
                at += got

        return read

    def _stream(self, offset: int, end: int) -> tuple[Callable[[memoryview], int] | None, int]:
        """From the object store, if it lies there alone: what reads on from `offset`, and up to where."""
        if not self.is_direct:
            return None, end
        key, at, length = self._stored(offset, end)
        return self._direct.reader(key, at, length), offset + length

    def _stored(self, offset: int, end: int) -> tuple[str, int, int]:
        """Where `offset` of the image is stored: key, offset there, and how many bytes up to `end` follow it there."""
        runs = self.part.runs or ()
        number = bisect_right(self._run_starts, offset) - 1
        if number < 0 or offset >= runs[number][0] + runs[number][1]:
            raise DataCorruptError(f"the plan of part {self.part.name} does not say where byte {offset} is stored")
        start, length, key, at = runs[number]
        return key, at + offset - start, min(start + length, end) - offset

    def _read_object(self, bucket: str, key: str, target: memoryview, at: int) -> None:
        got = self._reader(bucket, key).read_into(target, at)
        if got < len(target):
            where = {"part": self.part.name, "bucket": bucket, "key": key}
            raise DataCorruptError(f"{bucket}/{key} ends at {at + got}, and {at + len(target)} were expected", where)

    def close(self) -> None:
        self._kept = None
        self._stack.close()

    def _reader(self, bucket: str, key: str) -> ObjectReader:
        with self._lock:
            reader = self._readers.get((bucket, key))
            if reader is None:
                reader = self._stack.enter_context(self.client.open(bucket, key))
                self._readers[bucket, key] = reader
            return reader


#: Where bytes of a block go: address, offset in the block, length. There are thousands of them.
_Piece = tuple[int, int, int]


def fetch(
    client: Client,
    part: PlannedPart,
    wanted: Iterable[Wanted],
    copier: Copier,
    *,
    slots: SlotMappings | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> None:
    """Copies what is wanted of a part.

    Raises:
        DataCorruptError: bytes that do not match their digest, and no other copy; with part, shards, offset in details.
        DataLostError: no copy is left.
        NotFoundError, SupersededError, PreconditionFailedError: the plan is out of date.
    """
    pieces = list(wanted)
    source = PartSource(client, part)
    try:
        try:
            kept = source.kept_mapping(slots)
            _fetch_from(source, pieces, copier, kept=kept, verify=verify, progress=progress)
            return
        except _IMAGE_FAILED as error:
            if not source.has_image or part.runs is None:
                raise
            _log.warning("%s; reading what is stored instead", error)
    finally:
        source.close()
    stored = PartSource(client, part, use_image=False)
    try:
        _fetch_from(stored, pieces, copier, kept=None, verify=verify, progress=None)
    finally:
        stored.close()


def _fetch_from(
    source: PartSource,
    wanted: Sequence[Wanted],
    copier: Copier,
    *,
    kept: int | None,
    verify: bool,
    progress: Progress | None,
) -> None:
    """`kept`: the address of the image, where it is mapped. A new mapping would cost more than reading does."""
    part = source.part
    checks = verify and part.digests is not None
    if verify and not (checks and is_available()):
        _verify_by_node(source)
        checks = False
    if kept is not None and not checks:
        copier.copy([Run(target, kept + offset, length) for offset, length, target in wanted])
        if progress is not None:
            progress(sum(one.length for one in wanted))
        return
    block_bytes = part.block_bytes or _BLOCK_BYTES
    blocks = _blocks(wanted, block_bytes)
    numbers = sorted(blocks)
    per_unit = max(1, (_DIRECT_UNIT_BYTES if source.is_direct else _UNIT_BYTES) // block_bytes)
    units = deque(numbers[at : at + per_unit] for at in range(0, len(numbers), per_unit))
    digests = ThreadDigests()
    move = ctypes.memmove

    def work() -> None:
        digest_of = digests.get().of if checks else None

        def place(block: int, address: int) -> None:
            """`address`: of the block. It is in the processor's cache when its digest is made, and is copied then."""
            length = min(block_bytes, part.image_bytes - block * block_bytes)
            if digest_of is not None and digest_of(address, length) != part.digest(block):
                units.clear()
                raise _corrupt(part, block * block_bytes, length, in_memory=source.has_image)
            for target, start, piece_bytes in blocks[block]:
                move(target, address + start, piece_bytes)

        buffer = np.empty(max(1, _READ_BYTES // block_bytes) * block_bytes, np.uint8)
        here = _arrays.address(buffer)
        while True:
            try:
                unit = units.popleft()
            except IndexError:
                return
            for first, count in _neighbours(unit):
                low = first * block_bytes
                if kept is not None:
                    for block in range(first, first + count):
                        place(block, kept + block * block_bytes)
                    continue
                length = min(count * block_bytes, part.image_bytes - low)
                read = source.reading(low, length)
                for at in range(0, length, buffer.size):
                    piece = buffer.data[: min(buffer.size, length - at)]
                    try:
                        read(piece)
                    except DataCorruptError:
                        _read_apart(source, piece, low + at, block_bytes)
                        read = source.reading(low + at + len(piece), length - at - len(piece))
                    for n in range(at, min(at + buffer.size, length), block_bytes):
                        place((low + n) // block_bytes, here + n - at)
            if progress is not None:
                progress(len(unit) * block_bytes)

    if source.has_image:
        copier.run(work, len(units))
        return
    lanes = Copier(_READERS)
    try:
        lanes.run(work, len(units))
    finally:
        lanes.close()


def _read_apart(source: PartSource, target: memoryview, offset: int, block_bytes: int) -> None:
    """Block by block, what the node refused to give at once: it compares, too.

    Raises:
        DataCorruptError: it names the first block that is refused.
    """
    for at in range(0, len(target), block_bytes):
        block = target[at : at + block_bytes]
        try:
            source.read_into(block, offset + at)
        except DataCorruptError as error:
            raise _corrupt(source.part, offset + at, len(block), in_memory=source.has_image, refused=error) from error


def _neighbours(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive blocks: the first, and how many."""
    first, count = blocks[0], 0
    for block in blocks:
        if block != first + count:
            yield first, count
            first, count = block, 0
        count += 1
    yield first, count


def _blocks(wanted: Sequence[Wanted], block_bytes: int) -> dict[int, list[_Piece]]:
    """What is wanted, by the block in which it lies."""
    blocks: dict[int, list[_Piece]] = {}
    for offset, length, target in wanted:
        done = 0
        while done < length:
            block, start = divmod(offset + done, block_bytes)
            piece_bytes = min(length - done, block_bytes - start)
            blocks.setdefault(block, []).append((target + done, start, piece_bytes))
            done += piece_bytes
    return blocks


def _verify_by_node(source: PartSource) -> None:
    """Where this process cannot, or the digests are not made yet: the node compares the objects with their checksums.

    Raises:
        DataCorruptError
    """
    part = source.part
    names: list[tuple[str, str]] = []
    if source.has_image and part.image is not None:
        names.append(part.image)
    else:
        names += [(part.bucket, key) for key in dict.fromkeys(run[2] for run in part.runs or ())]
    for bucket, key in names:
        query = {"bucket": bucket, "prefix": key}
        try:
            found: Any = source.client.request_json("POST", "/v1/verify", None, query, idempotent=True)
        except NotFoundError:
            continue  # it went since the plan was made: there is nothing to compare
        if found["broken"]:
            details = {"part": part.name, "bucket": bucket, "key": key, "broken": found["broken"]}
            raise DataCorruptError(f"part {part.name}: {bucket}/{key} does not match its checksum", details)


def _corrupt(
    part: PlannedPart, offset: int, length: int, *, in_memory: bool, refused: DataCorruptError | None = None
) -> DataCorruptError:
    """`refused`: what the node said; else the digest was compared here."""
    names = [
        shard.name for shard in part.shards if shard.offset < offset + length and offset < shard.offset + shard.length
    ]
    where = "in memory" if in_memory else "as it is stored"
    shown = ", ".join(name or "the tree of the state" for name in names[:5]) + (" …" if len(names) > 5 else "")
    why = "does not match its digest" if refused is None else f"was refused, {refused.message}"
    told = {} if refused is None else refused.details
    return DataCorruptError(
        f"part {part.name} {where}: the block at {offset} {why}; it holds {shown}",
        {**told, "part": part.name, "offset": offset, "length": length, "shards": names},
    )
