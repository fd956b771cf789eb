"""Whether a node that is waited for still lives.

A call may rightly take long: it waits for tier 2, for room, or for a big copy. A node that is paused, or whose machine
hangs, takes connections and says nothing. So what tells them apart is another question, which a living node answers at
once. It is put when nothing was heard for ``PING_AFTER_S``; a node that answers it for ``SILENCE_S_MAX - PING_AFTER_S``
neither here nor there is given up.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import time
from typing import Any, Callable

from . import _limits
from ._address import NodeAddress
from ._transport import from_os_error, open_socket, silent_node
from .errors import ConfigInvalidError, EbbError, NodeUnreachableError

_QUESTION = b"GET /healthz HTTP/1.1\r\nhost: ebb\r\nconnection: close\r\n\r\n"
#: Between questions that failed at once.
_PAUSE_S = 0.25


class Patience:
    """Sends and receives on the socket of one call over HTTP, for as long as the node lives.

    Args:
        timeout_s: each wait is no longer than this; None: as long as the node lives.
    """

    def __init__(
        self, sock: socket.socket, address: NodeAddress, tls: ssl.SSLContext | None, timeout_s: float | None
    ) -> None:
        self._sock = sock
        self._address = address
        self._tls = tls
        self._timeout_s = timeout_s
        sock.settimeout(_limits.PING_AFTER_S if timeout_s is None else timeout_s)

    def send(self, data: Any) -> None:
        with memoryview(data).cast("B") as view:
            at = 0
            while at < len(view):
                at += self._try(self._sock.send, view[at : at + _limits.FILE_PIECE_BYTES], select.POLLOUT) or 0

    def receive_into(self, target: Any) -> int:
        while True:
            got = self._try(self._sock.recv_into, target, select.POLLIN)
            if got is not None:
                return got

    def _try(self, work: Callable[[Any], int], data: Any, wanted: int) -> int | None:
        """None: not yet, and the node lives."""
        try:
            return work(data)
        except socket.timeout:
            self._look(wanted)
            return None

    def _look(self, wanted: int) -> None:
        """Returns when there is a reason to go on.

        Raises:
            NodeUnreachableError: there is none.
        """
        if self._timeout_s is not None:
            raise silent_node(self._address, self._timeout_s)
        try:
            ask(self._address, self._tls)
        except NodeUnreachableError:
            # What is waited for may have come meanwhile.
            poll = select.poll()
            poll.register(self._sock, wanted)
            if not poll.poll(0):
                raise


def ask(address: NodeAddress, tls: ssl.SSLContext | None) -> None:
    """Returns when the node answered anything.

    Raises:
        NodeUnreachableError: it did not in time.
    """
    within_s = _limits.SILENCE_S_MAX - _limits.PING_AFTER_S
    deadline_s = time.monotonic() + within_s
    while True:
        left_s = max(0.001, deadline_s - time.monotonic())
        error: EbbError
        try:
            sock = open_socket(address, tls, left_s)
            with sock:
                sock.settimeout(left_s)
                sock.sendall(_QUESTION)
                if sock.recv(1):
                    return
            error = from_os_error(ConnectionResetError("it hung up"), address)
        except socket.timeout:
            error = silent_node(address, _limits.SILENCE_S_MAX)
        except OSError as failed:
            error = failed if isinstance(failed, NodeUnreachableError) else from_os_error(failed, address)
        except ConfigInvalidError as failed:
            error = failed
        if time.monotonic() + _PAUSE_S >= deadline_s:
            # The call itself was sent: whether it was applied is not known.
            raise NodeUnreachableError(error.message, {"silentMs": int(_limits.SILENCE_S_MAX * 1000)}) from error
        time.sleep(_PAUSE_S)


class PatientSocket:
    """What ``http.client`` reads an answer from: the file of a socket whose reads wait with patience."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self._patience = patience

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_PatientFile(self._sock, self._patience))


class _PatientFile(io.RawIOBase):
    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        super().__init__()
        # The socket lives as long as somebody reads from it.
        self._held = sock.makefile("rb", buffering=0)
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        return self._patience.receive_into(target)

    def close(self) -> None:
        if not self.closed:
            self._held.close()
        super().close()
