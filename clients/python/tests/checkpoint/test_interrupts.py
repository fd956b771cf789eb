"""Signal handlers, Ctrl-C, forks and the end of the interpreter, in the middle of a save."""

from __future__ import annotations

import dis
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import numpy as np
import pytest

import ebb
from ebb.checkpoint import Checkpointer
from ebb.checkpoint._image_writer import ImageWriter
from ebb.errors import RequestInvalidError
from support import NodeProcess

SOURCES = str(Path(ebb.__file__).parent)


def state(n: int) -> dict[str, np.ndarray]:
    return {"a": np.full(1000, n, np.int64)}


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Sets what a SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda work: signal.signal(signal.SIGUSR1, lambda *_: work())
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts a save in the middle of its copy by SIGUSR1, once."""
    write = ImageWriter.write

    def interrupted(self: ImageWriter, arrays: Any) -> None:
        monkeypatch.setattr(ImageWriter, "write", write)
        signal.raise_signal(signal.SIGUSR1)
        write(self, arrays)

    monkeypatch.setattr(ImageWriter, "write", interrupted)


@pytest.mark.usefixtures("in_the_middle")
def test_a_save_in_a_signal_handler_that_interrupted_a_save_is_made_behind_that(
    node: NodeProcess, run: str, handle: Callable[..., None]
) -> None:
    with Checkpointer(node.socket_url, run, slots=1) as checkpointer:
        postponed = []
        handle(lambda: postponed.append(checkpointer.save(2, state(2))))
        checkpointer.save(1, state(1))
        snapshot = postponed[0].result(30)
        assert snapshot.step == 2
        assert checkpointer.wait().step == 2
        assert [one.step for one in checkpointer.list()] == [2, 1]
        assert checkpointer.restore(2).state["a"][0] == 2


@pytest.mark.usefixtures("in_the_middle")
def test_whatever_else_such_a_handler_calls_is_refused_at_once_with_what_to_do(
    node: NodeProcess, run: str, handle: Callable[..., None], tmp_path: Path
) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        told: list[str] = []

        def work() -> None:
            for call in (
                checkpointer.wait,
                checkpointer.flush,
                checkpointer.restore,
                lambda: checkpointer.save_directory(2, tmp_path),
                checkpointer.close,
            ):
                with pytest.raises(RequestInvalidError, match="set a flag in the handler") as refused:
                    call()
                told.append(str(refused.value))

        handle(work)
        checkpointer.save(1, state(1))
        assert checkpointer.wait().step == 1
        assert len(told) == 5
        assert "interrupted save" in told[0]


@pytest.mark.usefixtures("in_the_middle")
def test_a_handler_that_raises_ends_the_save_and_nothing_of_it_stays(
    node: NodeProcess, run: str, handle: Callable[..., None]
) -> None:
    def work() -> None:
        raise KeyError("in the handler")

    with Checkpointer(node.socket_url, run, slots=1) as checkpointer:
        handle(work)
        with pytest.raises(KeyError, match="in the handler"):
            checkpointer.save(1, state(1))
        checkpointer.save(2, state(2), wait_for_slot_s=0)
        assert checkpointer.wait().step == 2
        assert [one.step for one in checkpointer.list()] == [2]


def test_saves_in_a_handler_at_any_moment_end(node: NodeProcess) -> None:
    script = """
import signal, sys
import numpy as np
from ebb.checkpoint import Checkpointer

checkpointer = Checkpointer(sys.argv[1], "at-any-moment", keep_last=2)
state = {"a": np.zeros(1000)}
taken = 0
step = 0

def save():
    global step
    step += 1
    return checkpointer.save(step, state)

def handler(*_):
    global taken
    taken += 1
    if taken == 60:
        signal.setitimer(signal.ITIMER_REAL, 0)
    save()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.007)
while taken < 60:
    save()
    checkpointer.latest()
save()
checkpointer.flush()
print(checkpointer.latest() == step)
checkpointer.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, node.socket_url], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr[-4000:]


#: Behind these CPython looks whether there is a signal to be handled.
_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP_BACKWARD")


