"""Objects and names, the same by every path to the node."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ebb
from ebb import errors
from support import NodeProcess

MIB = 1 << 20
SIZES = [0, 1, 255, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 7]


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_back_as_they_went_in(client: ebb.Client, bucket: str, size: int) -> None:
    data = noise(size)
    committed = client.put(bucket, "a/b c/ü.bin", data)
    assert committed.size_bytes == size
    assert client.get(bucket, "a/b c/ü.bin") == data
    info = client.stat(bucket, "a/b c/ü.bin")
    assert (info.size_bytes, info.version, info.etag) == (size, committed.version, committed.etag)
    with client.open_map(bucket, "a/b c/ü.bin") as mapped:
        assert bytes(mapped.view) == data
        assert mapped.view.readonly
    target = bytearray(size + 10)
    assert client.get_into(bucket, "a/b c/ü.bin", target) == size
    assert target[:size] == data


def test_path_is_chosen_by_what_is_seen(node: NodeProcess) -> None:
    with (
        ebb.Client(node.url) as by_tcp,
        ebb.Client(node.socket_path) as by_path,
        ebb.Client(node.url, path="http") as far,
    ):
        assert (by_tcp.path, by_path.path, far.path) == ("local", "local", "http")
        assert by_tcp.node_id == by_path.node_id == far.node_id


def test_node_is_found_by_the_environment(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBB_NODE", node.url)
    with ebb.Client() as client:
        assert client.status()["state"] == "ready"


@pytest.mark.parametrize(
    "address", ["", "ftp://x", "http://h/path", "http://u:secret@h", "unix:relative", "nonsense", "http://h:99999"]
)
def test_bad_addresses_are_refused(address: str) -> None:
    from ebb._address import parse_node_address

    with pytest.raises(errors.RequestInvalidError) as caught:
        parse_node_address(address)
    assert "secret" not in str(caught.value)


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1", str(tmp_path / "none.sock")):
        with pytest.raises(errors.NodeUnreachableError) as caught:
            ebb.Client(address)
        assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("make", [bytearray, memoryview, np.frombuffer], ids=["bytearray", "memoryview", "array"])
def test_any_contiguous_buffer_is_put(client: ebb.Client, bucket: str, make: object) -> None:
    data = noise(3 * MIB)
    value = np.frombuffer(data, np.float32).reshape(-1, 64) if make is np.frombuffer else make(data)  # type: ignore[operator]
    client.put(bucket, "k", value)
    assert client.get(bucket, "k") == data


def test_a_strided_buffer_and_text_are_refused(client: ebb.Client, bucket: str) -> None:
    with pytest.raises(TypeError):
        client.put(bucket, "k", np.zeros((4, 4))[:, 1])
    with pytest.raises(TypeError):
        client.put(bucket, "k", "text")
    assert not client.exists(bucket, "k")


def test_files_are_put_from_where_they_stand(client: ebb.Client, bucket: str, tmp_path: Path) -> None:
    data = noise(2 * MIB + 3)
    path = tmp_path / "file"
    path.write_bytes(data)
    client.put(bucket, "path", path)
    assert client.get(bucket, "path") == data
    with path.open("rb") as file:
        file.seek(5)
        client.put(bucket, "file", file)
    assert client.get(bucket, "file") == data[5:]
    client.put(bucket, "io", io.BytesIO(data))
    assert client.get(bucket, "io") == data
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write_end, b"through a pipe"), os.close(write_end)))
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        assert client.put(bucket, "pipe", pipe).size_bytes == 14
    writer.join()
    assert client.get(bucket, "pipe") == b"through a pipe"


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, 5), (3, None), (7, 100), (10, None), (10, 0), (10, 5), (9, 1), (0, None)]
)
def test_ranges_are_those_of_the_bytes(client: ebb.Client, bucket: str, offset: int, length: int | None) -> None:
    data = b"0123456789"
    client.put(bucket, "k", data)
    end = len(data) if length is None else offset + length
    assert client.get(bucket, "k", offset, length) == data[offset:end]
    with client.open(bucket, "k") as reader:
        assert reader.read(offset, length) == data[offset:end]


@pytest.mark.parametrize(("offset", "length"), [(11, None), (11, 0), (-1, None), (0, -1)])
def test_ranges_beyond_the_end_are_refused(client: ebb.Client, bucket: str, offset: int, length: int | None) -> None:
    client.put(bucket, "k", b"0123456789")
    with pytest.raises(errors.RangeInvalidError):
        client.get(bucket, "k", offset, length)


def test_an_empty_object_has_an_empty_rest(client: ebb.Client, bucket: str) -> None:
    client.put(bucket, "empty", b"")
    assert client.get(bucket, "empty") == client.get(bucket, "empty", 0, 10) == b""
    with client.open_map(bucket, "empty") as mapped:
        assert mapped.array().shape == (0,)


def test_properties_travel_with_the_object(client: ebb.Client, bucket: str) -> None:
    client.put(bucket, "k", b"x", content_type="text/plain", metadata={"Owner": "Zoë ✓"})
    found = client.head(bucket, "k")
    assert (found.content_type, dict(found.metadata)) == ("text/plain", {"owner": "Zoë ✓"})
    assert (found.durability, found.tiers, found.job_id) == ("memory", ("memory",), None)
    with pytest.raises(errors.RequestInvalidError):
        client.put(bucket, "k", b"x", metadata={"a b": "c"})


def test_what_is_lost_is_told_as_lost(client: ebb.Client, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put(bucket, "k", b"x")
    assert client.head(bucket, "k").lost is False
    told = client._http.json("GET", f"/v1/buckets/{bucket}/objects")
    told["objects"][0]["lost"] = True
    monkeypatch.setattr(client._http, "json", lambda *_args, **_options: told)
    assert client.head(bucket, "k").lost is True


def test_an_unknown_ack_and_a_key_of_bytes_are_refused(client: ebb.Client, bucket: str) -> None:
    wrong: Any = "tape"
    with pytest.raises(ValueError, match="ack 'tape' is none of memory, disk, remote"):
        client.put(bucket, "k", b"x", ack=wrong)
    for key in (b"k", 7, None):
        named: Any = key
        with pytest.raises(TypeError, match=f"a key is text, not {type(key).__name__}"):
            client.put(bucket, named, b"x")


def test_conditions_guard_writes_and_deletes(client: ebb.Client, bucket: str) -> None:
    first = client.put(bucket, "k", b"one", if_none_match=True)
    with pytest.raises(errors.AlreadyExistsError) as caught:
        client.put(bucket, "k", b"two", if_none_match=True)
    assert isinstance(caught.value, FileExistsError)
    second = client.put(bucket, "k", b"two", if_match=first.etag)
    with pytest.raises(errors.PreconditionFailedError):
        client.put(bucket, "k", b"three", if_match=first.etag)
    with pytest.raises(errors.PreconditionFailedError):
        client.delete(bucket, "k", if_match=first.etag)
    assert client.get(bucket, "k") == b"two"
    client.delete(bucket, "k", if_match=second.etag)
    with pytest.raises(FileNotFoundError):
        client.delete(bucket, "k")


def test_what_is_not_there_is_not_found(client: ebb.Client, bucket: str) -> None:
    for call in (client.get, client.head, client.stat, client.open, client.open_map, client.delete):
        with pytest.raises(errors.NotFoundError) as caught:
            call(bucket, "nothing")
        assert caught.value.errno == 2
        with pytest.raises(FileNotFoundError):
            call("no-such-bucket", "nothing")
    assert not client.exists(bucket, "nothing")
    assert not client.exists("no-such-bucket", "nothing")


def test_listings_are_in_order_and_in_pages(client: ebb.Client, bucket: str) -> None:
    keys = [f"a/{number:04}" for number in range(25)] + ["b/x/y", "b/z", "c"]
    for key in keys:
        client.put(bucket, key, b"x")
    assert [info.key for info in client.list(bucket)] == keys
    assert [info.key for info in client.list(bucket, "b/")] == ["b/x/y", "b/z"]
    assert [info.key for info in client.list(bucket, start_after="b/x/y")] == ["b/z", "c"]
    page = client.list_page(bucket, delimiter="/")
    assert ([info.key for info in page.objects], page.prefixes, page.next) == (["c"], ["a/", "b/"], None)
    seen = []
    after = ""
    while after is not None:
        page = client.list_page(bucket, "a/", start_after=after, limit=7)
        assert len(page.objects) <= 7
        seen += [info.key for info in page.objects]
        after = page.next
    assert seen == keys[:25]


def test_renames_and_copies_move_names_and_no_bytes(client: ebb.Client, bucket: str) -> None:
    for key in ("a/1", "a/2", "ab"):
        client.put(bucket, key, key.encode())
    client.rename(bucket, "ab", "moved")
    assert client.get(bucket, "moved") == b"ab"
    assert client.rename_prefix(bucket, "a/", "b/").objects == 2
    assert [info.key for info in client.list(bucket)] == ["b/1", "b/2", "moved"]
    with pytest.raises(errors.AlreadyExistsError):
        client.rename(bucket, "b/1", "b/2", overwrite=False)
    copied = client.copy(bucket, "b/1", "c")
    assert (copied.key, client.get(bucket, "c")) == ("c", b"a/1")
    with pytest.raises(errors.AlreadyExistsError):
        client.copy(bucket, "b/2", "c", overwrite=False)
    assert client.delete_prefix(bucket, "b/").objects == 2
    assert [info.key for info in client.list(bucket)] == ["c", "moved"]


def test_buckets_are_made_once(client: ebb.Client, bucket: str) -> None:
    name = f"{bucket}-made"
    made = client.create_bucket(name, "buffered", quota_bytes=10 * MIB)
    assert client.create_bucket(name, "buffered", quota_bytes=10 * MIB).created_at_ms == made.created_at_ms
    with pytest.raises(errors.BucketExistsError):
        client.create_bucket(name, "ephemeral")
    assert name in [found.name for found in client.buckets()]
    client.put(name, "k", b"12345")
    found = client.bucket(name)
    assert (found.objects, found.size_bytes, found.policy["quotaBytes"]) == (1, 5, 10 * MIB)
    with pytest.raises(errors.BucketNotEmptyError):
        client.delete_bucket(name)
    client.delete(name, "k")
    client.delete_bucket(name)
    with pytest.raises(errors.BucketNotFoundError):
        client.bucket(name)


def test_waiting_for_a_durability(client: ebb.Client, bucket: str) -> None:
    name = f"{bucket}-mirrored"
    client.create_bucket(name, "buffered")
    committed = client.put(name, "k", b"x")
    assert client.wait(name, "k", "disk").durability in ("disk", "remote")
    assert client.wait(name, "k", "remote", timeout=30) == (committed.version, "remote")
    client.put(bucket, "k", b"x")
    with pytest.raises(errors.NotMirroredError):
        client.wait(bucket, "k", "remote", timeout=1)
    with pytest.raises(errors.PreconditionFailedError):
        client.wait(name, "k", "remote", version=committed.version - 1 or 1)


def test_ack_of_one_write_is_answered(client: ebb.Client, bucket: str) -> None:
    assert client.put(bucket, "k", b"x", ack="disk").durability == "disk"


def test_a_job_owns_what_is_put_for_it(node: NodeProcess, client: ebb.Client, bucket: str) -> None:
    job = f"job-{bucket}-{client.path}-{client.is_connected}"
    client.open_job(job, label="a test")
    client.heartbeat(job)
    client.put(bucket, "k", b"12345", job=job)
    assert client.head(bucket, "k").job_id == job
    receipt = client.end_job(job)
    assert (receipt["objects"], receipt["freedBytes"]) == (1, 5)
    assert not client.exists(bucket, "k")
    with pytest.raises(errors.JobNotFoundError):
        client.put(bucket, "k", b"x", job=job)


def test_other_calls_of_the_control_surface(client: ebb.Client, bucket: str) -> None:
    client.put(bucket, "k", b"x")
    why = client.request_json("GET", "/v1/why", query={"bucket": bucket, "key": "k"})
    assert why["object"]["key"] == "k"
    pinned = client.request_json("POST", "/v1/pin", {"bucket": bucket, "key": "k", "pinned": True})
    assert pinned["pinned"] is True
    with pytest.raises(errors.RequestInvalidError) as caught:
        client.request_json("GET", f"/v1/buckets/{bucket}/objects", query={"limit": 0})
    assert caught.value.retry == "never"


def test_directories_are_there_while_they_are_empty(client: ebb.Client, bucket: str) -> None:
    client.make_directory(bucket, "dir")
    with pytest.raises(errors.AlreadyExistsError):
        client.make_directory(bucket, "dir")
    client.put(bucket, "dir/k", b"x")
    with pytest.raises(errors.DirectoryNotEmptyError):
        client.remove_directory(bucket, "dir")
    client.delete(bucket, "dir/k")
    client.remove_directory(bucket, "dir")
    with pytest.raises(FileNotFoundError):
        client.remove_directory(bucket, "dir")


def test_a_closed_client_says_so_and_tries_nothing_again(
    client: ebb.Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> float:
        raise AssertionError("it would be tried again")

    monkeypatch.setattr("ebb._retry.backoff_s", wait)
    client.close()
    for call in (client.get, client.head, client.delete):
        with pytest.raises(errors.NodeUnreachableError, match="closed"):
            call(bucket, "k")


def test_a_client_and_its_errors_can_be_pickled(local: ebb.Client, bucket: str) -> None:
    local.put(bucket, "k", b"x")
    with pickle.loads(pickle.dumps(local)) as again:
        assert again.get(bucket, "k") == b"x"
    with pytest.raises(errors.NotFoundError) as caught:
        local.get(bucket, "nothing")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (type(error), error.message, error.details) == (
        errors.NotFoundError,
        caught.value.message,
        caught.value.details,
    )


def test_many_threads_share_a_client(client: ebb.Client, bucket: str) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            data = noise(200_000 + number, number)
            for turn in range(5):
                client.put(bucket, f"{number}/{turn}", data)
                assert client.get(bucket, f"{number}/{turn}") == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(1 for _ in client.list(bucket)) == 60
