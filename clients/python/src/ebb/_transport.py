"""Sockets to a node, and what the network raises in the protocol's words."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any

from ._address import NodeAddress
from ._limits import CONNECT_TIMEOUT_S
from .errors import ConfigInvalidError, EbbError, NodeUnreachableError

#: Fail before a byte of the request has left.
_NOT_SENT = (
    errno.ECONNREFUSED,
    errno.ENOENT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EACCES,
    errno.EPERM,
)


def unreachable(message: str, details: Mapping[str, Any] | None = None) -> NodeUnreachableError:
    return NodeUnreachableError(message, details)


def silent_node(
    address: NodeAddress, silent_s: float, details: Mapping[str, Any] | None = None
) -> NodeUnreachableError:
    """The kernel takes connections for a node that is paused or hung, and nobody answers them."""
    op = (details or {}).get("op")
    what = "" if op is None else f' "{op}"'
    return unreachable(
        f"the node at {address.text} takes connections and has not answered{what} for {round(silent_s, 2):g} s; "
        "is it paused, or its machine?",
        {"silentMs": int(silent_s * 1000), **(details or {})},
    )


class _ClosedError(NodeUnreachableError):
    """Not to be tried again."""

    retry = "never"


def closed() -> NodeUnreachableError:
    return _ClosedError("this client was closed")


def open_socket(
    address: NodeAddress, tls: ssl.SSLContext | None, timeout_s: float = CONNECT_TIMEOUT_S
) -> socket.socket:
    """A connected, blocking socket.

    Raises:
        NodeUnreachableError: nobody answers; nothing was sent (``details["notSent"]``).
        ConfigInvalidError: the certificates do not fit.
    """
    try:
        if address.socket_path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                sock.connect(address.socket_path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
            _prepare_tcp(sock)
        if address.is_tls:
            sock = _with_tls(sock, address, tls, timeout_s)
        sock.settimeout(None)
        return sock
    except EbbError:
        raise
    except OSError as error:
        raise from_os_error(error, address, connecting=True) from error


def from_os_error(error: BaseException, address: NodeAddress, *, connecting: bool = False) -> EbbError:
    """What a socket raised, as `node_unreachable`, or `config_invalid` for a certificate that is not to be trusted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigInvalidError(
            f"the certificate of {address.text} is not trusted here: {error.verify_message}; "
            "name its CA: ca_file or EBB_CA_FILE"
        )
    if isinstance(error, ssl.SSLError) and connecting:
        return ConfigInvalidError(f"the TLS handshake with {address.text} failed: {error.reason or error}")
    code = getattr(error, "errno", None)
    if code in (errno.EACCES, errno.EPERM):
        why = "not allowed to use the socket of the node: be a member of its group"
    else:
        why = str(error) or type(error).__name__
    not_sent = connecting or code in _NOT_SENT
    return unreachable(f"no Ebb node answers at {address.text}: {why}", {"notSent": True} if not_sent else {})


def limit_sends(sock: socket.socket, silent_s: float) -> None:
    """Sets how long a send waits on a blocking socket for the other side, before it raises BlockingIOError. A timeout
    of Python's would also limit what waits for answers on it."""
    seconds = int(silent_s)
    limit = struct.pack("ll", seconds, int((silent_s - seconds) * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _prepare_tcp(sock: socket.socket) -> None:
    """No delay for small calls; and a peer that is gone without a word is noticed within a minute or so."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _with_tls(sock: socket.socket, address: NodeAddress, tls: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    context = tls if tls is not None else ssl.create_default_context()
    try:
        return context.wrap_socket(sock, server_hostname=address.host)
    except socket.timeout as error:
        sock.close()
        raise silent_node(address, timeout_s, {"notSent": True}) from error
    except BaseException:
        sock.close()
        raise
