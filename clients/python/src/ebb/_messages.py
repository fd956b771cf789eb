"""The calls spoken in frames, one codec per message. Mirror of ``packages/protocol/src/messages.ts``.

A message is a named tuple, and its codec names the form of each field in order. Op numbers are on the wire: keep
stable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import (
    Any,
    Callable,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
)

from ._frames import Bytes, PayloadReader, PayloadWriter
from .errors import EbbError, RequestInvalidError, error_of

PROTOCOL_VERSION = 1
#: In `StageRequest.tier`: let the bucket's policy choose.
TIER_BY_POLICY = 255
#: All ranges of one `read` together.
READ_BYTES_MAX = 8 * 1024 * 1024
#: Names in one page of `list_objects`.
LIST_FRAME_LIMIT_MAX = 10_000

Ack = Literal["memory", "disk", "remote"]
ACKS: Sequence[Ack] = ("memory", "disk", "remote")

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")


# -- forms of fields ---------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """How one field is written and read."""

    put: Callable[[PayloadWriter, Any], None]
    take: Callable[[PayloadReader], Any]


U8 = Form(PayloadWriter.u8, PayloadReader.u8)
U16 = Form(PayloadWriter.u16, PayloadReader.u16)
U32 = Form(PayloadWriter.u32, PayloadReader.u32)
U64 = Form(PayloadWriter.u64, PayloadReader.u64)
BOOL = Form(PayloadWriter.bool, PayloadReader.bool)
STR = Form(PayloadWriter.str, PayloadReader.str)
BYTES = Form(PayloadWriter.bytes, PayloadReader.bytes)


def _put_last(to: PayloadWriter, value: str) -> None:
    if value:
        to.str(value)


#: A field that earlier versions of a message do not have: left out where it is ''.
LAST_STR = Form(_put_last, lambda source: "" if source.is_at_end() else source.str())


def _take_tier(source: PayloadReader) -> int:
    tier = source.u8()
    if tier > 2:
        raise RequestInvalidError(f"no tier {tier}")
    return tier


TIER = Form(PayloadWriter.u8, _take_tier)


def _take_ack(source: PayloadReader) -> Ack:
    return _ack_of(source.u8())


def _ack_of(level: int) -> Ack:
    if level >= len(ACKS):
        raise RequestInvalidError(f"no acknowledgement level {level}")
    return ACKS[level]


ACK = Form(lambda to, ack: to.u8(ACKS.index(ack)), _take_ack)


def _take_optional_ack(source: PayloadReader) -> Ack | None:
    level = source.u8()
    return None if level == 255 else _ack_of(level)


OPTIONAL_ACK = Form(lambda to, ack: to.u8(255 if ack is None else ACKS.index(ack)), _take_optional_ack)


def _optional(form: Form, absent: Any) -> Form:
    """A flag, then the value; ``absent`` stands there without one."""

    def put(to: PayloadWriter, value: Any) -> None:
        to.bool(value is not None)
        form.put(to, absent if value is None else value)

    def take(source: PayloadReader) -> Any:
        there = source.bool()
        value = form.take(source)
        return value if there else None

    return Form(put, take)


OPTIONAL_U32 = _optional(U32, 0)
OPTIONAL_STR = _optional(STR, "")


def _list_of(form: Form) -> Form:
    def put(to: PayloadWriter, items: Sequence[Any]) -> None:
        to.u32(len(items))
        for item in items:
            form.put(to, item)

    def take(source: PayloadReader) -> list[Any]:
        return [form.take(source) for _ in range(source.u32())]

    return Form(put, take)


def _put_texts(to: PayloadWriter, texts: Mapping[str, str]) -> None:
    to.u32(len(texts))
    for name, value in texts.items():
        to.str(name)
        to.str(value)


def _take_texts(source: PayloadReader) -> dict[str, str]:
    texts: dict[str, str] = {}
    for _ in range(source.u32()):
        name = source.str()
        texts[name] = source.str()
    return texts


TEXTS = Form(_put_texts, _take_texts)


# -- codecs ------------------------------------------------------------------------------------------------------


class Codec(Generic[T]):
    """Writes and reads one kind of message."""

    def __init__(self, make: Callable[..., T], *forms: Form) -> None:
        self._make = make
        self._forms = forms

    def encode(self, message: T) -> bytearray:
        """ValueError where a value does not fit its field."""
        to = PayloadWriter()
        self.put(to, message)
        return to.buffer

    def decode(self, payload: Bytes) -> T:
        """RequestInvalidError when the payload is not exactly one such message."""
        source = PayloadReader(payload)
        message = self.take(source)
        source.end()
        return message

    def put(self, to: PayloadWriter, message: Any) -> None:
        for form, value in zip(self._forms, message):
            form.put(to, value)

    def take(self, source: PayloadReader) -> T:
        return self._make(*[form.take(source) for form in self._forms])

    def as_form(self) -> Form:
        return Form(self.put, self.take)


class Call(Generic[Q, R]):
    """An op with the codecs of its request and its response."""

    def __init__(self, name: str, op: int, request: Codec[Q], response: Codec[R]) -> None:
        self.name = name
        self.op = op
        self.request = request
        self.response = response


class Empty(NamedTuple):
    pass


EMPTY = Codec(Empty)


def encode_error(error: EbbError) -> bytearray:
    to = PayloadWriter()
    to.str(error.code)
    to.str(error.message[:4000])
    to.str(json.dumps(error.details, ensure_ascii=False, separators=(",", ":"))[:8000])
    return to.buffer


def decode_error(payload: Bytes) -> EbbError:
    source = PayloadReader(payload)
    code = source.str()
    message = source.str()
    text = source.str()
    source.end()
    try:
        details = json.loads(text)
    except ValueError:
        details = {}  # cut off at the length limit: the code and message carry what matters
    return error_of(code, message, details if isinstance(details, dict) else {})


# -- hello, ping -------------------------------------------------------------------------------------------------


class HelloRequest(NamedTuple):
    protocol_version: int
    #: For logs and `status`: ``ebb-python/0.1.0 pid-7``.
    client: str
    #: The job this connection works for; '' for none. While the connection lives, the job is alive.
    job_id: str


class HelloResponse(NamedTuple):
    """A client asks by `PROVE_HOST` whether the directories are of its host."""

    protocol_version: int
    node_id: str
    #: Changes with each start of the daemon: leases and staged writes of an earlier one are gone.
    instance_id: int
    memory_dir: str
    disk_dir: str
    #: Always ''. The first clients found a file and its content here, both of the node's choice.
    probe_name: str
    probe_nonce: str


HELLO = Call(
    "hello",
    1,
    Codec(HelloRequest, U16, STR, STR),
    Codec(HelloResponse, U16, STR, U64, STR, STR, STR, STR),
)
PING = Call("ping", 2, EMPTY, EMPTY)


class ProveHostRequest(NamedTuple):
    """The node makes an empty file named after the challenge in both directories; its answer says that it has tried."""

    #: 32 random hexadecimal digits, made up by the client.
    challenge: str


PROVE_HOST = Call("proveHost", 3, Codec(ProveHostRequest, STR), EMPTY)


# -- writes ------------------------------------------------------------------------------------------------------


class StageRequest(NamedTuple):
    bucket: str
    key: str
    reserve_bytes: int
    #: 0, 1 or TIER_BY_POLICY.
    tier: int
    #: '' for none.
    job_id: str


class StagedResponse(NamedTuple):
    """The file exists; write it from offset 0, within ``reserved_bytes``."""

    write_id: int
    blob_id: int
    tier: int
    #: Relative to the tier's directory in HelloResponse.
    path: str
    reserved_bytes: int
    #: Identifies the underlying file across recycling (0: never recycled), for clients that keep mappings.
    slot_id: int


STAGED = Codec(StagedResponse, U64, U64, TIER, STR, U64, U64)
STAGE = Call("stage", 10, Codec(StageRequest, STR, STR, U64, U8, STR), STAGED)


class ExtendRequest(NamedTuple):
    write_id: int
    reserve_bytes: int


class ExtendResponse(NamedTuple):
    reserved_bytes: int


EXTEND = Call("extend", 11, Codec(ExtendRequest, U64, U64), Codec(ExtendResponse, U64))


class WriteRequest(NamedTuple):
    write_id: int
    offset: int
    data: Bytes


WRITE = Call("write", 12, Codec(WriteRequest, U64, U64, BYTES), EMPTY)


class CommitRequest(NamedTuple):
    write_id: int
    size_bytes: int
    #: Of the whole object, or None: then the node computes it before it answers.
    crc32c: int | None
    #: ETag the object must have now; '' for no condition.
    if_match: str
    #: The object must not exist.
    if_none_match: bool
    #: None: the bucket's.
    ack: Ack | None
    content_type: str
    metadata: Mapping[str, str]


class CommittedResponse(NamedTuple):
    version: int
    etag: str
    durability: Ack


COMMIT = Call(
    "commit",
    13,
    Codec(CommitRequest, U64, U64, OPTIONAL_U32, STR, BOOL, OPTIONAL_ACK, STR, TEXTS),
    Codec(CommittedResponse, U64, STR, ACK),
)


class WriteOnly(NamedTuple):
    write_id: int


ABORT = Call("abort", 14, Codec(WriteOnly, U64), EMPTY)


# -- reads -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    bucket: str
    key: str


class Extent(NamedTuple):
    """``path`` is relative to the tier's directory, and '' for tier 2: such an extent is fetched by `read`."""

    tier: int
    blob_id: int
    path: str
    offset: int
    length: int


