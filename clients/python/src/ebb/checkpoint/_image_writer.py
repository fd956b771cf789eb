"""Writes the image of a part: into a slot of the node where that is seen, else into memory of this process.

I1  The image is written whole, gaps too: a recycled file holds the bytes of others.
I2  What a writer holds (slot or memory) is its own until `commit` or `discard`: several may be under way at once.
I3  Whoever is interrupted gives up all that the node has given, also what it gave in an answer that was not read yet:
    the writer is there, and known to its caller, before the node is asked.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._staged import StagedFile
from ..errors import RequestInvalidError, UnsupportedError
from . import _arrays, _tree
from ._arrays import Spec
from ._copy import Run
from ._cuda import copy_from_devices
from ._image import Shard, align, encode_tail

if TYPE_CHECKING:
    from ._checkpointer import Checkpointer

_log = logging.getLogger("ebb.checkpoint")
#: Less than a block.
SMALL_BYTES = 64 * 1024


class Layout(NamedTuple):
    """Where the shards of an image lie."""

    shards: list[Shard]
    #: Bytes to the table.
    data_bytes: int
    #: (offset, length) of bytes between shards.
    gaps: list[tuple[int, int]]
    #: Table and footer.
    tail: bytes

    @property
    def image_bytes(self) -> int:
        return self.data_bytes + len(self.tail)


def layout_of(shards: list[Shard]) -> Layout:
    """Of shards that have their places."""
    gaps: list[tuple[int, int]] = []
    end = 0
    for offset, length in sorted((shard.offset, shard.length) for shard in shards):
        if offset > end:
            gaps.append((end, offset - end))
        end = max(end, offset + length)
    return Layout(shards, end, gaps, encode_tail(shards, end))


def lay_out(specs: Mapping[str, Spec], tree_bytes: int) -> Layout:
    """Large shards in the order given, then the small ones, so that those which change share few blocks with others;
    and behind them the tree: it changes its size, and moves nothing by that."""
    shards: list[Shard] = []
    end = 0
    for name, spec in sorted(specs.items(), key=lambda item: item[1].nbytes < SMALL_BYTES):
        shards.append(Shard(name, align(end), spec.nbytes, spec.dtype, spec.shape))
        end = shards[-1].offset + spec.nbytes
    shards.append(Shard(_tree.TREE, align(end), tree_bytes))
    return layout_of(shards)


class ImageWriter:
    """An image that is being filled.

    Attributes:
        session: that hands it over, and commits it.
        part: its name.
        key: of the image, which no other save has.
        room_bytes: what table and shards may take.
        view: the room.
        address: where that begins in this process.
        is_mapped: it lies in a slot of the node.
    """

    def __init__(self, owner: Checkpointer, step: int, session: str, part: str, room_bytes: int) -> None:
        self.step = step
        self.session = session
        self.part = part
        self.room_bytes = room_bytes
        self._owner = owner
        self._staged: StagedFile | None = None
        self._layout: Layout | None = None
        self._buffer: np.ndarray[Any, Any] | None = None
        self._claim = threading.Lock()

    def _acquire(self, place: tuple[str, str]) -> None:
        owner, room_bytes = self._owner, self.room_bytes
        self.key = place[1]
        staged = self._staged = owner.client.stage(*place, room_bytes, tier=0)
        if staged.path is not None:
            slot = owner.slots.open(staged, room_bytes)
            self.view = slot.view[:room_bytes]
            self.address = slot.address
            self.is_mapped = True
        else:
            self._buffer = owner.buffers.take(room_bytes)
            self.view = self._buffer.data[:room_bytes]
            self.address = _arrays.address(self._buffer)
            self.is_mapped = False

    @classmethod
    def open(
        cls,
        owner: Checkpointer,
        step: int,
        session: str,
        room_bytes: int,
        wait_s: float | None = None,
        part: str | None = None,
        opened: list[ImageWriter] | None = None,
    ) -> ImageWriter | None:
        """None: the run leaves the snapshot out.

        Args:
            session: of `Checkpointer.start`.
            opened: gets the writer before the node is asked (I3).
        """
        image = cls(owner, step, session, part or owner.part, room_bytes)
        if opened is not None:
            opened.append(image)
        try:
            place = owner.api.begin(step, session, image.part, room_bytes, wait_s)
            if place is None:
                return None
            image._acquire(place)
            return image
        except BaseException:
            image.give_up()
            raise

    def write(self, arrays: Iterable[tuple[Shard, Any]]) -> None:
        """Copies arrays to their places, several at a time. They may change when it returns.

        Raises:
            UnsupportedError: the memory of one is not there any more.
        """
        runs: list[Run] = []
        held: list[Any] = []
        on_devices: list[tuple[int, Any]] = []
        for shard, array in arrays:
            try:
                if _arrays.is_cuda(array):
                    _arrays.assert_there(array, shard.length)
                    on_devices.append((shard.offset, array))
                    continue
                address = _arrays.known_address_of(array, shard.length)
            except UnsupportedError as error:
                raise UnsupportedError(f"{shard.name}: {error.message}" if shard.name else error.message) from error
            if address is None:
                host = _arrays.host_copy(array)
                held.append(host)
                address = _arrays.address(host)
            runs.append(Run(self.address + shard.offset, address, shard.length))
        if on_devices:
            copy_from_devices(self.view, self.address, on_devices, register=self.is_mapped)
        self._owner.copier.copy(runs)
        del held

    def put(self, shard: Shard, data: bytes | memoryview) -> None:
        self.view[shard.offset : shard.offset + shard.length] = data

    def seal(self, layout: Layout) -> None:
        """Says what lies where, when all shards are written.

        Raises:
            RequestInvalidError: that does not fit the room.
        """
        if layout.image_bytes > self.room_bytes:
            raise RequestInvalidError(f"an image of {layout.image_bytes} bytes in a room of {self.room_bytes}")
        for offset, length in layout.gaps:
            ctypes.memset(self.address + offset, 0, length)  # I1
        self._layout = layout

    def take(self) -> bool:
        """Whoever takes it first ends it: the thread that hands it over, or the one that was interrupted."""
        return self._claim.acquire(blocking=False)

    def give_up(self) -> None:
        """Does what `abort` does, unless another thread has taken it."""
        if self.take():
            self.abort()

    def commit(self) -> None:
        """Hands the part over."""
        layout = self._layout
        assert layout is not None, "it is sealed"
        assert self._staged is not None, "it has a slot"
        image_bytes = layout.image_bytes
        self.view[layout.data_bytes : image_bytes] = layout.tail
        if not self.is_mapped:
            self._staged.write(self.view[:image_bytes])
        self._staged.commit(image_bytes, ack="memory")
        self._give_back()

    def discard(self) -> None:
        """Gives this image up, and leaves the other parts of the snapshot alone. Does nothing after a commit."""
        try:
            if self._staged is not None:
                self._staged.abort()
        finally:
            self._give_back()

    def abort(self) -> None:
        """Gives the snapshot up, so that its slot is free at once."""
        try:
            self.discard()
            self._owner.api.abort(self.step, self.session)
        except Exception as error:
            _log.debug("step %d could not be given up: %s", self.step, error)

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._owner.buffers.give_back(buffer)


def part_of_rank(rank: int) -> str:
    return f"rank-{rank:05d}"


def is_rank(part: str) -> bool:
    return part.startswith("rank-")
