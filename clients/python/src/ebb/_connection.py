"""One multiplexed connection to a node, speaking frames. Many calls are in flight at a time, from any threads; a reader
thread takes the answers, in any order.

I1  Every call settles once: with its answer, its own timeout, or the end of its session.
I2  An answer that nobody waits for any more is undone (``undo``): a lease or staged write that came too late is given
    back.
I3  Leases and staged writes belong to a *session*, the time between a HELLO and the end of its socket. What holds a
    session's things calls through that session, so that an id of a lost session is never sent to its successor.
I4  Nothing is sent twice from here. Who may repeat a call is decided in _retry.py.
I5  A session belongs to the process that opened it. After a fork the child's copy is dead, without a word to the node,
    and the parent's goes on; the child connects anew when it makes its first call.

A lost connection is sought again when the next call needs it, for at most ``RetryPolicy.unreachable_s``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Generic, TypeVar

from ._address import NodeAddress
from ._frames import (
    FRAME_FLAG_ERROR,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    parse_frame_header,
)
from ._limits import (
    CALL_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    JOINED_WRITE_BYTES,
    PING_AFTER_S,
    RECEIVE_BYTES,
    SILENCE_S_MAX,
)
from ._local_files import LocalFiles, find_local_files, new_challenge
from ._locks import new_lock
from ._messages import (
    ABORT,
    BLOBS_RELEASED,
    GOING_AWAY,
    HELLO,
    OP_GOING_AWAY,
    OP_REVOKE,
    PING,
    PROTOCOL_VERSION,
    PROVE_HOST,
    RELEASE,
    REVOKE,
    BlobIds,
    Call,
    Empty,
    HelloRequest,
    HelloResponse,
    ProveHostRequest,
    ReleaseRequest,
    WriteOnly,
    decode_error,
)
from ._retry import RetryPolicy, with_retry
from ._transport import closed, from_os_error, limit_sends, open_socket, silent_node, unreachable
from ._version import __version__
from .errors import (
    EbbError,
    RequestInvalidError,
    UnsupportedError,
    VersionUnsupportedError,
    error_of,
)

Q = TypeVar("Q")
R = TypeVar("R")
_log = logging.getLogger("ebb")

FRAMES_PATH = "/v1/frames"
FRAMES_UPGRADE = "ebb-frames/1"


class Pending(Generic[R]):
    """A call on its way. The reader thread settles it, or its caller gives it up: who takes the claim first decides."""

    __slots__ = ("_answer", "_call", "_claim", "_done", "_error", "_session", "_undo")

    def __init__(self, session: Session, call: Call[Any, R], undo: Callable[[R], None] | None) -> None:
        self._session = session
        self._call = call
        self._undo = undo
        self._answer: R | None = None
        self._error: EbbError | None = None
        self._claim = threading.Lock()
        # Held until the call settles: a bare lock wakes its waiter faster than an Event does.
        self._done = threading.Lock()
        self._done.acquire()

    def result(self, timeout_s: float | None = CALL_TIMEOUT_S) -> R:
        """Waits for the answer. None: as long as the connection shows life.

        Raises:
            NodeUnreachableError: no answer in time, or the session ended.
            EbbError: what the node answered.
        """
        try:
            self._wait(timeout_s)
        except BaseException:
            self.abandon()
            raise
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # settled without an error

    def abandon(self) -> None:
        """Nobody waits for the answer any more: when it comes, or has just come, it is undone (I2)."""
        if not self._claim.acquire(blocking=False):
            self._undo_answer()

    def settle(self, payload: memoryview, *, is_error: bool) -> None:
        try:
            if is_error:
                self._error = decode_error(payload)
            else:
                self._answer = self._call.response.decode(payload)
        except EbbError as error:
            self._error = error
        self._tell()

    def fail(self, error: EbbError) -> None:
        self._error = error
        self._tell()

    def _tell(self) -> None:
        if self._claim.acquire(blocking=False):
            self._done.release()
        else:
            self._undo_answer()

    def _undo_answer(self) -> None:
        if self._error is not None or self._answer is None:
            return
        undo, self._undo = self._undo, None
        if undo is not None:
            undo(self._answer)

    def _wait(self, timeout_s: float | None) -> None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = PING_AFTER_S if deadline_s is None else deadline_s - time.monotonic()
            if self._done.acquire(timeout=max(0.0, min(left_s, PING_AFTER_S))):
                return
            if timeout_s is not None and deadline_s is not None and time.monotonic() >= deadline_s:
                raise self._session.unanswered(self._call.name, timeout_s)
            self._session.check_silence()


class Session:
    """From a HELLO to the end of its socket. Used by any thread of the process that opened it."""

    def __init__(self, sock: socket.socket, address: NodeAddress, received: bytes) -> None:
        self._sock = sock
        self._address = address
        self._pid = os.getpid()
        self._send_lock = new_lock()
        self._is_sending = False
        self._lock = new_lock()
        self._pending: dict[int, Pending[Any]] = {}
        self._last_id = 0
        self._end: EbbError | None = None
        #: The beginning of a wait counts as heard.
        self._last_heard_s = time.monotonic()
        self._last_received_s = 0.0
        self._is_pinged = False
        self._leases_to_release: deque[int] = deque()
        self._writes_to_abort: deque[int] = deque()
        self.hello: HelloResponse
        #: Direct access to the node's files; None when this process does not see them.
        self.files: LocalFiles | None = None
        # One that is dropped without a close must not leave its reader waiting.
        self._finalizer = weakref.finalize(self, _shut_down, sock, self._pid)
        arguments = (weakref.ref(self), sock, received)
        threading.Thread(target=_read_frames, args=arguments, name="ebb-frames", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._end is None and self._pid == os.getpid()

    def still_holds(self) -> bool:
        """Whether leases of this session hold at this moment: the kernel is asked whether the node has hung up."""
        if not self.is_alive:
            return False
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
            if not poll.poll(0):
                return self.is_alive
        except (OSError, ValueError):
            pass  # closed by another thread
        self.end(unreachable("the node hung up"))
        return False

    def call(
        self,
        call: Call[Q, R],
        message: Q,
        *,
        timeout_s: float | None = CALL_TIMEOUT_S,
        undo: Callable[[R], None] | None = None,
        started: list[Pending[R]] | None = None,
    ) -> R:
        """One attempt, one answer.

        Args:
            started: gets the call before it is sent: a caller that is interrupted before it has the answer gives it up.
        """
        pending = Pending(self, call, undo)
        if started is not None:
            started.append(pending)
        try:
            self._begin(pending, call, message)
            return pending.result(timeout_s)
        except BaseException:
            pending.abandon()
            raise

    def start(self, call: Call[Q, R], message: Q, *, undo: Callable[[R], None] | None = None) -> Pending[R]:
        """Sends without waiting for the answer.

        Raises:
            NodeUnreachableError: the session is over; the call was not sent.
            RequestInvalidError: the message cannot be encoded.
        """
        pending = Pending(self, call, undo)
        self._begin(pending, call, message)
        return pending

    def _begin(self, pending: Pending[R], call: Call[Q, R], message: Q) -> None:
        try:
            payload = call.request.encode(message)
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestInvalidError(f"{call.name}: {error}") from error
        with self._lock:
            self._assert_alive()
            request_id = self._next_id()
            if not self._pending:
                self._last_heard_s = time.monotonic()
            self._pending[request_id] = pending
        self._send(request_id, call.op, payload)
        if self._leases_to_release or self._writes_to_abort:
            self.release_dropped()

    def send(self, call: Call[Q, Any], message: Q) -> None:
        """Sends without waiting: for give-backs, where nobody can do anything about a failure."""
        with contextlib.suppress(EbbError):
            self.start(call, message).abandon()

    def release_later(self, lease_id: int) -> None:
        """Gives a lease back with the next call. Takes no lock: finalizers run at any moment, in any thread."""
        self._leases_to_release.append(lease_id)

    def abort_later(self, write_id: int) -> None:
        """Does what `release_later` does, for a staged write."""
        self._writes_to_abort.append(write_id)

    def check_silence(self) -> None:
        """Asks a silent node for a sign of life, and gives it up when there was none for too long."""
        silence_s = time.monotonic() - self._last_heard_s
        if silence_s > SILENCE_S_MAX:
            self.end(silent_node(self._address, silence_s))
        elif silence_s > PING_AFTER_S and not self._is_pinged:
            self._is_pinged = True
            self.send(PING, Empty())

    def unanswered(self, name: str, waited_s: float) -> EbbError:
        """The error of a call without an answer: a node that was heard meanwhile lives."""
        if self._last_received_s < time.monotonic() - waited_s:
            return silent_node(self._address, waited_s, {"op": name})
        return unreachable(
            f'the node at {self._address.text} lives, and has not answered "{name}" for {waited_s:g} s',
            {"op": name, "silentMs": int(waited_s * 1000)},
        )

    def end(self, why: EbbError) -> None:
        """Fails what is in flight. Leases and staged writes of this session are gone with it."""
        with self._lock:
            if self._end is not None:
                return
            self._end = why
            pending = list(self._pending.values())
            self._pending.clear()
        self._finalizer()  # wakes the reader, which closes
        for waiting in pending:
            waiting.fail(why)

    def forget_after_fork(self) -> None:
        """In the child (I5): no shutdown, which would end the parent's connection."""
        self._end = unreachable("this was opened before the process was forked", {"notSent": True})
        self._pending = {}
        self._finalizer.detach()
        self._sock.close()

    def release_dropped(self) -> None:
        lease_ids = []
        try:
            while True:
                lease_ids.append(self._leases_to_release.popleft())
        except IndexError:
            pass
        if lease_ids:
            self.send(RELEASE, ReleaseRequest(lease_ids))
        with contextlib.suppress(IndexError):
            while True:
                self.send(ABORT, WriteOnly(self._writes_to_abort.popleft()))

    # -- sending -----------------------------------------------------------------------------------------------

    def _assert_alive(self) -> None:
        if self._end is not None:
            raise unreachable(f"the connection is gone: {self._end.message}", {"notSent": True}) from self._end
        if self._pid != os.getpid():
            raise unreachable("this was opened before the process was forked", {"notSent": True})

    def _next_id(self) -> int:
        while True:
            self._last_id = 1 if self._last_id == 0xFFFF_FFFF else self._last_id + 1
            if self._last_id not in self._pending:
                return self._last_id

    def _send(self, request_id: int, op: int, payload: bytearray) -> None:
        header = FRAME_HEADER.pack(len(payload), request_id, op, 0)
        with self._send_lock:
            if self._is_sending:
                with self._lock:
                    self._pending.pop(request_id, None)
                raise RequestInvalidError(
                    "this call was made by a signal handler that interrupted another call while it was sent: "
                    "set a flag in the handler, and call when it has returned"
                )
            try:
                self._is_sending = True
                self._send_whole(header, payload)
            finally:
                self._is_sending = False

    def _send_whole(self, header: bytes, payload: bytearray) -> None:
        try:
            if len(payload) <= JOINED_WRITE_BYTES:
                self._sock.sendall(header + payload)
            else:
                self._sock.sendall(header)
                self._sock.sendall(payload)
        except BlockingIOError:
            # The node took nothing of it for as long.
            self.end(silent_node(self._address, SILENCE_S_MAX))
        except OSError as error:
            # Also half a frame: nothing more can be said on this connection.
            self.end(from_os_error(error, self._address))
        except BaseException:
            # An interrupt in the middle of a frame leaves the stream unusable.
            self.end(unreachable("a call was interrupted while it was sent"))
            raise

    # -- receiving, on the reader thread -----------------------------------------------------------------------

    def heard(self) -> None:
        self._last_received_s = self._last_heard_s = time.monotonic()
        self._is_pinged = False

    def on_frame(self, request_id: int, op: int, flags: int, payload: memoryview) -> None:
        if request_id == 0:
            self._on_push(op, payload)
            return
        with self._lock:
            pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending.settle(payload, is_error=flags & FRAME_FLAG_ERROR != 0)

    def _on_push(self, op: int, payload: memoryview) -> None:
        if op == OP_REVOKE:
            # Only shuffle tables are guarded by blob, and this client has none: it holds nothing of these.
            self.send(BLOBS_RELEASED, BlobIds(REVOKE.decode(payload).blob_ids))
        elif op == OP_GOING_AWAY:
            reason = GOING_AWAY.decode(payload).reason
            _log.info("the node at %s is stopping: %s", self._address.text, reason)
        # Others come from newer nodes, and mean nothing to us.


