"""fsspec's own tests of file systems, and what is ours beyond them."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec
import fsspec.tests.abstract as abstract
import pytest

import ebb
from ebb.fsspec import EbbFileSystem
from support import NodeProcess
from test_client import MIB, noise


@pytest.fixture(params=["auto", "http"])
def fs(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[EbbFileSystem]:
    made = fsspec.filesystem("ebb", node=node.url, path=request.param, skip_instance_cache=True)
    yield made
    made.client.close()


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture(scope="class")
    def fs(self, node: NodeProcess) -> Iterator[EbbFileSystem]:
        made = fsspec.filesystem("ebb", node=node.url, skip_instance_cache=True)
        made.mkdir("abstract", preset="ephemeral")
        yield made
        made.rm("abstract", recursive=True)
        made.client.close()

    @pytest.fixture
    def fs_path(self) -> str:
        return "abstract"

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


def test_the_protocol_is_known_by_installing(node: NodeProcess, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBB_NODE", node.url)
    with fsspec.open(f"ebb://{bucket}/a.txt", "w") as file:
        file.write("text\nlines\n")
    with fsspec.open(f"ebb://{bucket}/a.txt", "r") as file:
        assert file.readlines() == ["text\n", "lines\n"]
    with fsspec.open(f"ebb://{bucket}/a.txt.gz", "wb", compression="infer") as file:
        file.write(b"packed")
    with fsspec.open(f"ebb://{bucket}/a.txt.gz", "rb", compression="infer") as file:
        assert file.read() == b"packed"
    fs, path = fsspec.url_to_fs(f"ebb://{bucket}/a.txt")
    assert (type(fs), path) == (EbbFileSystem, f"{bucket}/a.txt")


def test_files_read_as_files(fs: EbbFileSystem, bucket: str) -> None:
    data = noise(3 * MIB + 7)
    fs.pipe(f"{bucket}/k", data)
    with fs.open(f"{bucket}/k") as file:
        assert (file.size, file.seekable(), file.read(10)) == (len(data), True, data[:10])
        assert file.seek(-5, 2) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read(1) == b""
        file.seek(MIB)
        target = bytearray(MIB)
        assert file.readinto(target) == MIB
        assert target == data[MIB : 2 * MIB]
    assert fs.cat(f"{bucket}/k") == data
    assert fs.cat_file(f"{bucket}/k", -4) == data[-4:]
    assert fs.cat_file(f"{bucket}/k", 5, -5) == data[5:-5]
    assert fs.head(f"{bucket}/k", 3) == data[:3]
    assert fs.tail(f"{bucket}/k", 3) == data[-3:]


def test_ranges_of_many_files(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe({f"{bucket}/a": b"0123456789", f"{bucket}/b": b"abcdef"})
    paths = [f"{bucket}/a", f"{bucket}/b", f"{bucket}/a", f"{bucket}/none"]
    found = fs.cat_ranges(paths, [0, 1, 8, 0], [3, None, 100, 1])
    assert found[:3] == [b"012", b"bcdef", b"89"]
    assert isinstance(found[3], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 0, 1, on_error="raise")


def test_listings_tell_files_from_directories(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe({f"{bucket}/{key}": b"x" for key in ("a", "dir/b", "dir/sub/c", "dirx/d")})
    fs.mkdir(f"{bucket}/empty")
    assert fs.ls(bucket, detail=False) == [f"{bucket}/a", f"{bucket}/dir", f"{bucket}/dirx", f"{bucket}/empty"]
    assert fs.ls(f"ebb://{bucket}/dir/", detail=False) == [f"{bucket}/dir/b", f"{bucket}/dir/sub"]
    assert [row["type"] for row in fs.ls(f"{bucket}/dir")] == ["file", "directory"]
    assert fs.ls(f"{bucket}/a", detail=False) == [f"{bucket}/a"]
    assert fs.ls(f"{bucket}/empty") == []
    assert bucket in fs.ls("", detail=False)
    assert fs.find(bucket) == [f"{bucket}/{key}" for key in ("a", "dir/b", "dir/sub/c", "dirx/d")]
    assert fs.find(f"{bucket}/dir", maxdepth=1) == [f"{bucket}/dir/b"]
    assert fs.find(f"{bucket}/a") == [f"{bucket}/a"]
    assert fs.find(f"{bucket}/none") == []
    assert fs.glob(f"{bucket}/dir/**/c") == [f"{bucket}/dir/sub/c"]
    assert fs.du(bucket) == 4
    for missing in (f"{bucket}/none", "no-such-bucket", "no-such-bucket/k"):
        assert not fs.exists(missing)
        with pytest.raises(FileNotFoundError):
            fs.ls(missing)
        with pytest.raises(FileNotFoundError):
            fs.info(missing)


def test_times_and_keys_are_those_of_the_version(fs: EbbFileSystem, bucket: str) -> None:
    path = f"{bucket}/k"
    fs.pipe(path, b"one")
    before = (fs.ukey(path), fs.checksum(path))
    assert before == (fs.ukey(path), fs.checksum(path))
    assert abs(fs.created(path) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert fs.modified(path) == fs.created(path)
    fs.pipe(path, b"two")
    assert fs.ukey(path) != before[0]
    assert fs.checksum(path) != before[1]


def test_a_file_is_published_at_its_close_and_not_when_an_exception_leaves_it(fs: EbbFileSystem, bucket: str) -> None:
    path = f"{bucket}/k"
    with fs.open(path, "wb") as file:
        file.write(b"a" * MIB)
        file.write(b"b" * 3 * MIB)
        assert file.tell() == 4 * MIB
        assert not fs.exists(path)
    assert fs.size(path) == 4 * MIB
    with pytest.raises(RuntimeError), fs.open(path, "wb") as file:
        file.write(b"half")
        raise RuntimeError
    dropped = fs.open(path, "wb")
    dropped.write(b"half")
    del dropped
    assert fs.size(path) == 4 * MIB


def test_appending_takes_over_what_is_there(fs: EbbFileSystem, bucket: str) -> None:
    path = f"{bucket}/log"
    for line in (b"one\n", b"two\n"):
        with fs.open(path, "ab") as file:
            file.write(line)
    assert fs.cat(path) == b"one\ntwo\n"
    file = fs.open(path, "ab")
    file.write(b"lost")
    fs.pipe(path, b"replaced meanwhile")
    with pytest.raises(ebb.EbbError, match="precondition_failed"):
        file.close()
    assert fs.cat(path) == b"replaced meanwhile"


def test_a_transaction_publishes_at_its_end_or_not_at_all(fs: EbbFileSystem, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"local")
    with fs.transaction:
        fs.pipe(f"{bucket}/a", b"a")
        with fs.open(f"{bucket}/b", "wb") as file:
            file.write(b"b")
        fs.put_file(str(tmp_path / "local"), f"{bucket}/c")
        assert fs.find(bucket) == []
    assert fs.find(bucket) == [f"{bucket}/a", f"{bucket}/b", f"{bucket}/c"]
    with pytest.raises(RuntimeError), fs.transaction:
        fs.pipe(f"{bucket}/d", b"d")
        raise RuntimeError
    assert not fs.exists(f"{bucket}/d")
    fs.pipe(f"{bucket}/after", b"x")
    assert fs.exists(f"{bucket}/after")


def test_moves_are_one_step_and_leave_neighbours_alone(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe({f"{bucket}/{key}": key.encode() for key in ("f", "a/1", "a/2/3", "ab")})
    fs.mv(f"{bucket}/f", f"{bucket}/g")
    assert fs.cat(f"{bucket}/g") == b"f"
    version = fs.info(f"{bucket}/a/1")["etag"]
    fs.mv(f"{bucket}/a", f"{bucket}/b", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/{key}" for key in ("ab", "b/1", "b/2/3", "g")]
    assert fs.info(f"{bucket}/b/1")["etag"].split("-")[1] == version.split("-")[1]
    fs.mv(f"{bucket}/g", f"{bucket}/b")
    assert fs.cat(f"{bucket}/b/g") == b"f"
    with pytest.raises(IsADirectoryError):
        fs.mv(f"{bucket}/b", f"{bucket}/c")
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{bucket}/none", f"{bucket}/c")
    with pytest.raises(ValueError, match="itself"):
        fs.mv(f"{bucket}/b", f"{bucket}/b/2", recursive=True)
    fs.mv(f"{bucket}/b/*", f"{bucket}/d/", recursive=True)
    assert fs.find(f"{bucket}/d") == [f"{bucket}/d/{key}" for key in ("1", "2/3", "g")]


def test_directories_and_buckets(fs: EbbFileSystem, bucket: str) -> None:
    fs.makedirs(f"{bucket}/x/y")
    assert fs.isdir(f"{bucket}/x/y")
    assert fs.isdir(f"{bucket}/x")
    fs.makedirs(f"{bucket}/x/y", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs(f"{bucket}/x/y")
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{bucket}/x")
    with pytest.raises(OSError, match="objects"):
        fs.rmdir(f"{bucket}/x")
    fs.rmdir(f"{bucket}/x/y")
    assert not fs.exists(f"{bucket}/x")
    fs.pipe(f"{bucket}/f", b"x")
    with pytest.raises(FileExistsError):
        fs.makedirs(f"{bucket}/f", exist_ok=True)
    with pytest.raises(IsADirectoryError):
        fs.rm(bucket)
    made = f"{bucket}-made"
    fs.mkdir(f"{made}/deep", preset="ephemeral")
    assert fs.client.bucket(made).policy["preset"] == "ephemeral"
    fs.rm(made, recursive=True)
    assert not fs.exists(made)
    fs.rm(f"{bucket}/f")
    fs.rmdir(bucket)
    assert not fs.exists(bucket)


def test_local_files_come_and_go(fs: EbbFileSystem, bucket: str, tmp_path: Path) -> None:
    data = noise(MIB + 3)
    (tmp_path / "in").write_bytes(data)
    fs.put(str(tmp_path / "in"), f"{bucket}/k")
    fs.get(f"{bucket}/k", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data


def test_a_file_system_travels_to_other_processes(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe(f"{bucket}/k", b"x")
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat(f"{bucket}/k") == b"x"
    again.client.close()


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed here")
def test_pandas_reads_and_writes(node: NodeProcess, bucket: str) -> None:
    import pandas as pd

    options = {"node": node.url}
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    frame.to_csv(f"ebb://{bucket}/t.csv", index=False, storage_options=options)
    assert pd.read_csv(f"ebb://{bucket}/t.csv", storage_options=options).equals(frame)
    if importlib.util.find_spec("pyarrow") is not None:
        frame.to_parquet(f"ebb://{bucket}/t.parquet", storage_options=options)
        assert pd.read_parquet(f"ebb://{bucket}/t.parquet", storage_options=options).equals(frame)
