"""The HTTP surfaces of a node: control JSON, and object bytes for clients that do not see its files.

I1  A body that breaks off is continued from where it stopped, under ``If-Match``: the consumer sees one version, whole.
I2  A body never ends early without an error: the length that was announced is counted.
I3  A connection goes back to the pool only when its answer was read to the end.
I4  A wait has no limit of its own but where a timeout names one. It ends when the node shows no life any more.

Calls may come from many threads: each takes a connection of its own out of the pool for as long as it lasts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Callable, NamedTuple, Union
from urllib.parse import quote, urlencode

from ._address import NodeAddress
from ._limits import FILE_PIECE_BYTES, IDLE_HTTP_CONNECTIONS, JSON_BYTES_MAX
from ._liveness import Patience, PatientSocket
from ._retry import RetryPolicy, with_retry
from ._transport import closed, from_os_error, open_socket, unreachable
from .errors import (
    ERRORS,
    EbbError,
    LengthMismatchError,
    PreconditionFailedError,
    RangeInvalidError,
    RequestInvalidError,
    TooLargeError,
    VersionUnsupportedError,
    error_of,
)

Query = Mapping[str, Union[str, int, bool, None]]
Body = Union[bytes, bytearray, memoryview, BinaryIO, Iterable[bytes]]
Header = dict[str, str]

#: Codes of statuses, for answers without our body: HEAD, or a proxy in between.
_CODE_OF_STATUS = {
    400: "request_invalid",
    404: "not_found",
    409: "already_exists",
    412: "precondition_failed",
    413: "too_large",
    416: "range_invalid",
    429: "busy",
    501: "unsupported",
    502: "node_unreachable",
    503: "draining",
    504: "node_unreachable",
    507: "tier_full",
}
_IDEMPOTENT = ("GET", "HEAD", "PUT")


class OpenInfo(NamedTuple):
    """What is known of an open version of an object; ``Client.head`` tells the rest."""

    bucket: str
    key: str
    version: int
    etag: str
    size_bytes: int


def object_path(bucket: str, key: str) -> str:
    """``/`` in keys stays as it is, everything else is percent-encoded."""
    return f"/v1/buckets/{quote(bucket, safe='')}/objects/{quote(key, safe='/')}"


def header_text(value: str) -> str:
    """Headers carry UTF-8 bytes; http.client writes a string as Latin-1."""
    return value.encode("utf-8").decode("latin-1")


def quoted_etag(etag: str) -> str:
    return f'"{etag}"'


def changed_while_read(info: OpenInfo, version: int) -> PreconditionFailedError:
    """A reader that had to ask again found ``version``: bytes of two versions are never mixed."""
    return PreconditionFailedError(
        "the object was replaced while it was read",
        {"bucket": info.bucket, "key": info.key, "readVersion": info.version, "version": version},
    )


class _Connection(http.client.HTTPConnection):
    """Over TCP, TLS or a Unix socket."""

    def __init__(self, address: NodeAddress, tls: ssl.SSLContext | None) -> None:
        super().__init__(address.host, address.port, blocksize=FILE_PIECE_BYTES)
        self._address = address
        self._tls = tls
        self._patience: Patience | None = None

    def connect(self) -> None:
        self.sock = open_socket(self._address, self._tls)

    def begin(self, timeout_s: float | None) -> None:
        """Before each request. Without a timeout waits are as long as the node lives (I4)."""
        if self.sock is None:
            self.connect()
        self._patience = Patience(self.sock, self._address, self._tls, timeout_s)

    def send(self, data: Any) -> None:
        assert self._patience is not None, "a request has begun"
        self._patience.send(data)

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, *args: Any, **options: Any
    ) -> http.client.HTTPResponse:
        assert self._patience is not None, "a request has begun"
        patient: Any = PatientSocket(sock, self._patience)
        return http.client.HTTPResponse(patient, *args, **options)

    def is_clean(self) -> bool:
        """Still open, and nothing came while it was idle: a node that closed it has sent an end."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)


