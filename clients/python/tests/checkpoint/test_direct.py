"""Reading straight from an object store: what a server that speaks HTTP may answer, and a real restore."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

import numpy as np
import pytest

import ebb
from ebb.checkpoint import Checkpointer
from ebb.checkpoint._direct import DirectObject, DirectReads
from support import NodeProcess

CONTENT = bytes(np.arange(300_000, dtype=np.uint32).view(np.uint8)[:1_000_000])
Answer = Callable[[BaseHTTPRequestHandler, int, int], None]


def give_range(
    handler: BaseHTTPRequestHandler, first: int, last: int, cut: int = 0, shift: int = 0, etag: str = "e"
) -> None:
    body = CONTENT[first : last + 1]
    handler.send_response(206)
    handler.send_header("content-range", f"bytes {first + shift}-{last + shift}/{len(CONTENT)}")
    handler.send_header("content-length", str(len(body)))
    handler.send_header("etag", f'"{etag}"')
    handler.end_headers()
    handler.wfile.write(body[: len(body) - cut])
    if cut > 0:
        handler.close_connection = True


def give_all(handler: BaseHTTPRequestHandler, first: int, last: int) -> None:
    handler.send_response(200)
    handler.send_header("content-length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT)


def refuse(handler: BaseHTTPRequestHandler, first: int, last: int) -> None:
    handler.send_error(403)


def hang_up(handler: BaseHTTPRequestHandler, first: int, last: int) -> None:
    handler.close_connection = True


def give_and_hang_up(handler: BaseHTTPRequestHandler, first: int, last: int) -> None:
    """As a store does with connections that were idle for long: it does not say so before."""
    give_range(handler, first, last)
    handler.close_connection = True


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[DirectObject, list[Any]]]:
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            first, last = self.headers["range"].removeprefix("bytes=").split("-")
            seen.append((self.path, self.headers["if-match"], self.client_address))
            answer(self, int(first), int(last))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield DirectObject(f"http://127.0.0.1:{server.server_port}/b/k%20k?X-Amz-Signature=s", "e"), seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read(reads: DirectReads, offset: int, length: int, piece: int = 100_000) -> bytes | None:
    """What came; None where the node has to be asked at once."""
    reader = reads.reader("k", offset, length)
    if reader is None:
        return None
    target = np.zeros(length, np.uint8)
    done = 0
    while done < length:
        got = reader(target.data[done : min(done + piece, length)])
        if got == 0:
            break
        done += got
    return target[:done].tobytes()


def test_ranges_come_over_one_connection_of_a_thread() -> None:
    with serving(give_range) as (found, seen):
        reads = DirectReads({"k": found})
        for offset, length in ((0, 10), (999_990, 10), (5, 700_000)):
            assert read(reads, offset, length) == CONTENT[offset : offset + length]
        assert {(path, match) for path, match, _ in seen} == {("/b/k%20k?X-Amz-Signature=s", '"e"')}
        assert len({client for _, _, client in seen}) == 1
        assert reads.reader("other", 0, 1) is None
        reads.close()


def test_a_connection_that_was_closed_is_opened_again() -> None:
    with serving(give_and_hang_up) as (found, _):
        reads = DirectReads({"k": found})
        for _ in range(3):
            assert read(reads, 7, 1000) == CONTENT[7:1007]
        reads.close()


@pytest.mark.parametrize(
    "answer",
    [give_all, refuse, hang_up, lambda *at: give_range(*at, shift=1), lambda *at: give_range(*at, etag="other")],
)
def test_what_is_no_such_range_is_left_to_the_node(answer: Answer) -> None:
    with serving(answer) as (found, seen):
        reads = DirectReads({"k": found})
        assert read(reads, 7, 1000) is None
        asked = len(seen)
        assert read(reads, 7, 1000) is None
        assert len(seen) == asked, "it is not asked again"
        reads.close()


def test_content_that_breaks_off_is_left_to_the_node_from_there() -> None:
    with serving(lambda *at: give_range(*at, cut=400)) as (found, _):
        reads = DirectReads({"k": found})
        came = read(reads, 7, 1000)
        assert came is not None
        assert CONTENT[7:1007].startswith(came)
        assert len(came) <= 600
        reads.close()


def test_nobody_there_is_left_to_the_node() -> None:
    with serving(give_range) as (found, _):
        pass
    for url in (found.url, "ftp://127.0.0.1/k"):
        reads = DirectReads({"k": DirectObject(url, "e")})
        assert read(reads, 0, 10) is None
        reads.close()


# -- a restore ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """One whose tier 2 is the S3 surface of the other."""
    with NodeProcess() as store:
        with ebb.Client(store.socket_url) as client:
            client.create_bucket("mirror")
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        with NodeProcess(f"--remote=s3://mirror?endpoint={store.s3_url}", env=keys) as node:
            yield store, node


def blocks(seed: int) -> dict[str, Any]:
    return {"a": np.random.default_rng(seed).integers(0, 255, 3_000_000, np.uint8), "b": np.full(1000, seed), "n": seed}


def away(checkpointer: Checkpointer) -> None:
    """All snapshots lie in the store alone."""
    where = {"bucket": "checkpoints", "key": f"{checkpointer.run}/", "prefix": True, "tier": "remote"}
    checkpointer.client.request_json("POST", "/v1/relocate", where)


def is_direct(checkpointer: Checkpointer, step: int) -> bool:
    """Whether it can be read from the store, and nothing was brought up to the node."""
    (part,) = checkpointer.api.plan(step, direct=True).parts.values()
    assert part.runs is not None
    return {key for _, _, key, _ in part.runs} == set(part.direct)


@pytest.fixture
def checkpointer(nodes: tuple[NodeProcess, NodeProcess], run: str) -> Iterator[Checkpointer]:
    """Steps 1 and 2 in the store alone; the second shares most of its blocks with the first."""
    with Checkpointer(nodes[1].socket_url, run) as opened:
        opened.save(1, {**blocks(1), "a": blocks(0)["a"]})
        opened.wait(1, "remote")
        changed = {**blocks(2), "a": blocks(0)["a"]}
        changed["a"][1_500_000:1_600_000] = 7
        opened.save(2, changed)
        opened.wait(2, "remote")
        opened.save(3, {"x": np.zeros(3)})
        opened.wait(3, "remote")
        away(opened)
        yield opened


def expected(step: int) -> dict[str, Any]:
    state = {**blocks(step), "a": blocks(0)["a"]}
    if step == 2:
        state["a"][1_500_000:1_600_000] = 7
    return state


def assert_restored(checkpointer: Checkpointer, step: int) -> None:
    found = checkpointer.restore(step).state
    for name, value in expected(step).items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("verify", [True, False])
def test_what_lies_in_the_store_alone_is_read_past_the_node(checkpointer: Checkpointer, verify: bool) -> None:
    checkpointer.verify = verify
    for step in (1, 2):
        assert is_direct(checkpointer, step)
        assert_restored(checkpointer, step)
        assert is_direct(checkpointer, step)
    checkpointer.direct = False
    assert_restored(checkpointer, 2)
    assert not is_direct(checkpointer, 2)


def test_a_part_of_another_rank_comes_by_the_node(checkpointer: Checkpointer) -> None:
    checkpointer.rank, checkpointer.world_size = 1, 2
    assert_restored(checkpointer, 1)
    assert not is_direct(checkpointer, 1)


def test_a_store_that_cannot_be_reached_from_here_is_read_by_the_node(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise ConnectionRefusedError("no way")

    monkeypatch.setattr(DirectReads, "_ask", refused)
    assert_restored(checkpointer, 2)
    assert not is_direct(checkpointer, 2)


def test_it_breaks_off_in_the_middle(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DirectReads.reader
    left = [600_000]

    def breaking(self: DirectReads, key: str, offset: int, length: int) -> Any:
        read = reader(self, key, offset, length)
        if read is None:
            return None

        def some(target: memoryview) -> int:
            got = read(target[: max(0, left[0])]) if left[0] > 0 else 0
            left[0] -= got
            return got

        return some

    monkeypatch.setattr(DirectReads, "reader", breaking)
    assert_restored(checkpointer, 2)
    assert left[0] <= 0


def test_a_block_that_was_changed_in_the_store_is_found(
    checkpointer: Checkpointer, nodes: tuple[NodeProcess, NodeProcess]
) -> None:
    (part,) = checkpointer.api.plan(1, direct=True).parts.values()
    assert part.runs is not None
    key = f"checkpoints/{part.runs[0][2]}"
    with ebb.Client(nodes[0].socket_url) as store:
        body = bytearray(store.get("mirror", key))
        body[-1000] ^= 1
        store.put("mirror", key, bytes(body))
    with pytest.raises((ebb.errors.DataCorruptError, ebb.errors.DataLostError, ebb.errors.PreconditionFailedError)):
        checkpointer.restore(1)
