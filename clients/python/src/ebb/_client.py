"""What a program does with a node. The path, node-local or HTTP, is chosen when the client is opened."""

from __future__ import annotations

import builtins
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import (
    Any,
    TypeVar,
    cast,
)
from urllib.parse import quote

from ._address import NodeAddress, find_node, open_tls_context, parse_node_address
from ._closing import Closing
from ._connection import Connection, Pending, Session
from ._http import Header, HttpClient, Query, object_path, quoted_etag
from ._infos import (
    BucketInfo,
    ListPage,
    ObjectInfo,
    ObjectProperties,
    Waited,
    affected,
    bucket_info,
    properties,
    row_info,
)
from ._limits import CALL_TIMEOUT_S, FIRST_ANSWER_S, LIST_PAGE_OBJECTS, RESERVE_FIRST_BYTES, WAIT_STEP_MS
from ._messages import (
    ABORT,
    DELETE_OBJECT,
    DELETE_PREFIX,
    HEAD,
    LIST_OBJECTS,
    RENAME,
    RENAME_PREFIX,
    STAGE,
    TIER_BY_POLICY,
    Ack,
    Affected,
    Call,
    DeleteRequest,
    ListRequest,
    Place,
    PrefixRequest,
    RenameRequest,
    StagedResponse,
    StageRequest,
    WriteOnly,
)
from ._puts import PutData, PutOptions, assert_names, find_extent, pieces_of
from ._reader import (
    HttpReader,
    LeasedReader,
    ObjectMap,
    ObjectReader,
    map_object,
    readable_view,
    writable_view,
)
from ._retry import DEFAULT_RETRY, NO_RETRY, RetryPolicy, with_reopen, with_retry
from ._staged import Committed, StagedFile, normal_metadata
from .errors import (
    AbortedError,
    EbbError,
    NodeUnreachableError,
    NotFoundError,
    RangeInvalidError,
    RequestInvalidError,
    TimedOutError,
    UnsupportedError,
)

_Q = TypeVar("_Q")
_R = TypeVar("_R")