def _shut_down(sock: socket.socket, pid: int) -> None:
    if pid != os.getpid():
        return  # the parent's (I5)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _read_frames(session_ref: weakref.ref[Session], sock: socket.socket, received: bytes) -> None:
    """Until the end of the socket. Holds the session only while it has something for it, so that one that nobody uses
    any more can be collected."""
    buffered = bytearray(received)
    why: EbbError = unreachable("the node closed the connection")
    try:
        while True:
            at = 0
            while len(buffered) - at >= FRAME_HEADER_BYTES:
                header = parse_frame_header(buffered, at)
                start = at + FRAME_HEADER_BYTES
                end = start + header.payload_bytes
                if end <= len(buffered):
                    payload = memoryview(bytes(memoryview(buffered)[start:end]))
                    at = end
                elif header.payload_bytes >= RECEIVE_BYTES:
                    # A large answer is received where its reader will find it: the rest goes straight there.
                    payload = memoryview(bytearray(header.payload_bytes))
                    have = len(buffered) - start
                    payload[:have] = memoryview(buffered)[start:]
                    at = len(buffered)
                    if not _receive_exactly(sock, payload[have:]):
                        return
                else:
                    break
                session = session_ref()
                if session is None:
                    return
                session.heard()
                session.on_frame(header.request_id, header.op, header.flags, payload)
                del session, payload
            if at > 0:
                buffered = buffered[at:]
            chunk = sock.recv(RECEIVE_BYTES)
            if not chunk:
                return
            buffered += chunk
    except EbbError as error:
        why = unreachable(f"the node sent what is not a frame: {error.message}")
    except OSError as error:
        why = unreachable(f"the connection broke: {error}")
    finally:
        session = session_ref()
        if session is not None:
            session.end(why)
        sock.close()


