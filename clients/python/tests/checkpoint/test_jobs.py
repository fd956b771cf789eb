"""Several lives of a job, and several jobs, in one run."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ebb.checkpoint import Checkpointer, _checkpointer
from ebb.errors import BusyError, EbbError, NameInvalidError, NotFoundError, RequestInvalidError, SupersededError
from support import NodeProcess


def state(n: int) -> dict[str, np.ndarray]:
    return {"a": np.full(100_000, n, np.int64)}


def test_the_job_that_began_to_save_last_goes_on_and_the_other_is_told(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as old, Checkpointer(node.socket_url, run) as new:
        old.save(1, state(1))
        old.wait()
        new.save(2, state(2))
        new.wait()
        with pytest.raises(SupersededError, match=f"session {new.session} took over at step 2"):
            old.save(3, state(3))
        new.save(3, state(4))
        assert new.wait().step == 3
        assert new.restore().state["a"][0] == 4


def test_what_is_saved_after_going_back_is_kept_and_is_the_latest(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run, keep_last=3) as checkpointer:
        for step in range(1, 9):
            checkpointer.save(step, state(step))
            checkpointer.wait(durability="disk")
        assert checkpointer.restore(7).state["a"][0] == 7
        for step in (2, 3, 4):
            checkpointer.save(step, state(10 * step))
            assert checkpointer.wait(durability="disk").step == step
        assert checkpointer.latest() == 4
        assert checkpointer.restore().state["a"][0] == 40
        with pytest.raises(NotFoundError, match=r"removed since.*keep_last=3"):
            checkpointer.wait(8)
        assert [one.step for one in checkpointer.list()] == [4, 3, 2]


def test_a_session_that_comes_back_saves_steps_that_it_saved_before(node: NodeProcess, run: str) -> None:
    for n in (1, 2, 3):
        with Checkpointer(node.socket_url, run, session="given") as checkpointer:
            for step in (1, 2):
                checkpointer.save(step, state(n))
            checkpointer.wait()
    with Checkpointer(node.socket_url, run, session="given") as checkpointer:
        assert checkpointer.restore(1).state["a"][0] == 3
        assert checkpointer.restore(2).state["a"][0] == 3


def rank(node: NodeProcess, run: str, number: int) -> Checkpointer:
    return Checkpointer(node.socket_url, run, rank=number, world_size=2, session="one")


def test_a_commit_says_which_parts_did_not_come(node: NodeProcess, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checkpointer, "COMMIT_WAIT_S", 0.2)
    with rank(node, run, 0) as first:
        first.save(1, state(1))
        with pytest.raises(BusyError, match=r"step 1 of run .*: of 2 parts rank-00001 did not come.*may have died"):
            first.wait()


def test_who_waits_for_rank_0_is_told_that_it_gave_up(node: NodeProcess, run: str) -> None:
    with rank(node, run, 1) as second:
        second.save(1, state(1))
        second.flush()
        began_s = time.monotonic()
        with pytest.raises(KeyError), rank(node, run, 0) as first:
            # Its own part waits for a third rank, which is not there.
            first.world_size = 3
            first.save(1, state(1))
            raise KeyError("in the block")
        with pytest.raises(SupersededError, match="gave up its snapshot of step 1"):
            second.wait()
        assert time.monotonic() - began_s < 20


def test_waiting_for_a_snapshot_of_this_life_does_not_take_that_of_another(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as before:
        before.save(1, state(1))
        before.wait()
    with rank(node, run, 1) as second:
        second.save(1, state(2))
        with pytest.raises(EbbError, match="not on memory after"):
            second.wait(timeout=0.2)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", ".hidden", "x" * 129])
def test_a_name_that_is_no_run_is_refused_before_it_is_a_path(node: NodeProcess, name: str) -> None:
    with pytest.raises(NameInvalidError, match="letters, digits"):
        Checkpointer(node.socket_url, name)


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("keep_last", 0, "a whole number from 1 on, or None"),
        ("keep_every", 1.5, "a whole number of steps"),
        ("max_bytes", True, "a whole number from 1 on, or None"),
        ("max_age_s", 0.0001, r"seconds from 0\.001 on"),
        ("slots", 65, "a whole number from 1 to 64"),
        ("behind", "moon", "'wait', 'skip' or 'spill'"),
        ("superseded", None, "'store' or 'drop'"),
        ("delta", "no", "True or False"),
    ],
)
def test_what_a_policy_does_not_take_is_told_in_the_words_of_the_caller(
    node: NodeProcess, run: str, name: str, value: object, takes: str
) -> None:
    with pytest.raises(RequestInvalidError, match=f"{name}={value!r}: it takes {takes}"):
        Checkpointer(node.socket_url, run, **{name: value})


def test_policies_are_taken_as_they_were_given(node: NodeProcess, run: str) -> None:
    given = {"keep_last": np.int64(3), "keep_every": None, "max_bytes": 1e12, "max_age_s": 0.5, "slots": 3}
    with Checkpointer(node.socket_url, run, **given, behind="skip", superseded="drop", delta=False) as checkpointer:
        found = checkpointer.api.policy()
    counts = {"keepLast": 3, "keepEvery": None, "maxBytes": 10**12, "maxAgeMs": 500, "slots": 3}
    assert found == {**counts, "behind": "skip", "superseded": "drop", "delta": False}


def test_a_durability_that_is_none_is_told_at_once(node: NodeProcess, run: str) -> None:
    with (
        Checkpointer(node.socket_url, run) as checkpointer,
        pytest.raises(RequestInvalidError, match="durability 'moon' is none of memory, disk, remote"),
    ):
        checkpointer.wait(59, "moon")


@pytest.mark.parametrize("step", [-1, 1.5, "1", True, None, "../1"])
def test_what_is_no_step_is_refused(node: NodeProcess, run: str, step: object) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        for call in (
            lambda: checkpointer.save(step, state(1)),  # type: ignore[arg-type]
            lambda: checkpointer.restore(step),  # type: ignore[arg-type]
        ):
            with pytest.raises(RequestInvalidError, match="is no step"):
                call()
