"""``ebb://bucket/key`` for smart_open: import this module once, and ``smart_open.open("ebb://…")`` works.

The transport parameters are ``client`` (an `ebb.Client`), or what `ebb.Client` takes to open one: ``node``, ``job``,
``ca_file`` …; and for writing ``content_type``, ``metadata`` and ``ack``. A file is published at its close; one that is
left by an exception is not.
"""

from __future__ import annotations

import sys
from typing import IO, Any

from smart_open import transport

from ._client import Client
from ._files import ReadFile, WriteFile, split_url
from ._locks import new_lock
from ._messages import Ack
from .errors import NameInvalidError

SCHEME = "ebb"
URI_EXAMPLES = ("ebb://bucket/key",)

_clients: dict[tuple[tuple[str, str], ...], Client] = {}
_lock = new_lock()


def parse_uri(uri_as_string: str) -> dict[str, str]:
    """Raises NameInvalidError when it names no object."""
    bucket, key = split_url(uri_as_string)
    if not bucket or not key:
        raise NameInvalidError(f"{uri_as_string!r} names no object: ebb://bucket/key")
    return {"scheme": SCHEME, "bucket": bucket, "key": key}


def open_uri(uri_as_string: str, mode: str, transport_params: dict[str, Any]) -> IO[bytes]:
    parsed = parse_uri(uri_as_string)
    return open(parsed["bucket"], parsed["key"], mode, **transport_params)


def open(
    bucket: str,
    key: str,
    mode: str = "rb",
    client: Client | None = None,
    content_type: str = "",
    metadata: dict[str, str] | None = None,
    ack: Ack | None = None,
    **client_arguments: str,
) -> IO[bytes]:
    """Opens an object to be read (``rb``), written (``wb``, ``xb``) or appended to (``ab``).

    Raises:
        FileNotFoundError: no such object, or bucket.
        ValueError: another mode.
    """
    node = client if client is not None else _shared_client(client_arguments)
    file: Any
    if mode == "rb":
        file = ReadFile(node, bucket, key)
    elif mode in ("wb", "xb", "ab"):
        file = WriteFile(node, bucket, key, mode, content_type=content_type, metadata=metadata, ack=ack)
    else:
        raise ValueError(f"the mode {mode!r} is not offered: rb, wb, xb and ab are")
    opened: IO[bytes] = file
    return opened


def _shared_client(arguments: dict[str, str]) -> Client:
    """One for equal arguments, for as long as the process lives."""
    place = tuple(sorted(arguments.items()))
    with _lock:
        if place not in _clients:
            _clients[place] = Client(**arguments)  # type: ignore[arg-type]
        return _clients[place]


transport.register_transport(sys.modules[__name__])
