"""Mappings of recycled files, kept from one snapshot to the next: the first touch of a page costs more than the copy.

A kept mapping keeps the memory of its file, also when the node has given the file up. So few are kept, and those whose
file has no name any more are dropped whenever a snapshot is made.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np

from .._locks import new_lock
from .._staged import StagedFile
from ..errors import IoFailedError, TierFullError
from ._cuda import unregister

_MAP_POPULATE = getattr(mmap, "MAP_POPULATE", 0x8000)


class Slot:
    """A writable mapping of a staged file.

    Attributes:
        view: its bytes.
        address: where they begin in this process.
        length: bytes.
        is_fresh: it was mapped just now, not found among the kept ones.
    """

    def __init__(self, fd: int, length: int) -> None:
        try:
            # Want of memory is an error here, and would be a signal without a word later.
            os.posix_fallocate(fd, 0, length)
            flags = mmap.MAP_SHARED | _MAP_POPULATE
            self._mapping = mmap.mmap(fd, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise TierFullError(
                    f"no {length} bytes of memory for an image: {error.strerror}; the file system of the node's memory "
                    "tier is smaller than its --memory-limit says, or others fill it",
                    {"needBytes": length},
                ) from error
            raise IoFailedError(f"cannot map a staged file: {error}") from error
        self._fd = fd
        self.view = memoryview(self._mapping)
        self._anchor = ctypes.c_char.from_buffer(self._mapping)
        self.address = ctypes.addressof(self._anchor)
        self.length = length
        self.is_fresh = True

    @property
    def has_name(self) -> bool:
        """Whether the file is still one of the node's."""
        return os.fstat(self._fd).st_nlink > 0

    def is_file(self, path: str) -> bool:
        there, here = os.stat(path), os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """The memory goes when the last view does."""
        unregister(self.address)
        del self._anchor
        self.view.release()
        with suppress(BufferError):  # somebody has a view: the mapping ends with that
            self._mapping.close()
        os.close(self._fd)


class SlotMappings:
    """The least recently used goes when there are more than `keep`. Thread-safe."""

    def __init__(self, keep: int = 4) -> None:
        self._keep = keep
        self._lock = new_lock()
        self._slots: OrderedDict[int, Slot] = OrderedDict()

    def open(self, staged: StagedFile, length: int) -> Slot:
        """
        Raises:
            TierFullError: the memory is not there, whatever the node was told its size is.
            IoFailedError: the file cannot be mapped.
        """
        path = staged.path
        assert path is not None, "the file is seen here"
        with self._lock:
            self._drop_nameless()
            slot = self._slots.get(staged.slot_id)
            if slot is not None and (slot.length < length or not slot.is_file(path)):
                del self._slots[staged.slot_id]
                slot.close()
                slot = None
            if slot is None:
                slot = Slot(staged.open_file(), length)
            else:
                slot.is_fresh = False
            if staged.slot_id != 0:
                self._slots[staged.slot_id] = slot
                self._slots.move_to_end(staged.slot_id)
                while len(self._slots) > self._keep:
                    self._slots.popitem(last=False)[1].close()
            return slot

    def find(self, path: str) -> memoryview | None:
        """The kept mapping of a file, for reading what was written there. It stays mapped while the view is held."""
        try:
            inode = os.stat(path).st_ino
        except OSError:
            return None
        with self._lock:
            slot = self._slots.get(inode)
            return slot.view[:] if slot is not None and slot.is_file(path) else None

    def close(self) -> None:
        with self._lock:
            for slot in self._slots.values():
                slot.close()
            self._slots.clear()

    def after_fork(self) -> None:
        """In the child: the parent's mappings are its own business."""
        self._slots = OrderedDict()

    def _drop_nameless(self) -> None:
        for slot_id, slot in list(self._slots.items()):
            if not slot.has_name:
                del self._slots[slot_id]
                slot.close()


class Buffers:
    """Memory of this process for images that go through the node; kept, so that its pages are there the next time.

    Thread-safe.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._lock = new_lock()
        self._free: list[np.ndarray[Any, Any]] = []

    def take(self, length: int) -> np.ndarray[Any, Any]:
        """At least `length` bytes, the caller's own until `give_back`."""
        with self._lock:
            for n, found in enumerate(self._free):
                if found.size >= length:
                    return self._free.pop(n)
        return np.empty(length, np.uint8)

    def after_fork(self) -> None:
        """In the child."""
        self._free = []

    def give_back(self, buffer: np.ndarray[Any, Any]) -> None:
        """The largest stay."""
        with self._lock:
            self._free.append(buffer)
            self._free.sort(key=len)
            del self._free[: -self._keep]
