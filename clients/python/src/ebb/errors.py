"""What can go wrong, by the codes of the protocol: branch on the class or on ``code``, never on a message.

``retry`` says what may be done after a failure: ``never`` (the same call fails again), ``safe`` (certainly
not applied: try again later), ``ambiguous`` (may have been applied: look first, or repeat under a condition). An error
has the ``retry`` of its class, but ``never`` where its details say that no wait makes room (``neverFits``).
Where Python has an exception for the same thing (``FileNotFoundError``, ``ConnectionError`` …), the class is one of
those too. A test compares this table with ``packages/protocol/src/errors.ts``.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar


class EbbError(Exception):
    """An expected failure, with its subject and numbers in ``details``; the original is ``__cause__``."""

    code: ClassVar[str] = "internal"
    retry: str = "never"

    message: str
    details: Mapping[str, Any]

    def __init__(self, message: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        self.message = message or (type(self).__doc__ or self.code)
        self.details = dict(details or {})
        if self.details.get("neverFits") is True:
            self.retry = "never"
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    def __reduce__(self) -> tuple[type[EbbError], tuple[str, dict[str, Any]]]:
        return (type(self), (self.message, dict(self.details)))


class RequestInvalidError(EbbError, ValueError):
    """The request is malformed; the details list every complaint."""

    code = "request_invalid"


class ConfigInvalidError(EbbError, ValueError):
    """The configuration does not hold together; the details list every complaint."""

    code = "config_invalid"


class NameInvalidError(EbbError, ValueError):
    """A bucket name, key or job id is not allowed; the message says which rule."""

    code = "name_invalid"


class NotFoundError(EbbError, FileNotFoundError):
    """No object under this key."""

    code = "not_found"
    errno = errno.ENOENT


class BucketNotFoundError(EbbError, FileNotFoundError):
    """No bucket of this name."""

    code = "bucket_not_found"
    errno = errno.ENOENT


class BucketExistsError(EbbError, FileExistsError):
    """A bucket of this name exists with another policy."""

    code = "bucket_exists"
    errno = errno.EEXIST


class BucketNotEmptyError(EbbError, OSError):
    """The bucket still has objects."""

    code = "bucket_not_empty"
    errno = errno.ENOTEMPTY


class JobNotFoundError(EbbError):
    """No such job: it ended, expired, or never began."""

    code = "job_not_found"


class JobExistsError(EbbError):
    """Somebody else opened a job of this id, and it is alive."""

    code = "job_exists"


class ShuffleNotFoundError(EbbError):
    """No such shuffle: it was removed with its job, or never registered."""

    code = "shuffle_not_found"


class WriteNotFoundError(EbbError):
    """No such staged write: it was committed, aborted, expired, or belongs to another client."""

    code = "write_not_found"


class LeaseNotFoundError(EbbError):
    """No such lease: it was returned or has expired."""

    code = "lease_not_found"


class FileNotOpenError(EbbError):
    """No such open file: it was closed, given up when idle, or lost with its connection or a
    restart of the node."""

    code = "file_not_open"


class DirectoryNotEmptyError(EbbError, OSError):
    """There are objects under this directory."""

    code = "directory_not_empty"
    errno = errno.ENOTEMPTY


class AlreadyCommittedError(EbbError):
    """This staged write was committed before."""

    code = "already_committed"


class AlreadyExistsError(EbbError, FileExistsError):
    """The object exists, and the write asked for a new one (If-None-Match: *)."""

    code = "already_exists"
    errno = errno.EEXIST


class PreconditionFailedError(EbbError):
    """The object is not at the version the caller named (If-Match, epoch)."""

    code = "precondition_failed"


class SupersededError(EbbError):
    """A newer attempt or version holds this place: the late commit was refused, or what was read is no longer kept."""

    code = "superseded"


class RangeInvalidError(EbbError, ValueError):
    """The range starts beyond the end, or is malformed."""

    code = "range_invalid"


class LengthMismatchError(EbbError):
    """The number of bytes differs from what was announced."""

    code = "length_mismatch"


class ChecksumMismatchError(EbbError):
    """The bytes do not match the checksum the client sent."""

    code = "checksum_mismatch"


class DataCorruptError(EbbError):
    """Stored bytes no longer match their checksum."""

    code = "data_corrupt"


class KeyUnavailableError(EbbError):
    """The bytes are encrypted under a key that this node does not have; the details name its id."""

    code = "key_unavailable"


class DataLostError(EbbError):
    """The bytes were on a tier that is gone and existed nowhere else."""

    code = "data_lost"


class TooLargeError(EbbError):
    """Larger than a limit allows."""

    code = "too_large"


class QuotaExceededError(EbbError, OSError):
    """The byte budget of the job or bucket is used up."""

    code = "quota_exceeded"
    errno = errno.EDQUOT


class TierFullError(EbbError, OSError):
    """No room in any tier that may take this write, and nothing can be moved now."""

    code = "tier_full"
    retry = "safe"
    errno = errno.ENOSPC


class BusyError(EbbError):
    """The node is close to full, or a queue is at its limit; try again after the time it names."""

    code = "busy"
    retry = "safe"


class StartingError(EbbError):
    """The node is starting: it reads its catalog and takes no work yet."""

    code = "starting"
    retry = "safe"


class DrainingError(EbbError):
    """The node is stopping and takes no new work."""

    code = "draining"
    retry = "safe"


class EventsGoneError(EbbError):
    """The log of events does not reach back to this id, or never gave it; the details name the
    first one it has."""

    code = "events_gone"


class NotMirroredError(EbbError):
    """The bucket copies nothing to tier 2, so what is waited for will not happen."""

    code = "not_mirrored"


class NotYetDurableError(EbbError):
    """The change is made and seen, but what it asked for does not hold yet."""

    code = "not_yet_durable"
    retry = "ambiguous"


class TimedOutError(EbbError, TimeoutError):
    """What was waited for did not happen in the time given."""

    code = "timed_out"
    retry = "safe"


class DataDirectoryInUseError(EbbError):
    """Another node runs on this data directory."""

    code = "data_directory_in_use"


class VersionUnsupportedError(EbbError):
    """The other side speaks a protocol or format version this one does not know."""

    code = "version_unsupported"


class UnsupportedError(EbbError):
    """This option is not offered here."""

    code = "unsupported"


class IoFailedError(EbbError, OSError):
    """The file system or a tier failed."""

    code = "io_failed"
    retry = "ambiguous"
    errno = errno.EIO


class NodeUnreachableError(EbbError, ConnectionError):
    """No answer from the node."""

    code = "node_unreachable"
    retry = "ambiguous"


class AbortedError(EbbError):
    """The caller gave up."""

    code = "aborted"
    retry = "ambiguous"


class InternalError(EbbError):
    """A fault of Ebb itself; the log of the node has the cause."""

    code = "internal"
    retry = "ambiguous"


def _subclasses() -> dict[str, type[EbbError]]:
    return {found.code: found for found in EbbError.__subclasses__()}


#: Every code of the protocol, and its class.
ERRORS: Mapping[str, type[EbbError]] = _subclasses()


def error_of(code: str, message: str | None = None, details: Mapping[str, Any] | None = None) -> EbbError:
    """The error of this code; one that is not known here comes from a newer node, and is `InternalError`."""
    found = ERRORS.get(code)
    if found is None:
        return InternalError(message, {**(details or {}), "code": code})
    return found(message, details)
