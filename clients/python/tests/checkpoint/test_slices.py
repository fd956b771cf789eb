"""Boxes as runs of bytes, against NumPy."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from ebb.torch._slices import runs_of_box, strides_of


@pytest.mark.parametrize("seed", range(20))
def test_the_runs_of_a_box_are_its_elements_in_order(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        shape = [chance.randint(1, 5) for _ in range(chance.randint(0, 4))]
        start = [chance.randint(0, n - 1) for n in shape]
        lengths = [chance.randint(0 if chance.random() < 0.1 else 1, n - at) for n, at in zip(shape, start)]
        array = np.arange(int(np.prod(shape, dtype=int)), dtype=np.int32).reshape(shape)
        box = array[tuple(slice(at, at + n) for at, n in zip(start, lengths))]
        runs = runs_of_box(shape, start, lengths, 4)
        found = b"".join(array.tobytes()[offset : offset + runs.length] for offset in runs.offsets)
        assert found == np.ascontiguousarray(box).tobytes(), (seed, shape, start, lengths)


def test_what_lies_together_is_one_run() -> None:
    assert runs_of_box((4, 6), (1, 0), (2, 6), 4) == (48, [24])
    assert runs_of_box((4, 6), (1, 2), (2, 3), 4) == (12, [32, 56])
    assert runs_of_box((3, 4, 6), (0, 0, 0), (3, 4, 6), 2) == (144, [0])
    assert runs_of_box((), (), (), 8) == (8, [0])
    assert runs_of_box((1,), (0,), (1,), 8).span == (0, 8)


def test_strides_are_row_major() -> None:
    assert strides_of((4, 3, 2)) == [6, 2, 1]
    assert strides_of(()) == []
