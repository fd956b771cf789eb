"""fsspec's own tests of file systems, and what is ours beyond them."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import multiprocessing
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


@pytest.fixture(autouse=True)
def _close_what_fsspec_keeps() -> Iterator[None]:
    yield
    for one in EbbFileSystem._cache.values():
        if one._client is not None:
            one._client.close()
    EbbFileSystem.clear_instance_cache()


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


def test_an_open_reader_travels_to_another_process_at_its_place_and_version(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe(f"{bucket}/a", noise(3 * MIB))
    with fs.open(f"{bucket}/a") as file:
        file.seek(1000)
        file.read(500)
        packed = pickle.dumps(file)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_digest, (packed,)) == hashlib.sha256(noise(3 * MIB)[1500:]).hexdigest()
        with pickle.loads(packed) as again, copy.copy(file) as copied:
            assert (again.tell(), again.path, again.size) == (1500, file.path, file.size)
            assert again.read(10) == copied.read(10) == file.read(10)
    fs.pipe(f"{bucket}/a", b"another version")
    with pytest.raises(ebb.errors.PreconditionFailedError, match="was replaced since it was opened"):
        pickle.loads(packed)
    fs.rm(f"{bucket}/a")
    with pytest.raises(FileNotFoundError):
        pickle.loads(packed)
    with fs.open(f"{bucket}/b", "wb") as writer, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(writer)


def _digest(packed: bytes) -> str:
    with pickle.loads(packed) as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_open_files_have_what_those_of_other_file_systems_have(fs: EbbFileSystem, bucket: str) -> None:
    path = f"{bucket}/a"
    with fs.open(path, "wb", block_size=4096, cache_type="readahead") as file:
        assert (file.mode, file.path, file.closed, file.tell()) == ("wb", path, False, 0)
        file.write(b"one\ntwo\nthree")
    with fs.open(path, "rb", block_size=4096, cache_type="none") as file:
        assert (file.mode, file.path, file.full_name, file.size, file.loc) == ("rb", path, f"ebb://{path}", 13, 0)
        assert file.fs is fs
        assert file.blocksize > 0
        assert file.details == fs.info(path)
        assert file.readuntil(b"\n") == b"one\n"
        assert (file.loc, file.readuntil(b"w", blocks=1)) == (4, b"tw")
        assert [file.readable(), file.seekable(), file.writable()] == [True, True, False]
    assert file.closed


def test_info_says_what_others_say_in_their_words(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe(f"{bucket}/a", b"abc")
    info = fs.info(f"{bucket}/a")
    assert {"name", "size", "type", "etag", "ETag", "LastModified", "mtime", "created"} <= set(info)
    assert info["LastModified"] == info["mtime"] == fs.modified(f"{bucket}/a")
    assert fs.ls(bucket, detail=True) == [info]


def test_slashes_in_front_mean_nothing(fs: EbbFileSystem, bucket: str) -> None:
    fs.pipe(f"/{bucket}/d/a", b"abc")
    for path in (f"{bucket}/d/a", f"/{bucket}/d/a", f"ebb://{bucket}/d/a", f"ebb:///{bucket}/d/a"):
        assert fs.cat(path) == b"abc"
        assert fs.info(path)["name"] == f"{bucket}/d/a"
        assert fs.exists(path)
        assert fs.glob(path) == [f"{bucket}/d/a"]
        assert fs.unstrip_protocol(path) == f"ebb://{bucket}/d/a"
    assert fs.ls(f"/{bucket}/d", detail=False) == fs.find(f"/{bucket}") == [f"{bucket}/d/a"]
    assert [root for root, _, _ in fs.walk(f"/{bucket}")] == [bucket, f"{bucket}/d"]
    assert fs.du(f"/{bucket}") == 3
    fs.mv(f"/{bucket}/d/a", f"/{bucket}/b")
    fs.cp(f"/{bucket}/b", f"/{bucket}/c")
    fs.rm(f"/{bucket}/b")
    assert fs.find(bucket) == [f"{bucket}/c"]
    assert fs.info("/")["type"] == "directory"


@pytest.mark.parametrize("where", ["{}/nothing", "no-such-bucket-here/a", "No_Bucket!/a", "{}/" + "x" * 2000])
def test_what_is_missing_is_told_by_its_path(fs: EbbFileSystem, bucket: str, where: str) -> None:
    path = where.format(bucket)
    assert not fs.exists(path)
    assert not fs.isfile(path)
    assert not fs.isdir(path)
    assert fs.glob(path) == fs.find(path) == []
    for call in (fs.info, fs.ls, fs.modified, fs.ukey, fs.size):
        with pytest.raises(FileNotFoundError) as caught:
            call(path)
        assert path in str(caught.value)
    with pytest.raises(FileNotFoundError):
        fs.rm(path)
    if "!" not in where and len(where) < 100:
        for call in (fs.cat_file, fs.open, lambda one: fs.cat_file(one, 1, 2), fs.head, fs.get_file):
            with pytest.raises(FileNotFoundError) as caught:
                call(*((path, "/dev/null") if call == fs.get_file else (path,)))
            assert path in (caught.value.filename, str(caught.value))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # fsspec leaves its own file open
@pytest.mark.parametrize("wrapper", ["simplecache", "filecache", "blockcache"])
def test_the_caches_of_fsspec_work_on_top(
    node: NodeProcess, bucket: str, tmp_path: Path, wrapper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(3 * MIB)
    with ebb.Client(node.url) as client:
        client.put(bucket, "a", data)
    options = {"ebb": {"node": node.url}, wrapper: {"cache_storage": str(tmp_path)}}
    for _ in range(2):
        with fsspec.open(f"{wrapper}::ebb://{bucket}/a", **options) as file:
            file.seek(2 * MIB + 5)
            assert file.read(MIB) == data[2 * MIB + 5 :]
            file.seek(7)
            assert file.read() == data[7:]
    assert any(path.stat().st_size >= len(data) for path in tmp_path.iterdir())


def test_many_files_texts_and_copies_of_the_file_system(fs: EbbFileSystem, bucket: str) -> None:
    options = {name: one for name, one in fs.storage_options.items() if name != "skip_instance_cache"}
    files = fsspec.open_files(f"ebb://{bucket}/part-*.txt", "w", num=3, **options)
    for n, opened in enumerate(files):
        with opened as file:
            file.write(f"ü{n}\n")
    texts = []
    for opened in pickle.loads(pickle.dumps(fsspec.open_files(f"ebb://{bucket}/part-*.txt", "rt", **options))):
        with opened as file:
            texts.append(file.read())
    assert texts == ["ü0\n", "ü1\n", "ü2\n"]
    again = EbbFileSystem.from_json(fs.to_json())
    assert again.cat_ranges([f"{bucket}/part-0.txt"] * 2, [-2, 0], [None, 2]) == [b"0\n", "ü".encode()]
    assert fsspec.filesystem("ebb", asynchronous=True, **options).exists(bucket)
    mapper = fs.get_mapper(f"/{bucket}/map")
    mapper["a/b"] = b"x"
    assert dict(mapper) == {"a/b": b"x"}


def test_an_option_that_nobody_knows_is_refused_by_name(node: NodeProcess) -> None:
    with pytest.raises(TypeError, match="unknown storage option nod; ebb knows node, job"):
        fsspec.filesystem("ebb", nod=node.url)
    standard = {"use_listings_cache": False, "skip_instance_cache": True, "asynchronous": False}
    fs = fsspec.filesystem("ebb", node=node.url, **standard)
    with fs.client:
        assert isinstance(fs.ls("/"), list)
