"""`Checkpointer` with arrays of NumPy: all that needs no framework."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from images import flip, flip_everywhere, image_path

import ebb
from ebb._reader import LeasedReader
from ebb.checkpoint import Checkpointer, UnsupportedValueError
from ebb.errors import (
    BusyError,
    DataCorruptError,
    DataLostError,
    EbbError,
    NotFoundError,
    PreconditionFailedError,
    RequestInvalidError,
    SupersededError,
    TierFullError,
    UnsupportedError,
)
from support import NodeProcess

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16", ">f4"]
BLOCK = 256 * 1024


def some_state(seed: int = 0, size: int = 1000) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    return {
        "arrays": {dtype: chance.integers(0, 2, (3, size)).astype(dtype) for dtype in DTYPES},
        "odd": [np.arange(20).reshape(4, 5).T, np.arange(30)[::3], np.array(2.5), np.empty((0, 3)), np.float32(7)],
        "values": (None, True, 3, 2**80, -1.5, float("inf"), "text ü", b"bytes", {1: "one", (2, "b"): [1, (2,)]}),
        "ordered": OrderedDict([("b", 1), ("a", np.ones(3))]),
    }


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, (np.ndarray, np.generic)):
        assert found.shape == expected.shape
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    elif isinstance(expected, dict):
        assert type(found) is type(expected)
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_same(one, other)
    else:
        assert found == expected
        assert type(found) is type(expected)


# -- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["auto", "http"])
def test_a_state_comes_back_as_it_was(node: NodeProcess, run: str, path: str) -> None:
    with ebb.Client(node.url, path=path) as client, Checkpointer(client, run) as checkpointer:
        states = {step: some_state(step) for step in range(4)}
        for step, state in states.items():
            checkpointer.save(step, state, metadata={"loss": str(step)})
        checkpointer.wait(3, "disk")
        for step, state in states.items():
            found = checkpointer.restore(step)
            assert_same(found.state, state)
            assert found.metadata == {"loss": str(step)}
        assert checkpointer.latest() == 3


def test_it_is_restored_in_place(checkpointer: Checkpointer) -> None:
    state = some_state()
    checkpointer.save(1, state)
    checkpointer.wait()
    into = some_state(1)
    kept = into["arrays"]["f4"]
    part = into["odd"][0]
    found = checkpointer.restore(into=into).state
    assert found["arrays"]["f4"] is kept
    assert found["odd"][0] is part
    assert np.array_equal(kept, state["arrays"]["f4"])
    assert np.array_equal(part, state["odd"][0])
    assert_same(found["values"], state["values"])


def test_arrays_under_two_names_are_one(checkpointer: Checkpointer) -> None:
    weight = np.arange(1000.0)
    checkpointer.save(1, {"a": weight, "b": weight[:], "c": weight.copy()})
    checkpointer.wait()
    part = checkpointer.api.plan(1).parts["rank-00000"]
    assert sorted(shard.name for shard in part.shards) == ["", "a", "c"]
    found = checkpointer.restore().state
    assert found["a"] is found["b"]
    assert found["c"] is not found["a"]
    apart = {name: np.zeros(1000) for name in "abc"}
    checkpointer.restore(into=apart)
    for name in "abc":
        assert np.array_equal(apart[name], weight)
    one = np.zeros(1000)
    checkpointer.restore(into={"a": one, "b": one, "c": one})
    assert np.array_equal(one, weight)


def test_keys_that_read_alike_are_kept_apart(checkpointer: Checkpointer) -> None:
    state = {"a.b": np.ones(3), "a": {"b": np.zeros(3)}, 1: np.full(3, 2.0), "1": np.full(3, 3.0)}
    checkpointer.save(1, state)
    checkpointer.wait()
    assert_same(checkpointer.restore().state, state)
    into = {"a.b": np.zeros(3), "a": {"b": np.ones(3)}, 1: np.zeros(3), "1": np.zeros(3)}
    checkpointer.restore(into=into)
    assert_same(into, state)


def test_a_value_that_is_no_state_is_named(checkpointer: Checkpointer) -> None:
    with pytest.raises(UnsupportedValueError, match=r"optim\.0\.fn is a builtins\.function"):
        checkpointer.save(1, {"optim": [{"fn": lambda: 1}]})
    with pytest.raises(UnsupportedError, match="dtype object"):
        checkpointer.save(1, {"a": np.array([{}])})
    assert checkpointer.list() == []


def test_ranks_that_have_no_session_in_common_are_refused(node: NodeProcess, run: str) -> None:
    for rank in range(2):
        with pytest.raises(RequestInvalidError, match=r"2 ranks without torch\.distributed .* the same session="):
            Checkpointer(node.socket_url, run, rank=rank, world_size=2)


def test_another_number_of_ranks_gets_a_part_only_when_it_asks_for_one(node: NodeProcess, run: str) -> None:
    four = [Checkpointer(node.socket_url, run, rank=n, world_size=4, session="s") for n in range(4)]
    for rank in reversed(four):
        rank.save(1, {"rank": rank.rank, "w": np.full(3, rank.rank)})
    for rank in four:
        rank.close()
    for size in (1, 2, 8):
        with Checkpointer(node.socket_url, run, rank=size - 1, world_size=size, session="t") as other:
            for call in (other.restore, other.open):
                with pytest.raises((RequestInvalidError, NotFoundError), match="has the parts rank-00000, rank-00001"):
                    call(1)
                assert call(1, part="rank-00003").state["rank"] == 3
            if size <= 4:
                assert other.restore(1, allow_partial=True).state["rank"] == size - 1
                assert other.open(1, allow_partial=True).state["rank"] == size - 1
    with (
        Checkpointer(node.socket_url, run, rank=1, world_size=8, session="t") as other,
        pytest.raises(RequestInvalidError, match="there are 8 ranks now: each would get one of 4 parts"),
    ):
        other.restore(1)
    with Checkpointer(node.socket_url, run, rank=2, world_size=4, session="u") as same:
        assert same.restore(1).state["rank"] == 2


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_all_differences_are_named_and_nothing_is_changed(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, {"w": np.ones((2, 3), np.float32), "b": np.ones(3), "gone": np.ones(1), "same": np.ones(4)})
    checkpointer.wait()
    into = {"w": np.zeros((2, 3)), "b": np.zeros(4), "new": np.zeros(1), "same": np.zeros(4)}
    with pytest.raises(RequestInvalidError) as caught:
        checkpointer.restore(into=into)
    assert sorted(caught.value.details["problems"]) == [
        "b is float64 [4] here, float64 [3] in the snapshot",
        "gone is in the snapshot only",
        "new is not in the snapshot",
        "w is float64 [2, 3] here, float32 [2, 3] in the snapshot",
    ]
    assert not into["same"].any()


def test_without_strict_what_both_have_is_restored(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, {"model": {"w": np.ones(3), "b": np.ones(2)}, "optim": {"m": np.ones(3)}})
    checkpointer.wait()
    into = {"model": {"w": np.zeros(3), "b": np.zeros(2)}}
    found = checkpointer.restore(into=into, strict=["model"]).state
    assert into["model"]["w"].all()
    assert found["optim"]["m"].all()
    with pytest.raises(RequestInvalidError, match=r"model\.b is in the snapshot only"):
        checkpointer.restore(into={"model": {"w": np.zeros(3)}}, strict=["model"])
    into = {"model": {"w": np.zeros(3), "other": np.zeros(1)}}
    checkpointer.restore(into=into, strict=False)
    assert into["model"]["w"].all()


def test_what_is_not_there_is_not_found(checkpointer: Checkpointer) -> None:
    assert checkpointer.latest() is None
    assert checkpointer.list() == []
    with pytest.raises(NotFoundError):
        checkpointer.restore()
    checkpointer.save(1, {"a": 1})
    checkpointer.wait()
    with pytest.raises(NotFoundError):
        checkpointer.restore(2)
    with pytest.raises(NotFoundError, match="rank-00007"):
        checkpointer.restore(1, part="rank-00007")


# -- while it is used ------------------------------------------------------------------------------------------------


def test_an_open_snapshot_is_memory_of_the_node(checkpointer: Checkpointer) -> None:
    state = some_state()
    checkpointer.save(1, state)
    checkpointer.wait()
    with checkpointer.open() as snapshot:
        assert_same(snapshot.state, state)
        kept = snapshot.state["arrays"]["f4"]
        assert not kept.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            kept[:] = 0
    for step in range(2, 6):
        checkpointer.save(step, some_state(step))
        checkpointer.wait(step, "disk")
    checkpointer.remove(1)
    assert np.array_equal(kept, state["arrays"]["f4"])


def test_a_stored_snapshot_is_opened_too(checkpointer: Checkpointer) -> None:
    for step in (1, 2):
        checkpointer.save(step, some_state(step))
        checkpointer.wait(step, "disk")
    await_image_gone(checkpointer, 1)
    with checkpointer.open(1) as snapshot:
        assert_same(snapshot.state, some_state(1))


def test_a_plan_that_is_out_of_date_is_made_anew(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpointer.save(step, some_state(step))
        checkpointer.wait(step, "disk")
    real = checkpointer.api.plan
    stale = [True]

    def plan(step: Any, **options: Any) -> Any:
        found = real(step, **options)
        if not stale:
            return found
        stale.pop()
        parts = {
            name: dataclasses.replace(part, image=("checkpoint-images", "gone"), runs=None)
            for name, part in found.parts.items()
        }
        return dataclasses.replace(found, parts=parts)

    monkeypatch.setattr(checkpointer.api, "plan", plan)
    assert_same(checkpointer.restore(1).state, some_state(1))
    stale.append(True)
    with checkpointer.open(1) as snapshot:
        assert_same(snapshot.state, some_state(1))


@pytest.mark.parametrize("error", [SupersededError, NotFoundError, PreconditionFailedError])
@pytest.mark.parametrize("where", ["in memory", "stored"])
def test_what_goes_while_it_is_restored_is_looked_up_again(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, error: type[EbbError], where: str
) -> None:
    for step in (1, 2):
        checkpointer.save(step, some_state(step))
        checkpointer.wait(step, "disk")
    step = 2
    if where == "stored":
        step = 1
        await_image_gone(checkpointer, step)
    failures = _failing_reads(monkeypatch, error)
    with Checkpointer(checkpointer.client, checkpointer.run) as reader:  # it has no slot mapped
        assert_same(reader.restore(step).state, some_state(step))
        assert failures == [1]
        failures.clear()
        with reader.open(step) as snapshot:
            assert_same(snapshot.state, some_state(step))
        assert failures == [1]
        failures[:] = [-1000]
        with pytest.raises(DataLostError, match=r"the newest older snapshot is step 1|no older snapshot"):
            reader.restore(step)


@pytest.mark.parametrize("error", [SupersededError, NotFoundError, PreconditionFailedError, DataLostError])
def test_of_an_image_that_goes_while_it_is_read_what_is_stored_is_read(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, error: type[EbbError]
) -> None:
    checkpointer.save(1, some_state())
    checkpointer.wait(1, "disk")
    failures = _failing_reads(monkeypatch, error)
    with Checkpointer(checkpointer.client, checkpointer.run) as reader:
        assert_same(reader.restore(1).state, some_state())
        assert failures == [1]
        failures.clear()
        with reader.open(1) as snapshot:
            assert_same(snapshot.state, some_state())
        assert failures == [1]


def _failing_reads(monkeypatch: pytest.MonkeyPatch, error: type[EbbError]) -> list[int]:
    """The first read, or mapping, of an object fails. How many have; those of a negative number fail, too."""
    failures: list[int] = []

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            if not failures or failures[0] < 0:
                failures[:] = [failures[0] + 1 if failures else 1]
                raise error("it went")
            return call(*args)

        return made

    monkeypatch.setattr(LeasedReader, "read_into", failing(LeasedReader.read_into))
    monkeypatch.setattr(ebb.Client, "open_map", failing(ebb.Client.open_map))
    return failures


def test_restores_go_on_while_others_save(checkpointer: Checkpointer) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    checkpointer.save(0, {"w": np.full(500_000, 0.0), "step": 0})
    checkpointer.wait()

    def read() -> None:
        try:
            while not stop.is_set():
                found = checkpointer.restore().state
                assert (found["w"] == found["step"]).all()
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 15):
        checkpointer.save(step, {"w": np.full(500_000, float(step)), "step": step})
    checkpointer.flush()
    stop.set()
    reader.join()
    assert failures == []


@pytest.mark.parametrize("stored", [False, True])
def test_a_job_that_goes_back_saves_steps_again(checkpointer: Checkpointer, stored: bool) -> None:
    for step in (1, 2, 3):
        checkpointer.save(step, {"a": np.full(100_000, step)})
    if stored:
        checkpointer.wait(durability="disk")
    for round in (10, 20):
        for step in (2, 2, 3):
            checkpointer.save(step, {"a": np.full(100_000, round + step)})
            if stored:
                checkpointer.wait(step, "disk")
        checkpointer.flush()
        for step, value in ((1, 1), (2, round + 2), (3, round + 3)):
            assert_same(checkpointer.restore(step).state, {"a": np.full(100_000, value)})
    # No slot is left behind.
    for step in range(4, 10):
        checkpointer.save(step, {"a": np.full(100_000, step)}, wait_for_slot_s=20)
    checkpointer.wait(9, "disk")
    assert_same(checkpointer.restore(2).state, {"a": np.full(100_000, 22)})


def test_asyncio(checkpointer: Checkpointer) -> None:
    async def work() -> None:
        await checkpointer.save_async(1, some_state())
        await checkpointer.wait_async(1)
        assert_same((await checkpointer.restore_async()).state, some_state())

    asyncio.run(work())


# -- slots -----------------------------------------------------------------------------------------------------------


def test_a_save_is_left_out_when_storing_is_behind(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run, slots=1, behind="skip") as checkpointer:
        held = checkpointer.api.begin(1, checkpointer.session, "rank-00000", 100, None)
        assert held is not None
        saving = checkpointer.save(2, {"a": np.ones(3)})
        assert saving.skipped
        assert saving.result() is None
        with pytest.raises(NotFoundError, match="left out"):
            checkpointer.wait(2)
        checkpointer.api.abort(1, checkpointer.session)
        assert not checkpointer.save(3, {"a": np.ones(3)}).skipped
        assert checkpointer.wait(3).step == 3


def test_a_step_that_nobody_saves_is_not_waited_for(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, {"a": np.ones(3)})
    started_s = time.monotonic()
    with pytest.raises(NotFoundError, match=r"no step 7.* timeout="):
        checkpointer.wait(7)
    assert time.monotonic() - started_s < 20
    assert checkpointer.wait(1).step == 1


def test_another_process_may_save_what_is_waited_for_with_a_timeout(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as trainer, Checkpointer(node.socket_url, run) as watcher:
        later = threading.Timer(0.5, trainer.save, (7, {"a": np.ones(3)}))
        later.start()
        assert watcher.wait(7, timeout=30).step == 7
        later.join()


def test_a_save_waits_for_a_slot(node: NodeProcess, run: str) -> None:
    client = ebb.Client(node.socket_url, retry=ebb.NO_RETRY)
    with client, Checkpointer(client, run, slots=1, behind="wait") as checkpointer:
        held = checkpointer.api.begin(1, checkpointer.session, "rank-00000", 100, None)
        assert held is not None
        with pytest.raises(BusyError):
            checkpointer.save(2, {"a": np.ones(3)}, wait_for_slot_s=0.05)
        done = threading.Event()

        def save() -> None:
            checkpointer.save(3, {"a": np.ones(3)})
            done.set()

        saver = threading.Thread(target=save)
        saver.start()
        assert not done.wait(0.2)
        checkpointer.api.abort(1, checkpointer.session)
        assert done.wait(30)
        saver.join()


def test_an_image_that_never_fits_is_refused(node: NodeProcess, run: str) -> None:
    with ebb.Client(node.socket_url, retry=ebb.NO_RETRY) as client, Checkpointer(client, run) as checkpointer:
        refuse_what_never_fits(checkpointer)


def refuse_what_never_fits(checkpointer: Checkpointer) -> None:
    with pytest.raises(TierFullError, match="memory-limit"):
        checkpointer.save(1, {"a": np.empty(300 * 1024 * 1024, np.uint8)})
    checkpointer.save(2, {"a": np.ones(3)})
    assert checkpointer.wait().step == 2


def test_a_failure_behind_the_back_is_raised_once(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise TierFullError("the test says so")

    with monkeypatch.context() as patched:
        patched.setattr(checkpointer.api, "commit", fail)
        checkpointer.save(1, {"a": 1})
        with pytest.raises(TierFullError):
            checkpointer.wait(1)
        checkpointer.save(2, {"a": 1}).await_end()
    with pytest.raises(TierFullError):
        checkpointer.save(3, {"a": 1})
    checkpointer.save(3, {"a": 1})
    checkpointer.flush()
    assert [one.step for one in checkpointer.list()] == [3]


def test_prepared_slots_take_the_first_save(checkpointer: Checkpointer) -> None:
    state = some_state(size=50_000)
    checkpointer.prepare(state)
    checkpointer.save(1, state)
    checkpointer.wait()
    assert_same(checkpointer.restore().state, state)


# -- bytes that changed ----------------------------------------------------------------------------------------------


def await_image_gone(checkpointer: Checkpointer, step: int) -> None:
    for _ in range(500):
        if not checkpointer.api.get(step).in_memory:
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"the image of step {step} stays")


def large(step: int) -> dict[str, Any]:
    chance = np.random.default_rng(step)
    return {"first": chance.random(BLOCK // 8), "second": chance.random(BLOCK // 2)}


def two_saved(checkpointer: Checkpointer) -> None:
    """Each copy that there will be is there."""
    for step in (1, 2):
        checkpointer.save(step, large(step))
        checkpointer.wait(step, "remote")


def test_a_broken_image_is_passed_over_for_what_is_stored(
    checkpointer: Checkpointer, caplog: pytest.LogCaptureFixture
) -> None:
    two_saved(checkpointer)
    flip(image_path(checkpointer, 2), BLOCK + 1000)
    into = {"first": np.zeros(BLOCK // 8), "second": np.zeros(BLOCK // 2)}
    with caplog.at_level("WARNING", "ebb.checkpoint"):
        checkpointer.restore(2, into=into)
    assert_same(into, large(2))
    assert "does not match its digest" in caplog.text
    assert "second" in caplog.text
    broken = checkpointer.api.verify(2)
    assert [one["source"] for one in broken["broken"]] == ["image"]


def test_a_right_copy_in_tier_2_is_read_when_those_here_are_broken(
    node: NodeProcess, checkpointer: Checkpointer
) -> None:
    two_saved(checkpointer)
    flip_everywhere(node, large(2)["second"], but=Path(node.data_dir) / "remote")
    assert_same(checkpointer.restore(2).state, large(2))


def test_when_all_are_broken_an_older_step_is_offered(node: NodeProcess, checkpointer: Checkpointer) -> None:
    two_saved(checkpointer)
    flip_everywhere(node, large(2)["second"])
    with pytest.raises(DataCorruptError, match=r"second.*newest older snapshot is step 1") as caught:
        checkpointer.restore()
    assert caught.value.details["fallback"] == 1
    assert caught.value.details["shards"] == ["second"]
    assert caught.value.details["part"] == "rank-00000"
    assert caught.value.details["offset"] == BLOCK
    checkpointer.mark_bad(2, "a flipped bit")
    assert checkpointer.latest() == 1
    assert_same(checkpointer.restore().state, large(1))
    checkpointer.mark_bad(2, None)
    assert checkpointer.latest() == 2


def test_the_stored_copy_alone_is_found_broken(node: NodeProcess, checkpointer: Checkpointer) -> None:
    two_saved(checkpointer)
    await_image_gone(checkpointer, 1)
    flip_everywhere(node, large(1)["first"])
    with pytest.raises(DataCorruptError, match="first") as caught:
        checkpointer.restore(1)
    assert caught.value.details["fallback"] is None
    with pytest.raises(DataCorruptError):
        checkpointer.restore(1, into=large(0))


def test_what_is_not_compared_is_not_found(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run, verify=False) as checkpointer:
        two_saved(checkpointer)
        flip(image_path(checkpointer, 2), BLOCK + 1000)
        assert not np.array_equal(checkpointer.restore().state["second"], large(2)["second"])


def test_a_broken_tree_is_found(checkpointer: Checkpointer) -> None:
    two_saved(checkpointer)
    part = checkpointer.api.plan(2).parts["rank-00000"]
    path = image_path(checkpointer, 2)
    flip(path, part.by_name[""].offset + 5)
    assert_same(checkpointer.restore(2).state, large(2))