class Client(Closing):
    """A client of one node. Thread-safe, usable after a fork (each process connects for itself), and picklable.

    Args:
        node: ``http://127.0.0.1:9700``, ``https://…``, ``unix:///path``, or the path of the node's socket.
            Default: ``EBB_NODE``, else ``http://127.0.0.1:9700``.
        job: the open job that this client works for: it owns what is put, and lives while the client is connected.
        path: ``"http"``: do not use the node's files even if they are seen.
        name: for the logs of the node.
        ca_file, cert_file, key_file: PEM files for ``https://``: the CA of the node's certificate in place of those
            that Python trusts, and a certificate of the client's own. Default: ``EBB_CA_FILE``, ``EBB_CERT_FILE``,
            ``EBB_KEY_FILE``.
        retry: how long and how often failed calls are made again; `ebb.NO_RETRY` for never.

    Raises:
        NodeUnreachableError: at once when nobody listens there, within seconds when nobody answers.
        RequestInvalidError: a bad address.
        ConfigInvalidError: a certificate that is not trusted, or files that cannot be read.
    """

    def __init__(
        self,
        node: str | None = None,
        *,
        job: str | None = None,
        path: str = "auto",
        name: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        if path not in ("auto", "http"):
            raise RequestInvalidError(f'path is "auto" or "http", not {path!r}')
        self._arguments = {
            "node": find_node(node),
            "job": job,
            "path": path,
            "name": name,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "retry": retry,
        }
        self._retry = retry
        self._job = job or ""
        given = parse_node_address(find_node(node))
        tls = None
        if given.is_tls:
            tls = open_tls_context(
                ca_file or os.environ.get("EBB_CA_FILE"),
                cert_file or os.environ.get("EBB_CERT_FILE"),
                key_file or os.environ.get("EBB_KEY_FILE"),
            )
        address = _nearest_address(given, HttpClient(given, tls, NO_RETRY))
        self._http = HttpClient(address, tls, retry)
        self._frames: Connection | None = None
        if not address.is_tls:
            self._frames = self._connect(address, name or "", path)
        elif address is given:
            self._http.json("GET", "/v1/status", timeout=FIRST_ANSWER_S)
        _clients.add(self)

    def _connect(self, address: NodeAddress, name: str, path: str) -> Connection | None:
        """None when something in between passes no upgrades: HTTP remains."""
        connection = Connection(
            address, client_name=name, job_id=self._job, retry=self._retry, use_files=path != "http"
        )
        try:
            connection.open_once()
            return connection
        except UnsupportedError:
            return None

    # -- the connection --------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """``"local"``: bytes go through files of this host; ``"http"``: through the node."""
        return "http" if self._local_session() is None else "local"

    @property
    def node_id(self) -> str:
        if self._frames is not None:
            return self._frames.session().hello.node_id
        return str(self.status()["nodeId"])

    @property
    def is_connected(self) -> bool:
        """Whether leases and staged writes can be had: there is a connection for frames, not only for HTTP."""
        return self._frames is not None

    def close(self) -> None:
        """Ends the connections. Leases and staged writes of this client end with them."""
        _clients.discard(self)
        if self._frames is not None:
            self._frames.close()
        self._http.close()

    @property
    def is_closed(self) -> bool:
        return self._http.is_closed

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return (_open_again, (self._arguments,))

    def __repr__(self) -> str:
        return f"<ebb.Client {self._arguments['node']}>"

    def request_json(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Query | None = None,
        timeout: float | None = None,
        *,
        idempotent: bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any:
        """A call of the control surface (``/v1/…``) that has no method here; the answer's JSON, None without one.

        Args:
            timeout: seconds to wait for the node; default: as long as it takes, and the node lives.
            idempotent: whether it may be repeated when its answer was lost; default: GET, HEAD and PUT may.
            retry: in place of the client's own.
        """
        return self._http.json(
            method, path, body=body, query=query, timeout=timeout, idempotent=idempotent, retry=retry
        )

    def release_dropped(self) -> None:
        """Gives back, at once, what was staged or leased here and dropped without a word."""
        if self._frames is not None:
            self._frames.release_dropped()

    def status(self) -> dict[str, Any]:
        """What the node is doing, as ``GET /v1/status`` tells it."""
        return cast(dict[str, Any], self._http.json("GET", "/v1/status"))

    # -- buckets and jobs ------------------------------------------------------------------------------------

    def create_bucket(
        self,
        name: str,
        preset: str = "buffered",
        *,
        ack: Ack | None = None,
        mirror: bool | None = None,
        ttl_ms: int | None = None,
        quota_bytes: int | None = None,
        remote: str | None = None,
        revalidate_ms: int | None = None,
        versioning: str | None = None,
        events: bool | None = None,
        encrypted: bool | None = None,
    ) -> BucketInfo:
        """Creates a bucket; again with the same policy changes nothing.

        Args:
            preset: ``ephemeral`` (memory), ``buffered`` (disk, mirrored behind) or ``durable`` (remote).

        Raises:
            BucketExistsError: there is one with another policy.
        """
        policy = {
            "preset": preset,
            "ack": ack,
            "mirror": mirror,
            "ttlMs": ttl_ms,
            "quotaBytes": quota_bytes,
            "remote": remote,
            "revalidateMs": revalidate_ms,
            "versioning": versioning,
            "events": events,
            "encrypted": encrypted,
        }
        body = {field: value for field, value in policy.items() if value is not None}
        return bucket_info(self._http.json("PUT", _bucket_path(name), body=body))

    def bucket(self, name: str) -> BucketInfo:
        """Raises BucketNotFoundError."""
        return bucket_info(self._http.json("GET", _bucket_path(name)))

    def buckets(self) -> builtins.list[BucketInfo]:
        return [bucket_info(row) for row in self._http.json("GET", "/v1/buckets")["buckets"]]

    def delete_bucket(self, name: str) -> None:
        """Raises BucketNotEmptyError, BucketNotFoundError."""
        self._http.json("DELETE", _bucket_path(name))

    def open_job(
        self,
        job: str,
        *,
        label: str = "",
        heartbeat_ttl_ms: int = 120_000,
        budget_bytes: int | None = None,
    ) -> None:
        """Opens a job, or changes it. It ends, with all it owns, after ``heartbeat_ttl_ms`` of silence."""
        body = {"label": label, "heartbeatTtlMs": heartbeat_ttl_ms, "budgetBytes": budget_bytes}
        self._http.json("PUT", _job_path(job), body=body)

    def heartbeat(self, job: str) -> None:
        """Says that the job is alive. Raises JobNotFoundError."""
        self._http.json("POST", f"{_job_path(job)}/heartbeat", idempotent=True)

    def end_job(self, job: str) -> dict[str, Any]:
        """Ends a job and deletes all it owns; the receipt. Ending one that is gone gives zeros."""
        return cast(dict[str, Any], self._http.json("DELETE", _job_path(job), idempotent=True))

    # -- bytes -----------------------------------------------------------------------------------------------

    def put(
        self,
        bucket: str,
        key: str,
        data: PutData,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        ack: Ack | None = None,
        job: str | None = None,
    ) -> Committed:
        """Stores an object; it is visible, whole, when this returns.

        Args:
            data: a contiguous buffer, a binary file (from where it stands), or the path of a file.
            if_match: ETag that the object must have now.
            if_none_match: the object must not exist.
            ack: what must hold before this returns (``memory``, ``disk``, ``remote``); the bucket's unless given.
            job: owner of the object; the client's job unless given.

        Raises:
            AlreadyExistsError, PreconditionFailedError: the condition did not hold; nothing was changed.
            TierFullError, QuotaExceededError: no room.
        """
        assert_names(bucket, key)
        options = PutOptions(
            content_type,
            normal_metadata(metadata),
            if_match,
            if_none_match,
            ack,
            self._job if job is None else job,
        )
        if isinstance(data, os.PathLike):
            with open(data, "rb", buffering=0) as file:
                return self._put_file(bucket, key, file, options)
        if hasattr(data, "read"):
            return self._put_file(bucket, key, data, options)
        if isinstance(data, str):
            raise TypeError("put takes bytes, not text; encode it, or give a path as pathlib.Path")
        view = readable_view(data)
        return with_retry(
            lambda: self._put_once(bucket, key, view, len(view), options),
            idempotent=not options.is_conditional,
            policy=self._retry,
        )

    def get(self, bucket: str, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object, or ``length`` of them from ``offset``: fewer only at its end.

        Raises:
            NotFoundError: no such object.
            RangeInvalidError: ``offset`` is beyond the end.
            SupersededError, PreconditionFailedError: it was replaced each time while it was read.
            DataLostError, DataCorruptError: the node no longer has these bytes.
        """
        _assert_range(offset, length)
        return with_reopen(lambda: self._get_once(bucket, key, offset, length))

    def _get_once(self, bucket: str, key: str, offset: int, length: int | None) -> bytes:
        if self._local_session() is not None:
            with self.open(bucket, key) as reader:
                if offset > reader.size_bytes:
                    raise RangeInvalidError(None, {"offset": offset, "sizeBytes": reader.size_bytes})
                return reader.read(offset, length)
        target = bytearray()

        def allocate(size: int) -> memoryview:
            nonlocal target
            target = bytearray(size)
            return memoryview(target)

        self._http.get(bucket, key, offset, length, allocate)
        return bytes(target)

    def get_into(self, bucket: str, key: str, buffer: Any, offset: int = 0) -> int:
        """Reads from ``offset`` into a writable, contiguous buffer until one of them ends.

        Returns the number of bytes read, and raises as `get`.
        """
        _assert_range(offset, None)
        view = writable_view(buffer)
        return with_reopen(lambda: self._get_into_once(bucket, key, view, offset))

    def _get_into_once(self, bucket: str, key: str, view: memoryview, offset: int) -> int:
        if self._local_session() is not None:
            with self.open(bucket, key) as reader:
                if offset > reader.size_bytes:
                    raise RangeInvalidError(None, {"offset": offset, "sizeBytes": reader.size_bytes})
                return reader.read_into(view, offset)
        done = 0

        def allocate(size: int) -> memoryview:
            nonlocal done
            done = size
            return view[:size]

        self._http.get(bucket, key, offset, len(view), allocate)
        return done

    def open(self, bucket: str, key: str) -> ObjectReader:
        """Opens the version there is for reads by position. Raises NotFoundError."""
        if self._frames is None:
            return HttpReader(self._http, bucket, key)
        return LeasedReader(self._frames, bucket, key, self._retry)

    def open_map(self, bucket: str, key: str) -> ObjectMap:
        """The version there is, as read-only memory: the node's own pages where they are seen, else a copy.

        The mapping stays as it is, whatever happens to the name. Raises NotFoundError.
        """
        return with_reopen(lambda: self._open_map_once(bucket, key))

    def _open_map_once(self, bucket: str, key: str) -> ObjectMap:
        if self._frames is not None:
            return map_object(self._frames, bucket, key, self._retry)
        with self.open(bucket, key) as reader:
            return ObjectMap(reader.info, memoryview(reader.read()), is_mapped=False)

    def stage(
        self,
        bucket: str,
        key: str,
        reserve_bytes: int = RESERVE_FIRST_BYTES,
        *,
        tier: int | None = None,
        job: str | None = None,
    ) -> StagedFile:
        """Begins a write that nobody sees before its commit. It ends with this client's connection.

        Args:
            reserve_bytes: room to reserve; what is known of the size.
            tier: 0 memory, 1 disk; by the bucket's policy unless given.

        Raises:
            TierFullError, BusyError, QuotaExceededError: no room (after some tries).
            UnsupportedError: the node is reached by plain HTTP only.
        """
        frames = self._frames
        if frames is None:
            raise UnsupportedError("frames do not get through to this node: use put")
        owner = self._job if job is None else job

        def stage_once(
            room: int, on_tier: int, started: list[Pending[StagedResponse]]
        ) -> tuple[Session, StagedResponse]:
            session = frames.session()

            def undo(late: StagedResponse) -> None:
                session.send(ABORT, WriteOnly(late.write_id))

            request = StageRequest(bucket, key, room, on_tier, owner)
            return session, session.call(STAGE, request, undo=undo, started=started)

        return with_retry(
            lambda: StagedFile(bucket, key, stage_once, reserve_bytes, TIER_BY_POLICY if tier is None else tier),
            idempotent=True,  # a staged write whose answer was lost is given up by the connection
            policy=self._retry,
        )

    # -- names -----------------------------------------------------------------------------------------------

    def stat(self, bucket: str, key: str) -> ObjectInfo:
        """Size, ETag and what else listings tell, by one small call. Raises NotFoundError, BucketNotFoundError."""
        if self._frames is None:
            return self.head(bucket, key)
        return row_info(bucket, self._call(HEAD, Place(bucket, key), idempotent=True))

    def head(self, bucket: str, key: str) -> ObjectProperties:
        """All that is known of an object. Raises NotFoundError, BucketNotFoundError."""
        # By a list of one: the headers of HEAD tell less, and the first key with this prefix is the key itself.
        page = self._http.json("GET", f"{_bucket_path(bucket)}/objects", query={"prefix": key, "limit": 1})
        for row in page["objects"]:
            if row["key"] == key:
                return properties(row)
        raise NotFoundError(f"no object {bucket}/{key}", {"bucket": bucket, "key": key})

    def exists(self, bucket: str, key: str) -> bool:
        """False too when there is no such bucket."""
        try:
            self.stat(bucket, key)
            return True
        except FileNotFoundError:
            return False

    def list(self, bucket: str, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with the prefix, in the order of their UTF-8 bytes, page by page."""
        after: str | None = start_after
        while after is not None:
            page = self.list_page(bucket, prefix, start_after=after)
            yield from page.objects
            after = page.next

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        limit: int = LIST_PAGE_OBJECTS,
    ) -> ListPage:
        """One page of names: objects, and with a delimiter the prefixes up to it. ``limit``: 1 to 10,000."""
        if self._frames is not None:
            request = ListRequest(bucket, prefix, delimiter, start_after, limit)
            found = self._call(LIST_OBJECTS, request, idempotent=True)
            return ListPage([row_info(bucket, row) for row in found.objects], found.prefixes, found.next)
        query: Query = {"prefix": prefix, "delimiter": delimiter, "startAfter": start_after, "limit": limit}
        page = self._http.json("GET", f"{_bucket_path(bucket)}/objects", query=query)
        return ListPage([properties(row) for row in page["objects"]], page["prefixes"], page["next"])

    def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        """Raises NotFoundError; PreconditionFailedError when it is not at ``if_match``."""
        if self._frames is None:
            headers: Header = {} if if_match is None else {"if-match": quoted_etag(if_match)}
            self._http.json("DELETE", object_path(bucket, key), headers=headers)
        elif not self._call(DELETE_OBJECT, DeleteRequest(bucket, key, if_match or "")).deleted:
            raise NotFoundError(f"no object {bucket}/{key}", {"bucket": bucket, "key": key})

    def delete_prefix(self, bucket: str, prefix: str) -> Affected:
        """Deletes all objects whose key starts with the prefix; '' for all of the bucket."""
        if self._frames is not None:
            return self._call(DELETE_PREFIX, PrefixRequest(bucket, prefix), idempotent=True, timeout_s=None)
        path = f"{_bucket_path(bucket)}/objects"
        return affected(self._http.json("DELETE", path, query={"prefix": prefix}, idempotent=True))

    def copy(
        self, bucket: str, key: str, to_key: str, *, to_bucket: str | None = None, overwrite: bool = True
    ) -> ObjectProperties:
        """Another name for the same bytes; none are copied. Raises NotFoundError, AlreadyExistsError."""
        body = {
            "from": {"bucket": bucket, "key": key},
            "to": {"bucket": to_bucket or bucket, "key": to_key},
            "overwrite": overwrite,
        }
        return properties(self._http.json("POST", "/v1/copy", body=body, idempotent=overwrite))

    def rename(
        self, bucket: str, key: str, to_key: str, *, to_bucket: str | None = None, overwrite: bool = True
    ) -> None:
        """In one step. Raises NotFoundError; AlreadyExistsError without ``overwrite``, and nothing has changed."""
        request = RenameRequest(bucket, key, to_bucket or bucket, to_key, overwrite)
        if self._frames is not None:
            self._call(RENAME, request)
        else:
            self._rename_by_http(request, prefix=False)

    def rename_prefix(
        self,
        bucket: str,
        prefix: str,
        to_prefix: str,
        *,
        to_bucket: str | None = None,
        overwrite: bool = True,
    ) -> Affected:
        """All names that start with the prefix change in one step, or none does. Raises as `rename`."""
        request = RenameRequest(bucket, prefix, to_bucket or bucket, to_prefix, overwrite)
        if self._frames is not None:
            return self._call(RENAME_PREFIX, request, timeout_s=None)
        return self._rename_by_http(request, prefix=True)

    def make_directory(self, bucket: str, path: str) -> None:
        """A directory that is there while it is empty: an empty object ``path/``. Raises AlreadyExistsError."""
        self._http.json("POST", "/v1/directories", body={"bucket": bucket, "path": path})

    def remove_directory(self, bucket: str, path: str) -> None:
        """Raises NotFoundError, DirectoryNotEmptyError."""
        self._http.json("DELETE", "/v1/directories", query={"bucket": bucket, "path": path})

    def wait(
        self,
        bucket: str,
        key: str,
        durability: Ack = "remote",
        *,
        timeout: float | None = None,
        version: int | None = None,
    ) -> Waited:
        """Returns when the object is as durable as asked.

        Args:
            timeout: seconds; default: as long as it takes.
            version: default: the one that is there now.

        Raises:
            TimedOutError: it did not happen in time.
            PreconditionFailedError: another version took its place.
            NotMirroredError: nothing copies this bucket to tier 2, so it will not happen.
        """
        wanted = self.stat(bucket, key).version if version is None else version
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            left_ms = WAIT_STEP_MS if deadline_s is None else max(0, int((deadline_s - time.monotonic()) * 1000))
            step_ms = min(left_ms, WAIT_STEP_MS)
            query: Query = {"wait": durability, "timeoutMs": step_ms, "version": wanted}
            try:
                found, level = self._wait_step(bucket, key, query)
                return Waited(found, cast(Ack, level))
            except TimedOutError as error:
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise TimedOutError(
                        f"{bucket}/{key} did not reach {durability} in {timeout:g} s",
                        {"bucket": bucket, "key": key, "version": wanted},
                    ) from error

    # -- inside ----------------------------------------------------------------------------------------------

    def _wait_step(self, bucket: str, key: str, query: Query) -> tuple[int, str]:
        """`timed_out` is an answer: the caller decides whether to ask again."""
        timed_out: list[TimedOutError] = []

        def attempt() -> tuple[int, str] | None:
            try:
                return self._http.wait(bucket, key, query)
            except TimedOutError as error:
                timed_out.append(error)
                return None

        answer = with_retry(attempt, idempotent=True, policy=self._retry)
        if answer is None:
            raise timed_out[0]
        return answer

    def _local_session(self) -> Session | None:
        """The session, when bytes go through files."""
        if self._frames is None:
            return None
        session = self._frames.session()
        return None if session.files is None else session

    def _call(
        self, call: Call[_Q, _R], message: _Q, *, idempotent: bool = False, timeout_s: float | None = CALL_TIMEOUT_S
    ) -> _R:
        frames = self._frames
        assert frames is not None, "callers have asked"
        return with_retry(
            lambda: frames.session().call(call, message, timeout_s=timeout_s),
            idempotent=idempotent,
            policy=self._retry,
        )

    def _rename_by_http(self, request: RenameRequest, *, prefix: bool) -> Affected:
        body = {
            "from": {"bucket": request.bucket, "key": request.source},
            "to": {"bucket": request.to_bucket, "key": request.target},
            "prefix": prefix,
            "overwrite": request.overwrite,
        }
        return affected(self._http.json("POST", "/v1/rename", body=body))

    def _put_file(self, bucket: str, key: str, file: Any, options: PutOptions) -> Committed:
        """One that can be rewound is put again when that is safe."""
        start, size_bytes = find_extent(file)
        if start is None:
            return self._put_once(bucket, key, file, size_bytes, options)

        def attempt() -> Committed:
            file.seek(start)
            return self._put_once(bucket, key, file, size_bytes, options)

        return with_retry(attempt, idempotent=not options.is_conditional, policy=self._retry)

    def _put_once(self, bucket: str, key: str, data: Any, size_bytes: int | None, options: PutOptions) -> Committed:
        if self._local_session() is None:
            return self._put_by_http(bucket, key, data, size_bytes, options)
        reserve_bytes = RESERVE_FIRST_BYTES if size_bytes is None else size_bytes
        with self.stage(bucket, key, reserve_bytes, job=options.job) as staged:
            if isinstance(data, memoryview):
                staged.write(data)
            else:
                for piece in pieces_of(data):
                    staged.write(piece)
            return staged.commit(
                if_match=options.if_match,
                if_none_match=options.if_none_match,
                ack=options.ack,
                content_type=options.content_type,
                metadata=options.metadata,
            )

    def _put_by_http(self, bucket: str, key: str, data: Any, size_bytes: int | None, options: PutOptions) -> Committed:
        counted = 0

        def pieces() -> Iterator[bytes]:
            nonlocal counted
            for piece in pieces_of(data):
                counted += len(piece)
                yield piece

        body = data if isinstance(data, memoryview) else pieces()
        version, etag, durability = self._http.put(bucket, key, body, size_bytes, options.headers())
        size = len(data) if isinstance(data, memoryview) else counted
        return Committed(version, etag, size, cast(Ack, durability))


def _nearest_address(given: NodeAddress, http: HttpClient) -> NodeAddress:
    """The node's Unix socket, when the address is TCP on this host and the socket can be used."""
    if given.socket_path is not None or not given.is_this_host:
        return given
    try:
        status = http.json("GET", "/v1/status", timeout=FIRST_ANSWER_S)
    except (NodeUnreachableError, AbortedError):
        raise
    except EbbError:
        return given
    finally:
        http.close()
    socket_path = status.get("socket")
    if not isinstance(socket_path, str) or not os.access(socket_path, os.R_OK | os.W_OK):
        return given  # another container with the same loopback, or no rights on the socket: TCP works as well
    near = parse_node_address(f"unix://{quote(socket_path)}")
    return near if _node_id(near) == status.get("nodeId") else given


def _node_id(address: NodeAddress) -> str | None:
    """None when there is no node behind it: what a node calls its socket may be something else here."""
    http = HttpClient(address, None, NO_RETRY)
    try:
        found = http.json("GET", "/v1/status", timeout=FIRST_ANSWER_S).get("nodeId")
        return found if isinstance(found, str) else None
    except EbbError:
        return None
    finally:
        http.close()


def _assert_range(offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise RangeInvalidError("a range has whole numbers from 0", {"offset": offset})


def _bucket_path(name: str) -> str:
    return f"/v1/buckets/{quote(name, safe='')}"


def _job_path(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _open_again(arguments: dict[str, Any]) -> Client:
    return Client(**arguments)


#: Open clients of this process, for the fork.
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The threads and the connections are the parent's: each client begins anew with its next call."""
    for client in list(_clients):
        client._http.after_fork()
        if client._frames is not None:
            client._frames.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