_EXTENT = Codec(Extent, TIER, U64, STR, U64, U64).as_form()


class OpenResponse(NamedTuple):
    lease_id: int
    version: int
    etag: str
    size_bytes: int
    extents: list[Extent]


OPEN = Call("open", 15, Codec(Place, STR, STR), Codec(OpenResponse, U64, U64, STR, U64, _list_of(_EXTENT)))


class ReleaseRequest(NamedTuple):
    lease_ids: Sequence[int]


RELEASE = Call("release", 16, Codec(ReleaseRequest, _list_of(U64)), EMPTY)


class ReadRange(NamedTuple):
    blob_id: int
    offset: int
    length: int


class ReadRequest(NamedTuple):
    """Batched ranges, at most READ_BYTES_MAX together."""

    ranges: Sequence[ReadRange]


class ReadResponse(NamedTuple):
    """All ranges in order."""

    data: memoryview


READ = Call(
    "read",
    17,
    Codec(ReadRequest, _list_of(Codec(ReadRange, U64, U64, U32).as_form())),
    Codec(ReadResponse, BYTES),
)


# -- jobs --------------------------------------------------------------------------------------------------------


class JobOpenRequest(NamedTuple):
    job_id: str
    #: The job expires, and all it owns is freed, when no heartbeat and no connection was seen for this long.
    heartbeat_ttl_ms: int
    label: str
    #: Chosen once by whoever begins the job, and shown by whoever comes back to it; '' for none.
    token: str = ""


