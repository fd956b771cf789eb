"""Staged writes, and what reads promise while names change."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import numpy as np
import pytest

import ebb
from ebb import errors
from support import NodeProcess, open_client
from test_client import MIB, noise


@pytest.fixture(params=["local", "frames"])
def framed(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[ebb.Client]:
    with open_client(node, request.param) as opened:
        yield opened


def staged_bytes(client: ebb.Client) -> int:
    return sum(tier["stagedBytes"] for tier in client.status()["tiers"])


def test_nothing_is_seen_before_the_commit(framed: ebb.Client, bucket: str) -> None:
    data = noise(3 * MIB + 5)
    with framed.stage(bucket, "k", len(data)) as staged:
        staged.write(data[:MIB])
        staged.write(data[MIB:])
        assert not framed.exists(bucket, "k")
        committed = staged.commit(content_type="x/y")
    assert committed.size_bytes == len(data)
    assert framed.get(bucket, "k") == data
    assert framed.head(bucket, "k").content_type == "x/y"


def test_pieces_come_in_any_order(framed: ebb.Client, bucket: str) -> None:
    data = noise(2 * MIB)
    with framed.stage(bucket, "k", len(data)) as staged:
        staged.pwrite(data[MIB:], MIB)
        staged.pwrite(data[:MIB], 0)
        staged.commit()
    assert framed.get(bucket, "k") == data


def test_a_writer_that_does_not_know_its_size_is_given_room(framed: ebb.Client, bucket: str) -> None:
    pieces = [noise(700_000, number) for number in range(12)]
    with framed.stage(bucket, "k", 1) as staged:
        for piece in pieces:
            staged.write(piece)
        staged.commit()
    assert framed.get(bucket, "k") == b"".join(pieces)


def test_leaving_without_a_commit_frees_the_room(framed: ebb.Client, bucket: str) -> None:
    before = staged_bytes(framed)
    with pytest.raises(RuntimeError, match="on purpose"), framed.stage(bucket, "k", MIB) as staged:
        staged.write(b"x" * MIB)
        assert staged_bytes(framed) > before
        raise RuntimeError("on purpose")
    assert staged_bytes(framed) == before
    assert not framed.exists(bucket, "k")
    with pytest.raises(errors.WriteNotFoundError, match="aborted"):
        staged.write(b"more")


def test_a_file_of_the_node_is_written_through_a_mapping(local: ebb.Client, bucket: str) -> None:
    data = np.frombuffer(noise(4 * MIB), np.uint8)
    with local.stage(bucket, "k", len(data)) as staged:
        assert staged.path is not None
        assert os.path.exists(staged.path)
        assert staged.tier == 0
        assert staged.reserved_bytes >= len(data)
        view = staged.map(len(data))
        np.copyto(np.frombuffer(view, np.uint8), data)
        staged.commit(len(data))
    assert local.get(bucket, "k") == data.tobytes()


def test_a_file_that_is_not_seen_cannot_be_mapped(node: NodeProcess, bucket: str) -> None:
    with open_client(node, "frames") as far, far.stage(bucket, "k", MIB) as staged:
        assert staged.path is None
        with pytest.raises(errors.UnsupportedError):
            staged.map()


def test_a_checksum_that_is_given_is_the_objects_and_a_wrong_one_is_found_by_copying(
    framed: ebb.Client, bucket: str
) -> None:
    with framed.stage(bucket, "k") as staged:
        staged.write(b"123456789")
        staged.commit(crc32c=0xE3069283)
    assert framed.stat(bucket, "k").crc32c == 0xE3069283
    with framed.stage(bucket, "wrong") as staged:
        staged.write(b"123456789")
        with pytest.raises(errors.ChecksumMismatchError):
            staged.commit(crc32c=0, ack="disk")
    assert not framed.exists(bucket, "wrong")


def test_a_commit_of_more_than_was_written_is_refused(framed: ebb.Client, bucket: str) -> None:
    with framed.stage(bucket, "k", 10) as staged:
        staged.write(b"x" * 10)
        with pytest.raises(errors.LengthMismatchError):
            staged.commit(10 * MIB)
    assert not framed.exists(bucket, "k")


def test_staging_needs_frames(node: NodeProcess, bucket: str) -> None:
    with open_client(node, "http") as plain, pytest.raises(errors.UnsupportedError):
        plain.stage(bucket, "k")


def test_a_write_that_outgrows_memory_goes_on_on_disk() -> None:
    data = noise(24 * MIB)
    with NodeProcess(memory_limit="16MiB") as node, ebb.Client(node.socket_url) as client:
        client.create_bucket("small", "ephemeral")
        with client.stage("small", "k", MIB) as staged:
            assert staged.tier == 0
            for at in range(0, len(data), MIB):
                staged.write(data[at : at + MIB])
            assert staged.tier == 1
            staged.commit()
        assert client.get("small", "k") == data
        with client.stage("small", "mapped", MIB) as staged:
            staged.map()
            with pytest.raises(errors.TierFullError) as caught:
                staged.extend(64 * MIB)
            assert caught.value.errno == 28


def test_a_reader_keeps_its_version(framed: ebb.Client, bucket: str) -> None:
    data = noise(MIB)
    framed.put(bucket, "k", data)
    with framed.open(bucket, "k") as reader:
        mapped = framed.open_map(bucket, "k")
        for number in range(8):
            framed.put(bucket, "k", noise(MIB, number + 2))
        framed.delete(bucket, "k")
        for number in range(8):
            framed.put(bucket, f"other-{number}", noise(MIB, number + 20))
        assert reader.read() == data
        assert bytes(mapped.view) == data
    with pytest.raises(errors.LeaseNotFoundError):
        reader.read()


def test_a_mapping_is_the_nodes_own_pages_and_lives_as_long_as_its_arrays(local: ebb.Client, bucket: str) -> None:
    values = np.random.default_rng(1).normal(size=(256, 1024)).astype(np.float32)
    local.put(bucket, "k", values)
    with local.open_map(bucket, "k") as mapped:
        assert mapped.is_mapped
        array = mapped.array(np.float32, (256, 1024))
        assert not array.flags.writeable
    session = local._frames.session() if local._frames else None
    assert session is not None
    local.delete(bucket, "k")
    for number in range(4):
        local.put(bucket, f"other-{number}", noise(MIB, number))
    np.testing.assert_array_equal(array, values)
    assert not session._leases_to_release
    del array, mapped
    gc.collect()
    assert len(session._leases_to_release) == 1
    local.exists(bucket, "k")  # goes along with any call
    assert not session._leases_to_release


def test_parts_of_a_mapping_are_arrays(local: ebb.Client, bucket: str) -> None:
    local.put(bucket, "k", b"head" + np.arange(6, dtype="<i8").tobytes())
    with local.open_map(bucket, "k") as mapped:
        np.testing.assert_array_equal(mapped.array("<i8", (2, 3), offset=4), np.arange(6).reshape(2, 3))
        np.testing.assert_array_equal(mapped.array("<i8", offset=12, count=2), [1, 2])
        with pytest.raises(ValueError, match="size"):
            mapped.array("<i8")


def test_what_lies_in_tier_2_alone_is_read_through_the_node(framed: ebb.Client, bucket: str) -> None:
    name = f"{bucket}-durable"
    framed.create_bucket(name, "durable")
    data = noise(3 * MIB + 1)
    assert framed.put(name, "k", data).durability == "remote"
    framed.request_json("POST", "/v1/relocate", {"bucket": name, "key": "k", "tier": "remote"})
    assert framed.head(name, "k").tiers == ("remote",)
    assert framed.get(name, "k", 5, 100) == data[5:105]
    assert framed.get(name, "k") == data