class Answer:
    """A response below 400. Read it to the end, or close it."""

    def __init__(self, http: HttpClient, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._http = http
        self._connection: _Connection | None = connection
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    def read_into(self, target: memoryview) -> int:
        """Fills ``target`` as far as the body goes. Raises NodeUnreachableError when the body breaks off."""
        done = 0
        try:
            while done < len(target):
                got = self._response.readinto(target[done:])
                if got == 0:
                    break
                done += got
        except EbbError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise BrokenBodyError(done, error) from error
        if done < len(target):
            self.close()
            raise BrokenBodyError(done, None)
        return done

    def read_all(self, bytes_max: int = JSON_BYTES_MAX) -> bytes:
        announced = self._response.length
        if announced is not None and announced > bytes_max:
            self.close()
            raise TooLargeError(f"an answer of {announced} bytes, at most {bytes_max} are taken")
        try:
            # Older Pythons make room for all that is asked for: ask for what there is.
            body = self._response.read() if announced is not None else self._response.read(bytes_max + 1)
        except EbbError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise unreachable(f"the answer broke off: {error}") from error
        if len(body) > bytes_max:
            self.close()
            raise TooLargeError(f"an answer of more than {bytes_max} bytes")
        self.finish()
        return body

    def finish(self) -> None:
        """Gives the connection back when all was read (I3)."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._response.isclosed() or self._response.length == 0:
            self._response.close()
            self._http.give_back(connection, keep=not self._response.will_close)
        else:
            connection.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._response.close()
            connection.close()


class BrokenBodyError(Exception):
    """Inside this module and readers: the body ended early, after ``done`` bytes."""

    def __init__(self, done: int, cause: BaseException | None) -> None:
        super().__init__(f"the body ended early: {cause}" if cause else "the body ended early")
        self.done = done


class HttpClient:
    def __init__(self, address: NodeAddress, tls: ssl.SSLContext | None, retry: RetryPolicy) -> None:
        self.address = address
        self._tls = tls
        self._retry = retry
        #: Taken and given back in one step each: there is no lock that an interrupt could leave taken.
        self._idle: list[_Connection] = []
        self.is_closed = False

    # -- control ---------------------------------------------------------------------------------------------

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Query | None = None,
        headers: Header | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any:
        """The answer's JSON, or None where it has no body. ``timeout`` in seconds, of each wait for the node."""
        raw = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8")
        all_headers = {"accept": "application/json", **(headers or {})}
        if raw is not None:
            all_headers["content-type"] = "application/json"

        def attempt() -> Any:
            answer = self.send(method, path, query=query, headers=all_headers, body=raw, timeout=timeout)
            text = answer.read_all()
            if not text:
                return None
            try:
                return json.loads(text)
            except ValueError as error:
                raise VersionUnsupportedError(f"{method} {path}: the answer is no JSON") from error

        repeatable = method in _IDEMPOTENT if idempotent is None else idempotent
        return with_retry(attempt, idempotent=repeatable, policy=retry or self._retry)

    # -- objects ---------------------------------------------------------------------------------------------

    def head_open(self, bucket: str, key: str) -> OpenInfo:
        def attempt() -> OpenInfo:
            answer = self.send("HEAD", object_path(bucket, key))
            answer.finish()
            return _open_info(bucket, key, answer, int(answer.header("content-length") or 0))

        return with_retry(attempt, idempotent=True, policy=self._retry)

    def wait(self, bucket: str, key: str, query: Query) -> tuple[int, str]:
        """One request that answers when the object is so durable; its version and durability."""
        answer = self.send("HEAD", object_path(bucket, key), query=query)
        answer.finish()
        return int(answer.header("x-ebb-version")), answer.header("x-ebb-durability")

    def put(self, bucket: str, key: str, body: Body, size_bytes: int | None, headers: Header) -> tuple[int, str, str]:
        """One attempt. Version, ETag and durability. Without ``size_bytes`` the body goes in chunks."""
        all_headers = dict(headers)
        if size_bytes is not None:
            all_headers["content-length"] = str(size_bytes)
        else:
            all_headers["transfer-encoding"] = "chunked"
        answer = self.send("PUT", object_path(bucket, key), headers=all_headers, body=body)
        answer.read_all()
        return (
            int(answer.header("x-ebb-version")),
            _unquoted(answer.header("etag")),
            answer.header("x-ebb-durability"),
        )

    def get(
        self, bucket: str, key: str, offset: int, length: int | None, target: Callable[[int], memoryview]
    ) -> OpenInfo:
        """Reads from ``offset``, at most ``length`` bytes, into the memory that ``target`` gives for their number.

        Raises:
            RangeInvalidError: the offset is beyond the end.
        """
        if length == 0:
            info = self.head_open(bucket, key)
            if offset > info.size_bytes:
                raise RangeInvalidError(None, {"offset": offset, "sizeBytes": info.size_bytes})
            target(0)
            return info
        headers = {}
        if offset != 0 or length is not None:
            headers["range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"

        def attempt() -> Answer | None:
            try:
                return self.send("GET", object_path(bucket, key), headers=headers)
            except RangeInvalidError:
                return None

        answer = with_retry(attempt, idempotent=True, policy=self._retry)
        if answer is None:  # at the end there is nothing; beyond it, nothing to ask for
            info = self.head_open(bucket, key)
            if offset > info.size_bytes:
                raise RangeInvalidError(None, {"offset": offset, "sizeBytes": info.size_bytes})
            target(0)
            return info
        try:
            found, announced, size_bytes = _answered_range(answer)
            info = _open_info(bucket, key, answer, size_bytes)
            view = target(announced)
        except BaseException:
            answer.close()
            raise
        self._read_resumed(info, found, view, answer)
        return info

    def read_into(self, info: OpenInfo, offset: int, view: memoryview) -> None:
        """Fills ``view`` with the bytes of this version from ``offset``, which lie within it."""
        if len(view) > 0:
            self._read_resumed(info, offset, view, None)

    def _read_resumed(self, info: OpenInfo, offset: int, view: memoryview, first: Answer | None) -> None:
        """Asks again where a body breaks off (I1)."""
        done = 0
        failures = 0
        answer = first
        while done < len(view) or answer is not None:
            if answer is None:
                answer = self._continued(info, offset + done, len(view) - done)
            try:
                done += answer.read_into(view[done:])
                answer.finish()
            except BrokenBodyError as broken:
                failures = 1 if broken.done > 0 else failures + 1
                done += broken.done
                if failures >= self._retry.attempts_max:
                    raise unreachable(str(broken)) from broken
            except BaseException:
                answer.close()
                raise
            answer = None

    def _continued(self, info: OpenInfo, offset: int, length: int) -> Answer:
        headers = {"range": f"bytes={offset}-{offset + length - 1}", "if-match": quoted_etag(info.etag)}
        path = object_path(info.bucket, info.key)

        def attempt() -> Answer:
            answer = self.send("GET", path, headers=headers)
            found, announced, size_bytes = _answered_range(answer)
            version = _open_info(info.bucket, info.key, answer, size_bytes).version
            if version == info.version and (found, announced) == (offset, length):
                return answer
            answer.close()
            if version != info.version:
                raise changed_while_read(info, version)
            raise LengthMismatchError("the node answered with another range than asked for")

        return with_retry(attempt, idempotent=True, policy=self._retry)

    # -- connections -----------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Header | None = None,
        body: Body | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """One attempt. Raises an EbbError for every status of 400 and more, and when nobody answers."""
        if self.is_closed:
            raise closed()
        target = path + _query_text(query)
        connection = self._take()
        try:
            connection.begin(timeout)
            try:
                connection.request(
                    method,
                    target,
                    body=body,
                    headers=headers or {},
                    encode_chunked=(headers or {}).get("transfer-encoding") == "chunked",
                )
            except (BrokenPipeError, ConnectionResetError):
                # An upload that the node refuses: its answer may be there all the same.
                response = connection.getresponse()
                response.will_close = True
            else:
                response = connection.getresponse()
        except EbbError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise from_os_error(error, self.address) from error
        except BaseException:
            connection.close()
            raise
        answer = Answer(self, connection, response)
        if response.status < 400:
            return answer
        try:
            text = answer.read_all()
        except EbbError:
            text = b""
        raise _error_of_answer(response, text, f"{method} {path}")

    def give_back(self, connection: _Connection, *, keep: bool) -> None:
        if not keep or len(self._idle) >= IDLE_HTTP_CONNECTIONS:
            connection.close()
            return
        self._idle.append(connection)
        if self.is_closed:
            self._drop_idle()

    def close(self) -> None:
        self.is_closed = True
        self._drop_idle()

    def after_fork(self) -> None:
        """In the child: the connections are the parent's. Closing a descriptor here sends nothing."""
        self._drop_idle()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return _Connection(self.address, self._tls)
            if connection.is_clean():
                return connection
            connection.close()


def _error_of_answer(response: http.client.HTTPResponse, body: bytes, request: str) -> EbbError:
    details: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        details["retryAfterMs"] = int(response.getheader("retry-after") or "") * 1000
    try:
        told = json.loads(body)["error"]
        return error_of(str(told["code"]), str(told["message"]), {**details, **told["details"]})
    except (ValueError, KeyError, TypeError):
        pass  # HEAD, or somebody else's answer
    code = response.getheader("x-ebb-error-code") or ""
    if not code and response.getheader("x-amz-request-id"):
        return RequestInvalidError(
            f"{request}: this looks like the S3 address of a node; name its control address (node=, EBB_NODE), "
            "which has port 9700 by default"
        )
    if code not in ERRORS:
        code = _CODE_OF_STATUS.get(response.status, "internal")
    return error_of(code, f"{request}: {response.status}, {ERRORS[code].__doc__}", details)


def _answered_range(answer: Answer) -> tuple[int, int, int]:
    """Offset and length of what comes, and the size of the object."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.header("content-range"))
    if match is None:
        length = int(answer.header("content-length") or 0)
        return 0, length, length
    first, last, size_bytes = (int(number) for number in match.groups())
    return first, last - first + 1, size_bytes


def _open_info(bucket: str, key: str, answer: Answer, size_bytes: int) -> OpenInfo:
    version = int(answer.header("x-ebb-version"))
    return OpenInfo(bucket, key, version, _unquoted(answer.header("etag")), size_bytes)


def _unquoted(etag: str) -> str:
    return re.sub(r'^(?:W/)?"(.*)"$', r"\1", etag)


def _query_text(query: Query | None) -> str:
    values = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (query or {}).items()
        if value is not None
    }
    return f"?{urlencode(values)}" if values else ""
