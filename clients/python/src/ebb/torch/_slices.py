"""Boxes of row-major arrays as runs of bytes. Pure: what a rank asks for, by where it lies in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """Equally long runs of bytes, in the order of the box's elements."""

    #: Bytes of each.
    length: int
    #: Where they begin in the array, in bytes.
    offsets: list[int]

    @property
    def span(self) -> tuple[int, int]:
        """First byte, and the byte behind the last."""
        return self.offsets[0], self.offsets[-1] + self.length


def runs_of_box(shape: Sequence[int], start: Sequence[int], lengths: Sequence[int], item_bytes: int) -> Runs:
    """The box of `lengths` elements that begins at `start`: as few runs as there are. None of an empty box."""
    if any(length == 0 for length in lengths):
        return Runs(0, [])
    strides = strides_of(shape)
    # The box has the last dimensions whole: they, and what it has of the one before, lie together.
    outer = len(shape)
    run = 1
    while outer > 0:
        outer -= 1
        run *= lengths[outer]
        if lengths[outer] != shape[outer]:
            break
    offsets = np.array([sum(at * stride for at, stride in zip(start, strides))], np.int64)
    for length, stride in zip(lengths[:outer], strides):
        offsets = (offsets[:, None] + np.arange(length, dtype=np.int64) * stride).reshape(-1)
    return Runs(run * item_bytes, (offsets * item_bytes).tolist())


def strides_of(shape: Sequence[int]) -> list[int]:
    """In elements, row-major."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return strides
