"""Plans that a node must not give: whoever reads by one ends with an error, and neither loops nor writes beyond."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ebb._reader import LeasedReader
from ebb.checkpoint import Checkpointer
from ebb.checkpoint._api import Plan, PlannedPart
from ebb.checkpoint._direct import DirectObject
from ebb.checkpoint._image import Shard
from ebb.checkpoint._restore import PartSource
from ebb.errors import DataCorruptError

CONTENT = bytes(range(100))
#: Who reads more often than this reads for ever.
READS_MAX = 1000


class Reader:
    def __init__(self) -> None:
        self.left = READS_MAX

    def read_into(self, target: memoryview, offset: int) -> int:
        self.left -= 1
        assert self.left > 0, "it reads for ever"
        found = CONTENT[offset : offset + len(target)]
        target[: len(found)] = found
        return len(found)


class Client:
    @contextlib.contextmanager
    def open(self, bucket: str, key: str) -> Iterator[Reader]:
        yield Reader()


def part(**changes: Any) -> PlannedPart:
    made = PlannedPart("p", 90, "b", None, 50, None, [(0, 50, "k", 0), (50, 40, "k", 60)], [])
    return dataclasses.replace(made, **changes)


BROKEN = {
    "runs that end early": {"runs": [(0, 50, "k", 0), (50, 39, "k", 60)]},
    "no runs": {"runs": []},
    "runs that go on": {"runs": [(0, 50, "k", 0), (50, 41, "k", 50)]},
    "a gap": {"runs": [(0, 49, "k", 0), (50, 40, "k", 60)]},
    "a gap at the start": {"runs": [(1, 49, "k", 0), (50, 40, "k", 60)]},
    "an overlap": {"runs": [(0, 51, "k", 0), (50, 40, "k", 60)]},
    "another order": {"runs": [(50, 40, "k", 60), (0, 50, "k", 0)]},
    "an empty run": {"runs": [(0, 50, "k", 0), (50, 0, "k", 0), (50, 40, "k", 60)]},
    "a run from before its object": {"runs": [(0, 50, "k", -1), (50, 40, "k", 60)]},
    "a shard behind the end": {"shards": [Shard("w", 88, 3)]},
    "a shard before the start": {"shards": [Shard("w", -1, 3)]},
    "a shard of less than no bytes": {"shards": [Shard("w", 5, -3)]},
    "a shard that is longer than its shape": {"shards": [Shard("w", 0, 16, "float32", (3,))]},
    "a shard that is shorter than its shape": {"shards": [Shard("w", 0, 8, "float32", (3,))]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_is_read_by_a_plan_that_is_broken(name: str) -> None:
    for image in (None, ("b", "image")):
        with pytest.raises(DataCorruptError, match="the plan of part p is broken"):
            PartSource(Client(), part(image=image, **BROKEN[name]))  # type: ignore[arg-type]


@pytest.mark.parametrize("direct", [False, True])
def test_a_read_beyond_the_runs_of_a_plan_ends_with_an_error(direct: bool) -> None:
    objects = {"other": DirectObject("http://127.0.0.1:1/", "e")} if direct else {}
    source = PartSource(Client(), part(direct=objects))  # type: ignore[arg-type]
    target = np.zeros(90, np.uint8)
    source.read_into(target.data, 0)
    assert target.tobytes() == CONTENT[:50] + CONTENT[60:]
    target[:] = 0
    source.reading(0, 90)(target.data)
    assert target.tobytes() == CONTENT[:50] + CONTENT[60:]
    for offset in (89, 90, -1):
        with pytest.raises(DataCorruptError, match="does not say where byte"):
            source.read_into(target.data[:2], offset)
        with pytest.raises(DataCorruptError, match="does not say where byte"):
            source.reading(offset, 2)(target.data[:2])
    source.close()


def test_an_object_that_ends_before_what_is_planned_of_it_is_an_error() -> None:
    for changes in ({"runs": [(0, 90, "k", 11)]}, {"image": ("b", "k"), "image_bytes": 101, "runs": None}):
        source = PartSource(Client(), part(**changes))  # type: ignore[arg-type]
        with pytest.raises(DataCorruptError, match="b/k ends at 100, and 101 were expected"):
            source.read_into(memoryview(bytearray(source.part.image_bytes)), 0)
        source.close()


@pytest.mark.parametrize("how", ["restore", "restore into", "open"])
@pytest.mark.parametrize("name", ["early", "beyond"])
def test_a_plan_that_is_broken_is_told_with_the_step_to_go_back_to(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, how: str, name: str
) -> None:
    state = {"a": np.arange(200_000), "b": np.arange(100_000)}
    for step in (1, 2):
        checkpointer.save(step, state)
        checkpointer.wait(step, durability="disk")
    plan_of, read_into = checkpointer.api.plan, LeasedReader.read_into
    reads = iter(range(READS_MAX))

    def read_some(self: LeasedReader, buffer: Any, offset: int = 0) -> int:
        assert next(reads, None) is not None, "it reads for ever"
        return read_into(self, buffer, offset)

    def broken(step: Any, **options: Any) -> Plan:
        plan = plan_of(step, **options)
        [one] = plan.parts.values()
        if name == "early":
            assert one.runs is not None
            *first, (start, length, key, at) = one.runs
            one = dataclasses.replace(one, image=None, runs=[*first, (start, length - 300_000, key, at)])
        else:
            shards = [shard._replace(offset=shard.offset + 1_000_000) for shard in one.shards]
            one = dataclasses.replace(one, shards=shards, by_name={shard.name: shard for shard in shards})
        return dataclasses.replace(plan, parts={one.name: one})

    monkeypatch.setattr(checkpointer.api, "plan", broken)
    monkeypatch.setattr(LeasedReader, "read_into", read_some)
    with pytest.raises(DataCorruptError, match="the plan of part rank-00000 is broken") as found:
        if how == "open":
            checkpointer.open(2)
        else:
            into = None if how == "restore" else {name: np.zeros_like(array) for name, array in state.items()}
            checkpointer.restore(2, into=into)
    assert found.value.details["fallback"] == 1