def _receive_exactly(sock: socket.socket, target: memoryview) -> bool:
    done = 0
    while done < len(target):
        got = sock.recv_into(target[done:])
        if got == 0:
            return False
        done += got
    return True


class Connection:
    """Finds a session when one is needed; one at a time, shared by all threads."""

    def __init__(
        self,
        address: NodeAddress,
        *,
        client_name: str,
        job_id: str,
        retry: RetryPolicy,
        use_files: bool,
    ) -> None:
        self._address = address
        self._client_name = client_name
        self._job_id = job_id
        self._retry = retry
        self._use_files = use_files
        self._lock = new_lock()
        self._session: Session | None = None
        self._is_closed = False

    def session(self) -> Session:
        """The living session; connects anew if there is none.

        Raises:
            NodeUnreachableError: the node did not come back in time, or this connection was closed.
        """
        session = self._session
        if session is not None and session.is_alive:
            return session
        with self._lock:
            session = self._session
            if session is not None and session.is_alive:
                return session
            self._session = with_retry(self._open_session, idempotent=True, policy=self._retry)
            return self._session

    def open_once(self) -> Session:
        """As `session`, without seeking a node that does not answer."""
        with self._lock:
            if self._session is None or not self._session.is_alive:
                self._session = self._open_session()
            return self._session

    def release_dropped(self) -> None:
        session = self._session
        if session is not None and session.is_alive:
            session.release_dropped()

    def close(self) -> None:
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None and session.is_alive:
            session.end(closed())

    def after_fork(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.forget_after_fork()

    def _open_session(self) -> Session:
        if self._is_closed:
            raise closed()
        sock, received = _upgrade(self._address)
        session = Session(sock, self._address, received)
        try:
            name = self._client_name or f"ebb-python/{__version__} pid-{os.getpid()}"
            request = HelloRequest(PROTOCOL_VERSION, name, self._job_id)
            session.hello = session.call(HELLO, request, timeout_s=CONNECT_TIMEOUT_S)
            if session.hello.protocol_version != PROTOCOL_VERSION:
                raise VersionUnsupportedError(
                    f"the node speaks protocol {session.hello.protocol_version}, this client {PROTOCOL_VERSION}"
                )
            if self._use_files:
                session.files = _find_files(session)
            return session
        except BaseException:
            session.end(unreachable("the node did not take the HELLO"))
            raise


def _find_files(session: Session) -> LocalFiles | None:
    if session.hello.memory_dir == "" or session.hello.disk_dir == "":
        return None
    challenge = new_challenge()
    try:
        session.call(PROVE_HOST, ProveHostRequest(challenge), timeout_s=CONNECT_TIMEOUT_S)
    except UnsupportedError:
        return None  # a node that cannot prove it: bytes go through the connection
    return find_local_files(session.hello, challenge)


def _upgrade(address: NodeAddress) -> tuple[socket.socket, bytes]:
    """HTTP/1.1 Upgrade; the socket speaks frames afterwards. With it, what came right behind the answer.

    Raises:
        UnsupportedError: the other side speaks no frames.
    """
    sock = open_socket(address, None)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.sendall(
            f"GET {FRAMES_PATH} HTTP/1.1\r\nHost: {address.host}\r\n"
            f"Connection: Upgrade\r\nUpgrade: {FRAMES_UPGRADE}\r\n\r\n".encode("ascii")
        )
        head = bytearray()
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(RECEIVE_BYTES)
            if not chunk:
                raise unreachable(f"{address.text} hung up", {"notSent": True})
            head += chunk
            if len(head) > RECEIVE_BYTES:
                raise UnsupportedError(f"{address.text} speaks no frames")
        text, rest = bytes(head).split(b"\r\n\r\n", 1)
        status = _status_of(text)
        if status != 101:
            raise _refused(address, status, text, rest)
        sock.settimeout(None)
        limit_sends(sock, SILENCE_S_MAX)
        return sock, rest
    except socket.timeout as error:
        sock.close()
        raise silent_node(address, CONNECT_TIMEOUT_S, {"notSent": True}) from error
    except OSError as error:
        sock.close()
        if isinstance(error, EbbError):
            raise
        raise from_os_error(error, address, connecting=True) from error
    except BaseException:
        sock.close()
        raise


def _status_of(head: bytes) -> int:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    try:
        return int(parts[1])
    except (IndexError, ValueError):
        return 0


def _refused(address: NodeAddress, status: int, head: bytes, body: bytes) -> EbbError:
    """A node that starts or drains says so, and is asked again; anything else speaks no frames."""
    names = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    code = names.get(b"x-ebb-error-code", b"").decode("latin-1")
    if status in (429, 503) and code in ("", "starting", "draining"):
        return error_of(code or "draining", f"{address.text} takes no connections now")
    return UnsupportedError(f"{address.text} speaks no frames ({status})")
