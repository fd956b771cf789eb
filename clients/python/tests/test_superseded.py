"""Versions in tier 2 alone, which no lease holds, that are replaced or deleted while they are read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import ebb
from ebb import _reader, errors
from ebb.fsspec import EbbFileSystem
from support import NodeProcess, open_client
from test_client import MIB, noise

#: The first is too long to be brought up where there is little room.
FIRST, SECOND = noise(9 * MIB), noise(MIB, 2)


def small_node(tier2: object) -> NodeProcess:
    return NodeProcess(f"--remote=file://{tier2}", memory_limit="32MiB", disk_limit="16MiB")


@pytest.fixture(scope="module")
def node_with_tier2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with small_node(tmp_path_factory.mktemp("tier2")) as node:
        yield node


@pytest.fixture
def client(node_with_tier2: NodeProcess) -> Iterator[ebb.Client]:
    with ebb.Client(node_with_tier2.socket_url) as opened:
        with contextlib.suppress(errors.BucketExistsError):
            opened.create_bucket("bucket", "buffered")
            opened.create_bucket("full", "ephemeral")
        with first_in_tier2(opened, "bucket"):
            yield opened


@contextlib.contextmanager
def first_in_tier2(client: ebb.Client, bucket: str) -> Iterator[None]:
    """`FIRST` as an object of `bucket`, and little room beside it."""
    client.delete_prefix("full", "")
    put_into_tier2(client, FIRST, bucket)
    client.put("full", "k", bytes(24 * MIB))
    staged = client.stage(bucket, "kept", 12 * MIB, tier=1)
    assert client.head(bucket, "k").tiers == ("remote",)
    yield
    staged.abort()


def put_into_tier2(client: ebb.Client, data: bytes, bucket: str = "bucket") -> None:
    client.put(bucket, "k", data)
    client.wait(bucket, "k", "remote")
    client.request_json("POST", "/v1/relocate", {"bucket": bucket, "key": "k", "tier": "remote"})


def replace(client: ebb.Client) -> None:
    put_into_tier2(client, SECOND)


def delete(client: ebb.Client) -> None:
    client.delete("bucket", "k")


def go(client: ebb.Client, change: Callable[[ebb.Client], None]) -> None:
    """`change`, and the bytes of the version before have left tier 2."""
    change(client)
    for n in range(3):  # what is replaced is deleted there behind this
        client.put("bucket", f"other-{n}", b"x")
        client.wait("bucket", f"other-{n}", "remote")


@pytest.mark.parametrize("change", [replace, delete])
def test_a_reader_of_a_version_that_went_is_told_so(client: ebb.Client, change: Any) -> None:
    with client.open("bucket", "k") as reader:
        assert reader.read(0, 10) == FIRST[:10]
        go(client, change)
        with pytest.raises(errors.SupersededError, match="open it again"):
            reader.read(5 * MIB, 10)


def test_lost_bytes_of_an_old_version_that_is_kept_are_told_as_lost() -> None:
    with tempfile.TemporaryDirectory() as tier2, small_node(tier2) as node, ebb.Client(node.socket_url) as client:
        client.create_bucket("full", "ephemeral")
        client.create_bucket("versions", "buffered")
        client.request_json("POST", "/v1/buckets/versions", {"versioning": "enabled"})
        with first_in_tier2(client, "versions"), client.open("versions", "k") as reader:
            put_into_tier2(client, SECOND, "versions")
            for path in Path(tier2).rglob("*"):
                if path.is_file() and path.stat().st_size == len(FIRST):
                    path.unlink()
            with pytest.raises(errors.DataLostError):
                reader.read(5 * MIB, 10)


def get_into(client: ebb.Client, _: Path) -> bytes:
    target = bytearray(len(FIRST) + 1)
    assert client.get_into("bucket", "k", target) == len(SECOND)
    return bytes(target[: len(SECOND)])


def open_map(client: ebb.Client, _: Path) -> bytes:
    with client.open_map("bucket", "k") as mapped:
        return bytes(mapped.view)


def file_system(client: ebb.Client) -> EbbFileSystem:
    made = EbbFileSystem(node="unused", skip_instance_cache=True)
    made._client = client
    return made


def cat_file(client: ebb.Client, _: Path) -> bytes:
    found = file_system(client).cat_file("bucket/k", 5, -5)
    return SECOND[:5] + found + SECOND[-5:]


def cat_ranges(client: ebb.Client, _: Path) -> bytes:
    half = len(SECOND) // 2
    return b"".join(file_system(client).cat_ranges(["bucket/k", "bucket/k"], [0, half], [half, len(SECOND)]))


def get_file(client: ebb.Client, directory: Path) -> bytes:
    file_system(client).get_file("bucket/k", str(directory / "got"))
    return (directory / "got").read_bytes()


@pytest.mark.parametrize(
    "read",
    [lambda client, _: client.get("bucket", "k"), get_into, open_map, cat_file, cat_ranges, get_file],
    ids=["get", "get_into", "open_map", "cat_file", "cat_ranges", "get_file"],
)
def test_a_call_that_opens_and_reads_gives_the_version_that_replaced_the_one_it_had_opened(
    client: ebb.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Callable[[ebb.Client, Path], bytes]
) -> None:
    after_opening(monkeypatch, client, [replace])
    assert read(client, tmp_path) == SECOND


def test_a_call_that_opens_and_reads_says_that_the_object_was_deleted(
    client: ebb.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_opening(monkeypatch, client, [delete])
    with pytest.raises(errors.NotFoundError):
        client.get("bucket", "k")


def test_a_call_over_http_asks_again_a_few_times(monkeypatch: pytest.MonkeyPatch, node_with_tier2: NodeProcess) -> None:
    with open_client(node_with_tier2, "http") as client:
        client.create_bucket("over-http", "ephemeral")
        client.put("over-http", "k", b"second")
        get = client._http.get
        left = [1]

        def get_late(*args: Any) -> Any:
            if left[0] == 0:
                return get(*args)
            left[0] -= 1
            args[-1](100)
            raise errors.SupersededError

        monkeypatch.setattr(client._http, "get", get_late)
        assert client.get("over-http", "k") == b"second"
        left[0] = 100
        with pytest.raises(errors.SupersededError):
            client.get("over-http", "k")
        assert left[0] > 90


def after_opening(
    monkeypatch: pytest.MonkeyPatch, client: ebb.Client, changes: list[Callable[[ebb.Client], None]]
) -> None:
    """Each opening meets the next change."""
    opened = _reader.open_lease

    def open_lease(*args: Any) -> Any:
        lease = opened(*args)
        if changes:
            go(client, changes.pop())
        return lease

    monkeypatch.setattr(_reader, "open_lease", open_lease)
