"""`kill -9` of the trainer and of the node, while snapshots are made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebb.checkpoint import Checkpointer
from ebb.errors import NotFoundError
from support import ONE_THREAD, NodeProcess

HERE = Path(__file__).resolve()
EXAMPLES = HERE.parents[2] / "examples/checkpoint"

TRAINER = """
import json, sys, time
import numpy as np
import ebb
from ebb.checkpoint import Checkpointer

with Checkpointer(sys.argv[1], sys.argv[2], keep_last=3) as checkpointer:
    step = checkpointer.latest() or 0
    while True:
        step += 1
        try:
            save = checkpointer.save(step, {"step": step, "w": np.full(2_000_000, float(step))})
            print(json.dumps({"begun": step}), flush=True)
            save.result()
            print(json.dumps({"committed": step}), flush=True)
        except ebb.EbbError as error:
            print(json.dumps({"failed": step, "code": error.code}), flush=True)
            time.sleep(0.1)
"""


class Trainer:
    """Saves as fast as it can."""

    def __init__(self, node: NodeProcess, run: str) -> None:
        command = [sys.executable, "-c", TRAINER, node.socket_url, run]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.committed = 0

    def until(self, kind: str, count: int) -> None:
        """Has said so often."""
        assert self._process.stdout is not None
        while count > 0:
            line = self._process.stdout.readline()
            assert line, "the trainer has ended"
            said: dict[str, Any] = json.loads(line)
            self.committed = said.get("committed", self.committed)
            count -= kind in said

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        if self._process.returncode is not None:
            return
        self._process.kill()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.committed = json.loads(line).get("committed", self.committed)
        self._process.stdout.close()
        self._process.wait()


def assert_complete(node: NodeProcess, run: str, at_least: int) -> int:
    with Checkpointer(node.socket_url, run) as checkpointer:
        latest = checkpointer.latest()
        assert latest is not None
        assert latest >= at_least
        for snapshot in checkpointer.list():
            try:
                found = checkpointer.restore(snapshot.step).state
            except NotFoundError:
                # A trainer that lives has newer ones, for which the run lets this one go.
                assert all(one.step != snapshot.step for one in checkpointer.list())
                continue
            assert found["step"] == snapshot.step
            assert np.array_equal(found["w"], np.full(2_000_000, float(snapshot.step)))
    return latest


def test_a_trainer_is_killed_while_it_saves(node: NodeProcess, run: str) -> None:
    latest = 0
    for count in (1, 2, 3):
        with Trainer(node, run) as trainer:
            trainer.until("begun", count)
        if trainer.committed == 0 and latest == 0:
            continue
        latest = assert_complete(node, run, max(trainer.committed, latest))
    assert latest > 0


def test_a_node_is_killed_while_a_trainer_saves(own_node: NodeProcess, run: str) -> None:
    with Trainer(own_node, run) as trainer:
        for _ in range(2):
            trainer.until("committed", 2)
            own_node.kill()
            committed = trainer.committed
            own_node.start()
            assert_complete(own_node, run, committed)
        trainer.until("committed", 1)
    assert_complete(own_node, run, trainer.committed)


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_example_goes_on_as_if_nothing_had_been(node: NodeProcess, tmp_path: Path) -> None:
    picture = tmp_path / "losses.png"
    command = [sys.executable, str(EXAMPLES / "drill.py"), "--node", node.socket_url, "--seed", "116"]
    command += ["--steps", "30", "--every", "3", "--kills", "2", "--plot", str(picture)]
    env = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "largest difference of a loss: 0.0" in done.stdout
    said = re.search(r"30 of 30 steps, resumed at \[0, \d+, (\d+)\]", done.stdout)
    assert said is not None, done.stdout
    assert int(said[1]) > 0
    if find_spec("matplotlib") is None:
        assert "matplotlib is not installed: no picture" in done.stdout
    else:
        assert f"curves: {picture}" in done.stdout
        assert picture.read_bytes().startswith(b"\x89PNG")
