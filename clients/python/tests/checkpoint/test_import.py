"""A node that is lost with its disk: another one goes on with what tier 2 has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ebb
from ebb.checkpoint import Checkpointer
from ebb.errors import DataCorruptError
from support import NodeProcess


def _state(step: int) -> dict[str, object]:
    """Of which one array stays as it is."""
    fixed = np.arange(3_000_000, dtype=np.float32)
    return {"step": step, "fixed": fixed, "changing": np.full(100_000, float(step))}


def _save(node: NodeProcess, *steps: int) -> None:
    with Checkpointer(node.socket_url, "gpt") as checkpointer:
        for step in steps:
            checkpointer.save(step, _state(step))
        checkpointer.wait(durability="remote")


def _import(node: NodeProcess) -> None:
    with ebb.Client(node.socket_url) as client:
        answer = client.request_json("POST", "/v1/runs/import", {"run": "gpt"})
        assert answer["refused"] == []


def test_another_node_restores_what_a_lost_one_saved_and_the_job_goes_on(tmp_path: Path) -> None:
    remote = f"--remote=file://{tmp_path}/remote"
    with NodeProcess(remote) as lost:
        _save(lost, 1, 2)
        lost.kill()
    with NodeProcess(remote) as node:
        _import(node)
        with Checkpointer(node.socket_url, "gpt", keep_last=2) as checkpointer:
            assert checkpointer.latest() == 2
            into = {"step": 0, "fixed": np.zeros(3_000_000, np.float32), "changing": np.zeros(100_000)}
            restored = checkpointer.restore("latest", into=into)
            assert restored.step == 2
            assert restored.state["step"] == 2
            assert np.array_equal(into["fixed"], _state(2)["fixed"])
            assert np.array_equal(into["changing"], _state(2)["changing"])
            checkpointer.save(3, _state(3))
            checkpointer.wait(durability="remote")
            snapshots = {one.step: one for one in checkpointer.list()}
            assert snapshots[3].new_bytes is not None
            assert snapshots[3].new_bytes < 3_000_000
            assert np.array_equal(checkpointer.restore(3).state["fixed"], _state(3)["fixed"])


def test_bytes_that_changed_in_tier_2_are_noticed_when_they_are_restored(tmp_path: Path) -> None:
    remote = f"--remote=file://{tmp_path}/remote"
    with NodeProcess(remote) as lost:
        _save(lost, 1)
    data = tmp_path / "remote/checkpoints/gpt/000000000001/rank-00000"
    content = bytearray(data.read_bytes())
    content[5_000_000] ^= 1
    data.write_bytes(content)
    with NodeProcess(remote) as node:
        _import(node)
        with Checkpointer(node.socket_url, "gpt") as checkpointer, pytest.raises(DataCorruptError, match="fixed"):
            checkpointer.restore("latest")
