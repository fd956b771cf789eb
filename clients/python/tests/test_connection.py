"""The connection: many calls at a time, a node that goes and comes back, and processes that fork."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ebb
from ebb import _messages as messages
from ebb import errors
from ebb._connection import Session
from ebb._retry import RetryPolicy
from support import NodeProcess, open_client
from test_client import MIB, noise

# To fork a process with threads is the point; those of JAX, where other tests have loaded it, the children leave alone.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called.*JAX:RuntimeWarning"),
]


def session_of(client: ebb.Client) -> Session:
    assert client._frames is not None
    return client._frames.session()


@pytest.mark.parametrize("how", ["local", "frames", "http"])
def test_calls_go_on_after_the_node_was_killed_and_started(own_node: NodeProcess, how: str) -> None:
    data = noise(MIB)
    with open_client(own_node, how) as client:
        client.create_bucket("bucket", "ephemeral")
        client.put("bucket", "before", data)
        own_node.kill()
        starter = threading.Timer(0.3, own_node.start)
        starter.start()
        assert client.get("bucket", "before") == data  # sought until it is back
        starter.join()
        client.put("bucket", "after", data)
        assert [info.key for info in client.list("bucket")] == ["after", "before"]


def test_what_was_staged_is_lost_with_the_connection_and_says_so(own_node: NodeProcess) -> None:
    with ebb.Client(own_node.socket_url) as client:
        client.create_bucket("bucket", "ephemeral")
        staged = client.stage("bucket", "k", MIB)
        staged.write(b"x" * 1000)
        own_node.kill()
        own_node.start()
        client.put("bucket", "other", b"the client itself goes on")
        assert staged.is_lost
        with pytest.raises(errors.NodeUnreachableError, match="stage it anew"):
            staged.write(b"y")
        staged.abort()
        assert not client.exists("bucket", "k")
        staged = client.stage("bucket", "k", MIB)
        own_node.kill()
        with pytest.raises(errors.NodeUnreachableError):
            staged.commit(10)


def test_a_reader_goes_on_with_its_version_or_says_that_it_was_replaced(own_node: NodeProcess) -> None:
    data = noise(MIB)
    with ebb.Client(own_node.socket_url) as client:
        client.create_bucket("bucket", "ephemeral")
        client.put("bucket", "kept", data)
        client.put("bucket", "replaced", data)
        client.put("bucket", "mapped", data)
        mapped = client.open_map("bucket", "mapped")
        with client.open("bucket", "kept") as kept, client.open("bucket", "replaced") as replaced:
            own_node.kill()
            own_node.start()
            client.put("bucket", "replaced", noise(MIB, 2))
            client.put("bucket", "mapped", noise(MIB, 3))
            for number in range(6):
                client.put("bucket", f"more-{number}", noise(MIB, number + 4))
            assert kept.read() == data
            with pytest.raises(errors.PreconditionFailedError, match="replaced"):
                replaced.read()
            assert bytes(mapped.view) == data


def test_calls_in_flight_fail_when_the_node_dies(own_node: NodeProcess) -> None:
    with ebb.Client(own_node.socket_url, retry=ebb.NO_RETRY) as client:
        client.create_bucket("bucket", "ephemeral")
        session = session_of(client)
        os.kill(own_node._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        calls = [session.start(messages.PING, messages.Empty()) for _ in range(20)]
        own_node.kill()
        for call in calls:
            with pytest.raises(errors.NodeUnreachableError):
                call.result(10)
        with pytest.raises(errors.NodeUnreachableError):
            client.exists("bucket", "k")


def test_a_call_that_is_given_up_is_undone_when_its_answer_comes(own_node: NodeProcess) -> None:
    with ebb.Client(own_node.socket_url) as client:
        client.create_bucket("bucket", "ephemeral")
        session = session_of(client)
        undone: list[int] = []
        os.kill(own_node._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        try:
            request = messages.StageRequest("bucket", "k", MIB, messages.TIER_BY_POLICY, "")
            with pytest.raises(errors.NodeUnreachableError, match="stage"):
                session.call(messages.STAGE, request, timeout_s=0.05, undo=lambda late: undone.append(late.write_id))
        finally:
            os.kill(own_node._process.pid, signal.SIGCONT)  # type: ignore[union-attr]
        wait_until(lambda: len(undone) == 1)


def test_a_silent_node_is_asked_and_then_given_up(own_node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebb._connection.PING_AFTER_S", 0.05)
    monkeypatch.setattr("ebb._connection.SILENCE_S_MAX", 0.4)
    with ebb.Client(own_node.socket_url, retry=ebb.NO_RETRY) as client:
        session = session_of(client)
        os.kill(own_node._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        with pytest.raises(errors.NodeUnreachableError, match="takes connections and has not answered"):
            session.call(messages.PING, messages.Empty(), timeout_s=None)
        assert not session.is_alive


def test_a_node_that_stops_says_so_and_the_client_waits_for_it(own_node: NodeProcess) -> None:
    with ebb.Client(own_node.socket_url) as client:
        client.create_bucket("bucket", "ephemeral")
        assert own_node.stop() == 0
        starter = threading.Timer(0.3, own_node.start)
        starter.start()
        client.put("bucket", "k", b"x")
        starter.join()


def test_a_node_that_stays_away_is_given_up_after_a_time(own_node: NodeProcess) -> None:
    with ebb.Client(own_node.socket_url, retry=RetryPolicy(unreachable_s=0.3)) as client:
        own_node.kill()
        started = time.monotonic()
        with pytest.raises(errors.NodeUnreachableError):
            client.stat("bucket", "k")
        assert time.monotonic() - started < 5


def test_one_connection_carries_all_threads(node: NodeProcess, bucket: str) -> None:
    with ebb.Client(node.socket_url) as client:
        session = session_of(client)
        before = client.status()["connections"]
        client.put(bucket, "k", b"x")
        threads = [threading.Thread(target=client.stat, args=(bucket, "k")) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session_of(client) is session
        assert client.status()["connections"] == before


def test_a_dropped_client_leaves_no_thread_behind(node: NodeProcess) -> None:
    before = set(threading.enumerate())
    client = ebb.Client(node.socket_url)
    (reader,) = set(threading.enumerate()) - before
    del client
    gc.collect()
    reader.join(10)
    assert not reader.is_alive()


def test_what_is_no_frame_ends_the_connection(tmp_path: Path) -> None:
    """A server that answers the upgrade and then talks nonsense."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "sock"))
    server.listen()

    def serve() -> None:
        peer, _ = server.accept()
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"\xff" * 12)
        peer.recv(65536)
        peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(errors.NodeUnreachableError, match="frame"):
        ebb.Client(str(tmp_path / "sock"))
    thread.join()
    server.close()


