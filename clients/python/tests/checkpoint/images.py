"""Finds the files in which a node keeps a snapshot, and breaks them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from ebb.checkpoint import Checkpointer
from support import NodeProcess


def image_path(checkpointer: Checkpointer, step: int) -> Path:
    """Of this rank's part, in memory."""
    part = checkpointer.api.plan(step).parts[checkpointer.part]
    assert part.image is not None
    with checkpointer.client.open(*part.image) as reader:
        path = reader.local_path()
    assert path is not None
    return Path(path)


def flip(path: Path, offset: int) -> None:
    """By a disk that gives other bytes: it tells no time of change, by which tier 2 would take it for a new object."""
    seen = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def flip_everywhere(node: NodeProcess, array: Any, *, but: Path | None = None) -> None:
    """In each copy that the node has of these bytes: in memory, on disk and in tier 2; not below the directory `but`.

    The node is not asked for them: what is read, it may copy to memory.
    """
    needle = bytes(memoryview(array).cast("B")[:64])
    found = 0
    for root in (node.data_dir, node.memory_dir):
        for path in Path(root).rglob("*"):
            if not path.is_file() or path.stat().st_size == 0 or but in path.parents:
                continue
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                at = mapped.find(needle)
            if at >= 0:
                flip(path, at + 5)
                found += 1
    assert found > 0, "there is no copy"
