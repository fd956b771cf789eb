"""A node that is paused or hung: the kernel takes connections for it, and nobody answers. Waits for it have an end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import ebb
from ebb import _messages as messages
from ebb import errors
from ebb._address import parse_node_address
from ebb._http import HttpClient
from ebb._retry import NO_RETRY
from support import NodeProcess, open_client
from test_client import MIB, noise

SILENT = r'takes connections and has not answered( "\w+")? for [\d.]+ s; is it paused, or its machine\?'
#: Much longer than a silent node is waited for in `short_patience`.
LONG_S = 10.0


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_limits", "_connection"):
        monkeypatch.setattr(f"ebb.{module}.PING_AFTER_S", 0.2)
        monkeypatch.setattr(f"ebb.{module}.SILENCE_S_MAX", 1.0)


@contextmanager
def paused(node: NodeProcess) -> Iterator[None]:
    assert node.pid is not None
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


@contextmanager
def ends_soon() -> Iterator[None]:
    started_s = time.monotonic()
    yield
    assert time.monotonic() - started_s < LONG_S


@pytest.mark.parametrize("how", ["local", "frames", "http"])
def test_calls_to_a_paused_node_end_and_say_what_they_waited_for(
    own_node: NodeProcess, how: str, short_patience: None
) -> None:
    with open_client(own_node, how) as client:
        client._retry = NO_RETRY
        client._http._retry = NO_RETRY
        if client._frames is not None:
            client._frames._retry = NO_RETRY
        client.create_bucket("bucket", "ephemeral")
        client.put("bucket", "k", b"x")
        with paused(own_node):
            for call in (
                lambda: client.put("bucket", "new", noise(8 * MIB)),
                client.status,
                lambda: client.wait("bucket", "k", "disk"),
                lambda: client.delete("bucket", "other"),
            ):
                with ends_soon(), pytest.raises(errors.NodeUnreachableError):
                    call()
        assert client.get("bucket", "k") == b"x"


def test_a_http_call_to_a_paused_node_is_ambiguous_and_says_so(own_node: NodeProcess, short_patience: None) -> None:
    http = HttpClient(parse_node_address(own_node.url), None, NO_RETRY)
    http.json("GET", "/v1/status")
    with paused(own_node), ends_soon(), pytest.raises(errors.NodeUnreachableError, match=SILENT) as failed:
        http.json("POST", "/v1/verify")
    assert failed.value.retry == "ambiguous"
    assert "notSent" not in failed.value.details
    http.close()


def test_a_client_of_a_paused_node_is_told_within_seconds(
    own_node: NodeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebb._client.FIRST_ANSWER_S", 0.5)
    monkeypatch.setattr("ebb._connection.CONNECT_TIMEOUT_S", 0.5)
    with paused(own_node):
        for address in (own_node.url, own_node.socket_url):
            with ends_soon(), pytest.raises(errors.NodeUnreachableError, match=SILENT):
                ebb.Client(address)


@pytest.mark.parametrize("how", ["local", "frames", "http"])
def test_a_shorter_pause_is_ridden_out(own_node: NodeProcess, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_limits", "_connection"):
        monkeypatch.setattr(f"ebb.{module}.PING_AFTER_S", 0.1)
    with open_client(own_node, how) as client:
        client.create_bucket("bucket", "ephemeral")
        data = noise(8 * MIB)
        with paused(own_node):
            writer = threading.Thread(target=client.put, args=("bucket", "k", data))
            writer.start()
            time.sleep(1.0)
            assert writer.is_alive()
        writer.join(LONG_S)
        assert client.get("bucket", "k") == data


def test_a_call_that_takes_long_is_waited_for_while_the_node_lives(short_patience: None) -> None:
    asked = 0
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        nonlocal asked
        with connection:
            if connection.recv(4096).startswith(b"GET /healthz"):
                asked += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                return
            time.sleep(2.5)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            time.sleep(0.5)
            connection.sendall(b"true")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    http = HttpClient(parse_node_address(f"http://127.0.0.1:{listener.getsockname()[1]}"), None, NO_RETRY)
    assert http.json("POST", "/v1/verify") is True
    assert asked > 1
    http.close()
    listener.close()


def test_a_call_over_frames_that_has_no_answer_says_that_the_node_lives(
    own_node: NodeProcess, short_patience: None
) -> None:
    with ebb.Client(own_node.socket_url) as client:
        assert client._frames is not None
        session = client._frames.session()
        pending = session.start(messages.PING, messages.Empty())
        pending.result(5)
        assert "lives" in session.unanswered("open", 5).message
        with paused(own_node), pytest.raises(errors.NodeUnreachableError, match=SILENT):
            session.call(messages.PING, messages.Empty(), timeout_s=0.1)


def test_a_staged_write_to_a_paused_node_ends_though_its_bytes_find_no_room(
    own_node: NodeProcess, short_patience: None
) -> None:
    with open_client(own_node, "frames") as client:
        assert client._frames is not None
        client._frames._retry = NO_RETRY
        client.create_bucket("bucket", "ephemeral")
        staged = client.stage("bucket", "k", 64 * MIB)
        with paused(own_node), ends_soon(), pytest.raises(errors.NodeUnreachableError):
            for _ in range(8):
                staged.write(noise(8 * MIB))
        staged.abort()