def in_child(work: Callable[[], None]) -> int:
    """Forks without multiprocessing; the child's exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(30)  # a child that hangs says where, and ends
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("how", ["local", "frames", "http"])
def test_a_forked_child_connects_for_itself_and_leaves_the_parents_things_alone(
    node: NodeProcess, bucket: str, how: str
) -> None:
    data = noise(MIB)
    with open_client(node, how) as client:
        client.put(bucket, "k", data)
        reader = client.open(bucket, "k")
        mapped = client.open_map(bucket, "k")
        staged = client.stage(bucket, "staged", MIB) if how != "http" else None
        if staged is not None:
            staged.write(data)

        def work() -> None:
            assert client.get(bucket, "k") == data
            assert bytes(mapped.view) == data
            assert reader.read(5, 10) == data[5:15]
            client.put(bucket, "from the child", data)
            if staged is not None:
                with pytest.raises(errors.NodeUnreachableError):
                    staged.write(b"not mine")
            client.close()
            reader.close()
            gc.collect()

        assert in_child(work) == 0
        assert client.get(bucket, "from the child") == data
        assert reader.read() == data
        if staged is not None:
            staged.commit()
            assert client.get(bucket, "staged") == data
        reader.close()


def test_a_fork_while_other_threads_call(node: NodeProcess, bucket: str) -> None:
    """Locks that another thread holds at the moment of the fork are not the child's."""
    with ebb.Client(node.socket_url) as client:
        client.put(bucket, "k", b"x" * 1000)
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                client.get(bucket, "k")
                client.head(bucket, "k")

        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()

        def work() -> None:
            assert client.get(bucket, "k") == b"x" * 1000
            assert client.head(bucket, "k").size_bytes == 1000

        try:
            for _ in range(5):
                assert in_child(work) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _read_in_worker(place: tuple[ebb.Client, str, int]) -> bytes:
    client, bucket, number = place
    return client.get(bucket, str(number))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_pool_read_with_the_clients_they_are_given(node: NodeProcess, bucket: str, method: str) -> None:
    """As data loaders do."""
    with ebb.Client(node.socket_url) as client:
        for number in range(6):
            client.put(bucket, str(number), noise(1000, number))
        with multiprocessing.get_context(method).Pool(2) as pool:
            read = pool.map(_read_in_worker, [(client, bucket, number) for number in range(6)])
        assert read == [noise(1000, number) for number in range(6)]


def wait_until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)


def test_a_client_at_the_s3_address_is_told_the_control_address(node: NodeProcess) -> None:
    with ebb.Client(node.s3_url) as client:
        with pytest.raises(errors.RequestInvalidError, match=r"S3 address of a node.*9700"):
            client.status()
        with pytest.raises(errors.RequestInvalidError, match="S3 address of a node"):
            client.put("bucket", "key", b"x")