class JobOfToken(NamedTuple):
    """With a token, the job is meant only if it was opened under that one."""

    job_id: str
    token: str = ""


class JobReceipt(NamedTuple):
    """What the end of a job freed."""

    objects: int
    freed_bytes: int


JOB_OPEN = Call("jobOpen", 20, Codec(JobOpenRequest, STR, U32, STR, LAST_STR), EMPTY)
JOB_HEARTBEAT = Call("jobHeartbeat", 21, Codec(JobOfToken, STR, LAST_STR), EMPTY)
JOB_END = Call("jobEnd", 22, Codec(JobOfToken, STR, LAST_STR), Codec(JobReceipt, U64, U64))


# -- directories -------------------------------------------------------------------------------------------------


class DirectoryRequest(NamedTuple):
    bucket: str
    path: str


DIRECTORY_MAKE = Call("directoryMake", 54, Codec(DirectoryRequest, STR, STR), EMPTY)
DIRECTORY_REMOVE = Call("directoryRemove", 55, Codec(DirectoryRequest, STR, STR), EMPTY)


# -- names -------------------------------------------------------------------------------------------------------


class ObjectRow(NamedTuple):
    """An object as listings and `head` give it."""

    key: str
    version: int
    size_bytes: int
    etag: str
    #: Of the whole object, where it is known.
    crc32c: int | None
    created_at_ms: int
    #: What holds now.
    durability: Ack


