"""What the node tells of objects and buckets, and how it is read from its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._messages import Ack, Affected, ObjectRow


@dataclass(frozen=True)
class ObjectInfo:
    """A committed object, as listings give it."""

    bucket: str
    key: str
    version: int
    size_bytes: int
    etag: str
    #: Of all bytes, where the node knows it.
    crc32c: int | None
    created_at_ms: int
    #: What holds now.
    durability: Ack


@dataclass(frozen=True)
class ObjectProperties(ObjectInfo):
    """All that is known of an object."""

    content_type: str
    metadata: Mapping[str, str]
    job_id: str | None
    pinned: bool
    #: Where copies of all its bytes lie now, nearest first: ``memory``, ``disk``, ``remote``.
    tiers: tuple[str, ...]
    #: Bytes of it are in no tier any more: reading it raises DataLostError, and ``durability`` means nothing.
    lost: bool = False


@dataclass(frozen=True)
class BucketInfo:
    name: str
    created_at_ms: int
    #: As the node's API names it: ``preset``, ``ack``, ``mirror``, ``ttlMs`` …
    policy: Mapping[str, Any]
    objects: int
    size_bytes: int


class ListPage(NamedTuple):
    """Names of a bucket at one moment. ``next`` is the ``start_after`` of the page that follows, None at the end."""

    objects: list[ObjectInfo]
    #: Common prefixes, when a delimiter was given.
    prefixes: list[str]
    next: str | None


class Waited(NamedTuple):
    version: int
    #: What was asked for, or better.
    durability: Ack


def row_info(bucket: str, row: ObjectRow) -> ObjectInfo:
    return ObjectInfo(
        bucket, row.key, row.version, row.size_bytes, row.etag, row.crc32c, row.created_at_ms, row.durability
    )


def properties(row: Mapping[str, Any]) -> ObjectProperties:
    crc32c = row["crc32c"]
    return ObjectProperties(
        bucket=row["bucket"],
        key=row["key"],
        version=row["version"],
        size_bytes=row["sizeBytes"],
        etag=row["etag"],
        crc32c=None if crc32c is None else int(crc32c, 16),
        created_at_ms=row["createdAtMs"],
        durability=row["durability"],
        content_type=row["contentType"],
        metadata=row["metadata"],
        job_id=row["jobId"],
        pinned=row["pinned"],
        tiers=tuple(row["tiers"]),
        lost=row.get("lost", False),
    )


def bucket_info(row: Mapping[str, Any]) -> BucketInfo:
    return BucketInfo(row["name"], row["createdAtMs"], row["policy"], row.get("objects", 0), row.get("sizeBytes", 0))


def affected(row: Mapping[str, Any]) -> Affected:
    return Affected(row["objects"], row["sizeBytes"])
