"""smart_open over ebb://."""

from __future__ import annotations

import pytest
import smart_open

import ebb
import ebb.smart_open
from ebb import errors
from support import NodeProcess
from test_client import MIB, noise


def test_objects_open_as_files(client: ebb.Client, bucket: str) -> None:
    params = {"client": client}
    data = noise(2 * MIB + 5)
    with smart_open.open(f"ebb://{bucket}/a b/k", "wb", transport_params=params) as file:
        file.write(data)
    with smart_open.open(f"ebb://{bucket}/a b/k", "rb", transport_params=params) as file:
        file.seek(-5, 2)
        assert file.read() == data[-5:]
    with smart_open.open(f"ebb://{bucket}/t.txt.gz", "w", transport_params=params) as file:
        file.write("one\ntwo\n")
    with smart_open.open(f"ebb://{bucket}/t.txt.gz", transport_params=params) as file:
        assert list(file) == ["one\n", "two\n"]
    with smart_open.open(f"ebb://{bucket}/t", "ab", transport_params=params) as file:
        file.write(b"one")
    assert client.get(bucket, "t") == b"one"
    with pytest.raises(FileNotFoundError):
        smart_open.open(f"ebb://{bucket}/none", "rb", transport_params=params)


def test_the_node_is_found_as_a_client_finds_it(
    node: NodeProcess, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with smart_open.open(f"ebb://{bucket}/k", "wb", transport_params={"node": node.url}) as file:
        file.write(b"x")
    monkeypatch.setenv("EBB_NODE", node.url)
    with smart_open.open(f"ebb://{bucket}/k", "rb") as file:
        assert file.read() == b"x"


def test_what_an_exception_leaves_is_not_published(local: ebb.Client, bucket: str) -> None:
    with (
        pytest.raises(RuntimeError),
        smart_open.open(f"ebb://{bucket}/k", "wb", transport_params={"client": local}) as file,
    ):
        file.write(b"half")
        raise RuntimeError
    assert not local.exists(bucket, "k")


@pytest.mark.parametrize("uri", ["ebb://", "ebb://bucket", "ebb://bucket/", "ebb:///key"])
def test_uris_that_name_no_object_are_refused(uri: str) -> None:
    with pytest.raises(errors.NameInvalidError):
        ebb.smart_open.parse_uri(uri)
    assert ebb.smart_open.parse_uri("ebb://b/k/x") == {"scheme": "ebb", "bucket": "b", "key": "k/x"}
