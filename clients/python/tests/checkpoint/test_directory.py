"""The directory contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from images import flip, flip_everywhere, image_path

from ebb.checkpoint import Checkpointer
from ebb.errors import AlreadyExistsError, DataCorruptError, RequestInvalidError, UnsupportedError
from support import NodeProcess


def written(path: Path) -> dict[str, bytes]:
    files = {
        "config.json": b"{}",
        "empty": b"",
        "weights/layer 0.bin": os.urandom(300_000),
        "weights/deep/layer-ü.bin": os.urandom(70_000),
    }
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "nothing/in here").mkdir(parents=True)
    return files


def found(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_what_is_written_comes_back(checkpointer: Checkpointer, tmp_path: Path) -> None:
    with checkpointer.directory(3, metadata={"by": "a test"}) as path:
        assert list(path.iterdir()) == []
        files = written(path)
    assert not path.exists()
    assert checkpointer.latest() == 3
    target = tmp_path / "out/checkpoint"
    snapshot = checkpointer.restore_directory("latest", target)
    assert snapshot.metadata == {"by": "a test"}
    assert found(target) == files
    assert (target / "nothing/in here").is_dir()
    assert [one.name for one in target.parent.iterdir()] == ["checkpoint"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "out").stat().st_mode & 0o777


def test_an_exception_saves_nothing(checkpointer: Checkpointer) -> None:
    with pytest.raises(ZeroDivisionError), checkpointer.directory(1) as path:
        written(path)
        _ = 1 / 0
    assert not path.exists()
    assert checkpointer.list() == []


def test_a_directory_that_is_there_is_replaced_when_asked(checkpointer: Checkpointer, tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.mkdir()
    with checkpointer.directory(1) as path:
        files = written(path)
    checkpointer.restore_directory(1, target)
    (target / "more").write_text("x")
    with pytest.raises(AlreadyExistsError):
        checkpointer.restore_directory(1, target)
    assert (target / "more").exists()
    checkpointer.restore_directory(1, target, overwrite=True)
    assert found(target) == files
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint"]


def test_links_to_directories_are_refused(checkpointer: Checkpointer, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="links to a directory"), checkpointer.directory(1) as path:
        (path / "link").symlink_to(tmp_path)
    with pytest.raises(UnsupportedError, match="no plain file"), checkpointer.directory(1) as path:
        os.mkfifo(path / "pipe")
    assert checkpointer.list() == []


def test_a_broken_file_is_found_and_nothing_appears(
    node: NodeProcess, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    for step in (1, 2):
        with checkpointer.directory(step) as path:
            files = written(path)
        checkpointer.wait(step, "remote")
    flip(image_path(checkpointer, 2), 1000)
    checkpointer.restore_directory(2, tmp_path / "a")
    assert found(tmp_path / "a") == files
    flip_everywhere(node, files["weights/deep/layer-ü.bin"])
    with pytest.raises(DataCorruptError) as caught:
        checkpointer.restore_directory(2, tmp_path / "b")
    assert caught.value.details["fallback"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_snapshot_writes_nothing_outside(checkpointer: Checkpointer, tmp_path: Path, monkeypatch: Any) -> None:
    from ebb.checkpoint import _directory

    real = _directory._look
    monkeypatch.setattr(_directory, "_look", lambda root: _directory._Found(real(root).files, ["../../outside"]))
    with checkpointer.directory(1) as path:
        written(path)
    with pytest.raises(DataCorruptError, match="no path in a directory"):
        checkpointer.restore_directory(1, tmp_path / "a/b")
    assert not (tmp_path / "outside").exists()


def test_the_kinds_of_snapshots_are_told_apart(checkpointer: Checkpointer, tmp_path: Path) -> None:
    with checkpointer.directory(1) as path:
        written(path)
    with pytest.raises(UnsupportedError):
        checkpointer.restore(1)
    checkpointer.save(2, {"a": 1})
    checkpointer.wait()
    with pytest.raises(UnsupportedError):
        checkpointer.restore_directory(2, tmp_path / "x")


def test_each_rank_has_a_directory(node: NodeProcess, run: str, tmp_path: Path) -> None:
    ranks = [Checkpointer(node.socket_url, run, rank=n, world_size=2, session="s") for n in range(2)]
    for n in (1, 0):
        with ranks[n].directory(1) as path:
            (path / f"rank-{n}.bin").write_text(str(n))
            (path / "shared").mkdir()
            (path / "shared/same").write_text(str(n))
    with pytest.raises(RequestInvalidError, match="shared/same is in the parts"):
        ranks[0].restore_directory(1, tmp_path / "a")
    ranks[0].restore_directory(1, tmp_path / "b", part="rank-00001")
    assert found(tmp_path / "b") == {"rank-1.bin": b"1", "shared/same": b"1"}
    for one in ranks:
        one.close()


def test_a_directory_whose_process_was_killed_goes_with_the_next_one_and_others_stay(
    node: NodeProcess, run: str, tmp_path: Path
) -> None:
    script = """
import os, sys
from ebb.checkpoint import Checkpointer

with Checkpointer(sys.argv[1], sys.argv[2]).directory(1, within=sys.argv[3]) as path:
    (path / "weights.bin").write_bytes(bytes(1_000_000))
    print(path, flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", script, node.socket_url, run, str(tmp_path)]
    other = tmp_path / "ebb-directory-of-somebody-else"
    other.symlink_to(tmp_path.parent)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process, Checkpointer(node.socket_url, run) as checkpointer:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with checkpointer.directory(2, within=str(tmp_path)):
            assert (left / "weights.bin").exists()
        process.kill()
        process.wait()
        with checkpointer.directory(3, within=str(tmp_path)):
            assert not left.exists()
    assert other.is_symlink()
