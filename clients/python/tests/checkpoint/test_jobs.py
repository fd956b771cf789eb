"""Several lives of a job, and several jobs, in one run."""

from __future__ import annotations

import threading
import time
from typing import Callable

import numpy as np
import pytest

from ebb.checkpoint import Checkpointer, _checkpointer
from ebb.checkpoint._api import RunApi
from ebb.errors import (
    AlreadyCommittedError,
    BusyError,
    EbbError,
    NameInvalidError,
    NotFoundError,
    RequestInvalidError,
    SupersededError,
)
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


def whose(n: int) -> dict[str, object]:
    """A state that tells who saved it, of another size than others."""
    return {"who": n, "a": np.full((200_000, 300)[n % 2], n, np.int64)}


def at_once(*work: Callable[[], object]) -> list[object]:
    """What comes of each, on a thread of its own; errors too."""
    start = threading.Barrier(len(work))
    found: list[object] = [None] * len(work)

    def run(n: int) -> None:
        start.wait(30)
        try:
            found[n] = work[n]()
        except EbbError as error:
            found[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def assert_whole(checkpointer: Checkpointer, step: int) -> None:
    checkpointer.api.wait(step, "disk", 30)
    found = checkpointer.restore(step).state
    assert (found["a"] == found["who"]).all()
    assert len(found["a"]) == len(whose(found["who"])["a"])  # type: ignore[arg-type]
    assert not checkpointer.api.verify(step)["broken"]


def test_two_threads_that_save_one_step_at_once_have_a_snapshot_each(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        for step in range(8):
            found = at_once(
                lambda step=step: checkpointer.save(step, whose(0)).result(30),
                lambda step=step: checkpointer.save(step, whose(1)).result(30),
            )
            assert [type(one).__name__ for one in found] == ["Snapshot", "Snapshot"]
            assert_whole(checkpointer, step)


def test_each_save_of_a_process_has_a_session_that_no_other_save_of_its_step_has(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        asked: list[tuple[int, str]] = []

        def begin(step: int) -> None:
            checkpointer.start(step, lambda session: asked.append((step, session)))

        work = [lambda n=n: [begin(step) for step in ((5, 2, 5), (3, 5, 5), (5, 4, 3))[n]] for n in range(3)]
        at_once(*work)
        assert len(asked) == 9
        assert len(set(asked)) == 9


def test_two_processes_of_one_session_mix_nothing_and_go_on(node: NodeProcess, run: str) -> None:
    with (
        Checkpointer(node.socket_url, run, session="twice") as first,
        Checkpointer(node.socket_url, run, session="twice") as second,
    ):
        for step in range(8):
            found = at_once(
                lambda step=step: first.settle(first.save(step, whose(0)), 30),
                lambda step=step: second.settle(second.save(step, whose(1)), 30),
            )
            errors = [one for one in found if isinstance(one, Exception)]
            assert len(errors) <= 1
            assert all(isinstance(one, AlreadyCommittedError) for one in errors)
            assert_whole(first, step)


def test_who_commits_second_what_its_session_has_committed_is_told_and_goes_on(
    node: NodeProcess, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, begin = threading.Barrier(2), RunApi.begin

    def begun(self: RunApi, *args: object) -> object:
        found = begin(self, *args)  # type: ignore[arg-type]
        both.wait(30)
        return found

    with (
        Checkpointer(node.socket_url, run, session="twice") as first,
        Checkpointer(node.socket_url, run, session="twice") as second,
    ):
        monkeypatch.setattr(RunApi, "begin", begun)
        found = at_once(
            lambda: first.settle(first.save(1, whose(0)), 30), lambda: second.settle(second.save(1, whose(1)), 30)
        )
        monkeypatch.undo()
        (told,) = [one for one in found if isinstance(one, AlreadyCommittedError)]
        assert "session twice has committed another save of step 1" in told.message
        assert_whole(first, 1)
        kept = first.restore(1).state["who"]
        assert kept == (0 if found[1] is told else 1)
        later = (first if kept == 1 else second).save(2, whose(kept))
        assert later.session == "twice~1"
        later.result(30)


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
