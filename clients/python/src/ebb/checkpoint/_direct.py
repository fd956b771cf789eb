"""Data objects that lie in an object store alone, read straight from there by URLs that the node has signed: past the
node, whose processors they cost three times as much.

I1  What cannot be read so, for whatever reason (the store is out of reach from here, the URL has expired, a proxy is in
    the way), is read by the node. It is no error.
I2  An answer of another range or another object than asked for is never taken for content.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import threading
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

from .._locks import new_lock

_log = logging.getLogger("ebb.checkpoint")
_TIMEOUT_S = 30.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")


class DirectObject(NamedTuple):
    url: str
    etag: str


class DirectReads:
    """Of one restore. Each thread has its connections, which `close` ends."""

    def __init__(self, objects: Mapping[str, DirectObject]) -> None:
        self._objects = objects
        self._is_given_up = not objects
        self._local = threading.local()
        self._lock = new_lock()
        self._connections: list[http.client.HTTPConnection] = []
        self._tls: ssl.SSLContext | None = None

    def reader(self, key: str, offset: int, length: int) -> Callable[[memoryview], int] | None:
        """Reads on from `offset` with each call, as much as fits or is left; 0 when it cannot go on. None: not here."""
        found = self._objects.get(key)
        if found is None or self._is_given_up:
            return None
        try:
            response = self._ask(found, offset, length)
        except Exception as error:
            self._give_up(error)
            return None

        def read(target: memoryview) -> int:
            if self._is_given_up:
                return 0
            try:
                return response.readinto(target)
            except Exception as error:
                self._give_up(error)
                return 0

        return read

    def close(self) -> None:
        self._is_given_up = True
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _ask(self, found: DirectObject, offset: int, length: int) -> http.client.HTTPResponse:
        url = urlsplit(found.url)
        connection = self._connection(url.scheme, url.netloc)
        last = offset + length - 1
        headers = {"range": f"bytes={offset}-{last}", "if-match": f'"{found.etag}"'}
        for is_last in (False, True):
            try:
                connection.request("GET", f"{url.path}?{url.query}", headers=headers)
                response = connection.getresponse()
                break
            except ConnectionError:
                # The store may close a connection between two requests.
                connection.close()
                if is_last:
                    raise
        answered = _CONTENT_RANGE.match(response.getheader("content-range") or "")
        if response.status != 206 or answered is None or answered.group(1, 2) != (str(offset), str(last)):
            # Neither URL nor body: both may hold what gives access.
            raise ValueError(f"the store answered {response.status} to a range of {length} bytes")
        # Not every store keeps the condition.
        if (response.getheader("etag") or "").removeprefix("W/").strip('"') != found.etag:
            raise ValueError("the store gave another object than the one that was asked for")
        return response

    def _connection(self, scheme: str, place: str) -> http.client.HTTPConnection:
        kept: dict[str, http.client.HTTPConnection] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = {}
        connection = kept.get(f"{scheme}://{place}")
        if connection is None:
            connection = self._open(scheme, place)
            kept[f"{scheme}://{place}"] = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _open(self, scheme: str, place: str) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(place, timeout=_TIMEOUT_S)
        if scheme != "https":
            raise ValueError(f"no way to read {scheme}")
        with self._lock:
            self._tls = self._tls or ssl.create_default_context()
        return http.client.HTTPSConnection(place, timeout=_TIMEOUT_S, context=self._tls)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            if self._is_given_up:
                return
            self._is_given_up = True
        _log.info("reading by the node, for the object store could not be read directly: %s", error)


def direct_objects(rows: Any) -> dict[str, DirectObject]:
    """As plans have them."""
    return {row["key"]: DirectObject(row["url"], row["etag"]) for row in rows or ()}