_ROW_CODEC = Codec(ObjectRow, STR, U64, U64, STR, OPTIONAL_U32, U64, ACK)
HEAD = Call("head", 60, Codec(Place, STR, STR), _ROW_CODEC)


class ListRequest(NamedTuple):
    bucket: str
    prefix: str
    #: '' for none.
    delimiter: str
    #: Only names after this one; '' from the beginning.
    start_after: str
    #: Objects and prefixes together, 1 to LIST_FRAME_LIMIT_MAX.
    limit: int


class ListResponse(NamedTuple):
    """The bucket at one moment; ``next`` is the ``start_after`` of the following page, None at the end."""

    objects: list[ObjectRow]
    prefixes: list[str]
    next: str | None


LIST_OBJECTS = Call(
    "listObjects",
    61,
    Codec(ListRequest, STR, STR, STR, STR, U32),
    Codec(ListResponse, _list_of(_ROW_CODEC.as_form()), _list_of(STR), OPTIONAL_STR),
)


class DeleteRequest(NamedTuple):
    bucket: str
    key: str
    #: ETag the object must have now; '' for no condition.
    if_match: str


class DeleteResponse(NamedTuple):
    #: False when there was none.
    deleted: bool


DELETE_OBJECT = Call("deleteObject", 62, Codec(DeleteRequest, STR, STR, STR), Codec(DeleteResponse, BOOL))


class PrefixRequest(NamedTuple):
    bucket: str
    prefix: str


class Affected(NamedTuple):
    """How many objects a call on a prefix changed, and their sizes together."""

    objects: int
    size_bytes: int


_AFFECTED = Codec(Affected, U64, U64)
DELETE_PREFIX = Call("deletePrefix", 63, Codec(PrefixRequest, STR, STR), _AFFECTED)


class RenameRequest(NamedTuple):
    bucket: str
    #: A key, or for `rename_prefix` a prefix.
    source: str
    to_bucket: str
    target: str
    #: Otherwise a name that is taken is `already_exists`, and nothing changes.
    overwrite: bool


_RENAME = Codec(RenameRequest, STR, STR, STR, STR, BOOL)
RENAME = Call("rename", 64, _RENAME, _ROW_CODEC)
RENAME_PREFIX = Call("renamePrefix", 65, _RENAME, _AFFECTED)


# -- pushes ------------------------------------------------------------------------------------------------------


class BlobIds(NamedTuple):
    blob_ids: Sequence[int]


class GoingAway(NamedTuple):
    reason: str


#: Push (request id 0): stop using these blobs, and answer with `BLOBS_RELEASED`.
OP_REVOKE = 90
REVOKE = Codec(BlobIds, _list_of(U64))
BLOBS_RELEASED = Call("blobsReleased", 91, REVOKE, EMPTY)
#: Push: the node is stopping.
OP_GOING_AWAY = 92
GOING_AWAY = Codec(GoingAway, STR)