class Interrupt:
    """Ctrl-C at the `at`-th moment in this package at which a signal can come, on this thread; counts them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.moments = 0
        self._before: dict[FrameType, int] = {}

    def __enter__(self) -> Interrupt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._before.clear()

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before, self._before[frame] = self._before.get(frame), frame.f_lasti
            if before is not None and dis.opname[frame.f_code.co_code[before]].startswith(_LOOKS):
                self.moments += 1
                if self.moments == self.at:
                    sys.settrace(None)
                    raise KeyboardInterrupt
        return self._trace


# Sockets that are dropped in the middle are closed by the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_ctrl_c_at_any_step_of_a_save_the_next_one_has_its_slot(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run, slots=1, keep_last=1) as checkpointer:
        checkpointer.prepare(state(0))
        with Interrupt(None) as peace:
            checkpointer.save(1, state(1))
        checkpointer.flush()
        count = 80
        for n in range(count):
            with Interrupt(1 + n * peace.moments // count) as broken:
                try:
                    checkpointer.save(2 * n + 2, state(n))
                except KeyboardInterrupt:
                    assert broken.moments == broken.at
            checkpointer.save(2 * n + 3, state(n), wait_for_slot_s=5)
            assert checkpointer.wait().step == 2 * n + 3


def child_of(work: Callable[[], None]) -> int:
    """Forks, works there, and tells how the child ended; -SIGALRM when it hung."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        try:
            work()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_saves_and_restores_with_the_checkpointer_of_its_parent(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        checkpointer.save(1, state(1))
        checkpointer.wait()
        checkpointer.restore()
        held, enough = threading.Event(), threading.Event()

        def hold() -> None:
            with checkpointer._lock, checkpointer.slots._lock, checkpointer.copier._lock:
                held.set()
                enough.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)

        def work() -> None:
            assert checkpointer.restore().state["a"][0] == 1
            checkpointer.save(2, state(2))
            assert checkpointer.wait().step == 2

        ended = child_of(work)
        enough.set()
        holder.join()
        assert ended == 0
        checkpointer.save(2, state(3))
        checkpointer.wait()
        assert checkpointer.restore().state["a"][0] == 3


def test_a_forked_child_and_its_parent_save_one_step_at_once(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run, keep_last=20) as checkpointer:
        for step in range(10):
            ready, go = os.pipe()

            def work(step: int = step, ready: int = ready) -> None:
                os.read(ready, 1)
                checkpointer.save(step, {"who": 1, "a": np.full(300, 1)}).result(30)

            ended: list[int] = []
            child = threading.Thread(target=lambda work=work, ended=ended: ended.append(child_of(work)))
            child.start()
            os.write(go, b"1")
            checkpointer.save(step, {"who": 2, "a": np.full(200_000, 2)}).result(30)
            child.join()
            assert ended == [0]
            os.close(ready)
            os.close(go)
        for step in range(10):
            checkpointer.api.wait(step, "disk", 30)
            found = checkpointer.restore(step).state
            assert (found["a"] == found["who"]).all()
            assert len(found["a"]) == {1: 300, 2: 200_000}[found["who"]]


def test_a_forked_child_has_a_session_of_its_own(node: NodeProcess, run: str) -> None:
    with Checkpointer(node.socket_url, run) as checkpointer:
        other = Checkpointer(node.socket_url, run, rank=1, world_size=2, session="ranks")

        def work() -> None:
            assert checkpointer._returns > 0
            assert other._returns == 1, "as on all ranks"
            saved = checkpointer.save(7, state(7))
            assert saved.session == f"{checkpointer.session}~{checkpointer._returns}"
            saved.result(30)

        assert child_of(work) == 0
        assert checkpointer._returns == 0
        # The child is of the same job: the parent is told nothing, and goes on.
        checkpointer.save(8, state(8)).result(30)
        checkpointer.save(7, state(9)).result(30)
        assert checkpointer.restore(7).state["a"][0] == 9


def run_script(node: NodeProcess, run: str, script: str) -> subprocess.CompletedProcess[str]:
    start = "import atexit, sys\nimport numpy as np\nfrom ebb.checkpoint import Checkpointer\n"
    start += "checkpointer = Checkpointer(sys.argv[1], sys.argv[2])\n"
    command = [sys.executable, "-c", start + script, node.socket_url, run]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_save_that_failed_behind_the_back_of_a_program_that_ends_is_told(node: NodeProcess, run: str) -> None:
    refuse = """
def refuse(*_, **__):
    raise OSError("refused behind the back")
checkpointer.api.commit = refuse
checkpointer.save(1, {"a": np.ones(3)})
"""
    done = run_script(node, run, refuse)
    assert f"ebb: run {run}: a snapshot was not saved: refused behind the back" in done.stderr
    # Also when nobody has the Checkpointer any more.
    done = run_script(node, run, f"{refuse}del checkpointer\n")
    assert "a snapshot was not saved: refused behind the back" in done.stderr


def test_a_save_at_the_end_of_the_interpreter_is_made(node: NodeProcess, run: str) -> None:
    done = run_script(
        node,
        run,
        """
def save():
    checkpointer.save(7, {"a": np.ones(1_000_000)})
    print(checkpointer.wait().step)
atexit.register(save)
""",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_leaving_the_block_by_an_exception_waits_for_no_other_rank(node: NodeProcess, run: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(KeyError), Checkpointer(node.socket_url, run, rank=0, world_size=2, session="s") as first:
        first.save(1, state(1))
        raise KeyError("in the block")
    assert time.monotonic() - began_s < 20
