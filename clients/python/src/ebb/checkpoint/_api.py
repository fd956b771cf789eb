"""The calls of ``/v1/runs`` (docs/checkpoint-format.md), as values of Python."""

from __future__ import annotations

import base64
import logging
import math
import operator
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Union
from urllib.parse import quote

from .._client import Client
from .._retry import RetryPolicy
from ..errors import BusyError, DataCorruptError, NameInvalidError, NotFoundError, RequestInvalidError, TimedOutError
from ._direct import DirectObject, direct_objects
from ._gmac import DIGEST_BYTES
from ._image import ITEM_BYTES, Shard

_log = logging.getLogger("ebb.checkpoint")
#: Milliseconds that the node holds one answer back.
_WAIT_STEP_MS = 30_000
#: The same for an answer that comes at once but when another rank is late. Who leaves gives up after as long.
_COMMIT_STEP_MS = 2_000
_POLL_S = 0.05
#: A slot is waited for while something changes, and so long when nothing does.
_SLOT_WAIT_S = 1800.0
#: The node gives up parts that nobody commits after as long.
COMMIT_WAIT_S = 600.0
_TELL_AFTER_S = 30.0
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: What a run says of its slots is an answer: the node has waited already.
_REFUSED_ONCE = RetryPolicy(attempts_max=1)
#: For what nobody waits for.
_SHORT = RetryPolicy(attempts_max=2, unreachable_s=2.0)

Step = Union[int, str]
DURABILITIES = ("memory", "disk", "remote")


@dataclass(frozen=True)
class Snapshot:
    """A committed snapshot.

    Attributes:
        step: of the run.
        sequence: place in the order of the commits: a later snapshot has a higher one, whatever its step.
        durability: what holds now: ``"memory"``, ``"disk"`` or ``"remote"``.
        in_memory: its images are in memory, whole.
        image_bytes: of all parts.
        new_bytes: bytes that no earlier snapshot had; None while it is not stored.
        parts: names, and bytes of their images.
        bad: why it is not to be resumed from, or None.
    """

    run: str
    step: int
    session: str
    committed_at_s: float
    durability: str
    in_memory: bool
    image_bytes: int
    new_bytes: int | None
    parts: Mapping[str, int]
    pinned: bool
    bad: str | None
    metadata: Mapping[str, str]
    sequence: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Snapshot:
        return cls(
            row["run"],
            row["step"],
            row["session"],
            row["committedAtMs"] / 1000,
            row["durability"],
            row["inMemory"],
            row["imageBytes"],
            row["newBytes"],
            {part["name"]: part["imageBytes"] for part in row["parts"]},
            row["pinned"],
            row["bad"],
            row["metadata"],
            row["sequence"],
        )


@dataclass(frozen=True)
class PlannedPart:
    """Where the bytes of a part are. `runs`: offset in the image, length, key in the bucket, offset there."""

    name: str
    image_bytes: int
    bucket: str
    image: tuple[str, str] | None
    block_bytes: int
    digests: bytes | None
    runs: Sequence[tuple[int, int, str, int]] | None
    shards: Sequence[Shard]
    #: Of the keys in `runs`: what can be read from the object store itself.
    direct: Mapping[str, DirectObject] = field(default_factory=dict)
    by_name: Mapping[str, Shard] = field(default_factory=dict)

    def digest(self, block: int) -> bytes:
        assert self.digests is not None, "its digests are known"
        return self.digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES]

    def assert_whole(self) -> None:
        """Whoever reads by the plan relies on it: bytes beyond the image are nowhere, and an array has room for no more
        bytes than its shape says.

        Raises:
            DataCorruptError: the runs are not the image, in order and without gaps, or a shard does not lie in it or
                has not the size that it says.
        """
        if self._fault is not None:
            raise DataCorruptError(f"the plan of part {self.name} is broken: {self._fault}", {"part": self.name})

    @cached_property
    def _fault(self) -> str | None:
        end = 0
        for start, length, key, at in self.runs or ():
            if start != end or length <= 0 or at < 0:
                return f"a run of {length} bytes from {at} of {key} stands at {start} of the image, not at {end}"
            end += length
        if self.runs is not None and end != self.image_bytes:
            return f"its runs end at {end}, and the image at {self.image_bytes}"
        for shard in self.shards:
            if shard.offset < 0 or shard.length < 0 or shard.offset + shard.length > self.image_bytes:
                return f"shard {shard.name} reaches beyond the {self.image_bytes} bytes of the image"
            if shard.dtype in ITEM_BYTES and shard.length != math.prod(shard.shape or ()) * ITEM_BYTES[shard.dtype]:
                return f"shard {shard.name} has {shard.length} bytes, {shard.dtype} {list(shard.shape or ())} others"
        return None


@dataclass(frozen=True)
class Plan:
    snapshot: Snapshot
    parts: Mapping[str, PlannedPart]


class RunApi:
    """One run on one node. Raises the errors of the node."""

    def __init__(self, client: Client, bucket: str, run: str) -> None:
        self.client = client
        self.bucket = bucket
        self.run = run
        #: Other ranks are waited for no longer.
        self.is_leaving = False
        # In a path `..` would be another one.
        if _RUN_NAME.fullmatch(run) is None:
            raise NameInvalidError(
                f'run {run[:80]!r}: use 1 to 128 letters, digits, ".", "_" and "-", a letter or digit first'
            )
        self._path = f"/v1/runs/{quote(run, safe='')}"

    def put_policy(self, policy: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._call("PUT", "", dict(policy))  # type: ignore[no-any-return]

    def policy(self) -> Mapping[str, Any]:
        return self._call("GET", "")["policy"]  # type: ignore[no-any-return]

    def prepare(self, image_bytes: int, slots: int | None) -> tuple[str, int]:
        """Bucket of images, and how many slots the run has."""
        body = {"imageBytes": image_bytes, **({} if slots is None else {"slots": slots})}
        answer = self._call("POST", "/prepare", body, idempotent=True, retry=_REFUSED_ONCE)
        return answer["bucket"], answer["slots"]

    def begin(
        self, step: int, session: str, part: str, image_bytes: int, wait_s: float | None
    ) -> tuple[str, str] | None:
        """Bucket and key for the image; None: the run leaves this snapshot out."""
        body = {"session": session, "part": part, "imageBytes": image_bytes}
        path = f"{_at(step)}/begin"
        self.client.release_dropped()  # what an interrupted save left would hold a slot
        started_s = changed_s = time.monotonic()
        deadline_s = None if wait_s is None else started_s + wait_s
        told_s = started_s + _TELL_AFTER_S
        taken: Any = None
        while True:
            left_ms = _WAIT_STEP_MS if deadline_s is None else int((deadline_s - time.monotonic()) * 1000)
            asked = {**body, "waitMs": max(0, min(left_ms, _WAIT_STEP_MS))}
            try:
                answer = self._call("POST", path, asked, idempotent=True, retry=_REFUSED_ONCE)
                return (answer["bucket"], answer["key"]) if answer["decision"] == "go" else None
            except BusyError as error:
                now_s = time.monotonic()
                if deadline_s is not None and now_s >= deadline_s:
                    raise
                if error.details.get("taken") != taken:
                    taken, changed_s = error.details.get("taken"), now_s
                if deadline_s is None and now_s - changed_s >= _SLOT_WAIT_S:
                    message = f"{error.message}; nothing changed for {_SLOT_WAIT_S:g} s"
                    raise BusyError(message, error.details) from error
                if now_s >= told_s:
                    told_s = now_s + _TELL_AFTER_S
                    _log.warning("step %d waits for a slot since %.0f s: %s", step, now_s - started_s, error.message)
            time.sleep(_POLL_S)

    def commit(
        self,
        step: int,
        session: str,
        parts: Sequence[str],
        metadata: Mapping[str, str],
        overwrite: bool,
        wait_s: float = COMMIT_WAIT_S,
        *,
        images: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """
        Args:
            wait_s: how long other ranks may be later with their parts; not at all, once this process `is_leaving`.
            images: keys of images that were handed over, by part, as far as they are known: of these it is made.

        Raises:
            AlreadyCommittedError: another save by the same session was committed, of other images.
            BusyError: parts did not come; the message names them.
            SupersededError: another session took over, or a rank gave the snapshot up.
        """
        body = {
            "session": session,
            "parts": list(parts),
            "metadata": dict(metadata),
            "overwrite": overwrite,
            **({} if images is None else {"images": dict(images)}),
        }
        started_s = time.monotonic()
        while True:
            left_ms = int((started_s + wait_s - time.monotonic()) * 1000)
            asked = {**body, "waitMs": max(0, min(left_ms, _COMMIT_STEP_MS))}
            try:
                # The same session may commit again: it gets the same answer.
                answer = self._call("POST", f"{_at(step)}/commit", asked, idempotent=True, retry=_REFUSED_ONCE)
                return Snapshot.from_json(answer)
            except BusyError as error:
                waited_s = time.monotonic() - started_s
                if waited_s >= wait_s or self.is_leaving:
                    why = "those ranks may have died" if waited_s >= wait_s else "this process ends"
                    raise BusyError(f"{error.message}, after {waited_s:.0f} s; {why}", error.details) from error
            time.sleep(_POLL_S)

    def abort(self, step: int, session: str) -> None:
        self._call("POST", f"{_at(step)}/abort", {"session": session}, idempotent=True, retry=_SHORT)

    def list(self) -> list[Snapshot]:
        """The one that was committed last first; none of a run that nobody made."""
        try:
            rows = self._call("GET", "/snapshots")["snapshots"]
        except NotFoundError:
            return []
        return [Snapshot.from_json(row) for row in rows]

    def get(self, step: Step) -> Snapshot:
        return Snapshot.from_json(self._call("GET", _at(step)))

    def plan(self, step: Step, *, digests: bool = True, direct: bool = False) -> Plan:
        """`digests`: whether they are wanted; they are most of the answer. `direct`: whether URLs are."""
        query = {**({} if digests else {"digests": "false"}), **({"direct": "true"} if direct else {})}
        answer = self._call("GET", f"{_at(step)}/plan", query=query)
        snapshot = Snapshot.from_json(answer["snapshot"])
        parts = [self._part(row) for row in answer["parts"]]
        return Plan(snapshot, {part.name: part for part in parts})

    def wait(
        self,
        step: int,
        durability: str,
        timeout_s: float | None,
        session: str | None = None,
        *,
        is_alone: bool = False,
    ) -> Snapshot:
        """
        Args:
            timeout_s: None: as long as it takes, but `COMMIT_WAIT_S` for a snapshot that nobody has begun.
            session: that saves it: of another one, or when it will not come, this says so at once. Without it, a
                snapshot that somebody has still to begin is waited for, too.
            is_alone: there is nobody else to begin it: without a time to wait, this says so at once.
        """
        started_s = time.monotonic()
        deadline_s = None if timeout_s is None else started_s + timeout_s
        while True:
            now_s = time.monotonic()
            left_ms = _WAIT_STEP_MS if deadline_s is None else int((deadline_s - now_s) * 1000)
            query: dict[str, Any] = {"for": durability, "timeoutMs": max(0, min(left_ms, _WAIT_STEP_MS))}
            if session is not None:
                query["session"] = session
            try:
                answer = self._call("GET", f"{_at(step)}/wait", query=query, retry=_REFUSED_ONCE)
                return Snapshot.from_json(answer)
            except (NotFoundError, TimedOutError) as error:
                is_missing = isinstance(error, NotFoundError)
                if is_missing and (session is not None or error.details.get("ended")):
                    raise
                if is_missing and is_alone and timeout_s is None:
                    raise NotFoundError(
                        f"run {self.run} has no step {step}, and this Checkpointer does not save it; where another "
                        "process does, say with timeout= how long to wait for it",
                        {"step": step, "run": self.run},
                    ) from error
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise TimedOutError(
                        f"step {step} of run {self.run} was not on {durability} after {timeout_s:g} s",
                        {"step": step, "run": self.run},
                    ) from error
                if is_missing and deadline_s is None and now_s - started_s >= COMMIT_WAIT_S:
                    raise
                if is_missing:
                    time.sleep(_POLL_S)

    def pin(self, step: int, pinned: bool) -> Snapshot:
        return Snapshot.from_json(self._call("POST", f"{_at(step)}/pin", {"pinned": pinned}, idempotent=True))

    def mark(self, step: int, bad: str | None) -> Snapshot:
        return Snapshot.from_json(self._call("POST", f"{_at(step)}/bad", {"bad": bad}, idempotent=True))

    def verify(self, step: Step) -> Mapping[str, Any]:
        return self._call("POST", f"{_at(step)}/verify", idempotent=True)  # type: ignore[no-any-return]

    def remove(self, step: int) -> None:
        self._call("DELETE", _at(step))

    def _part(self, row: Mapping[str, Any]) -> PlannedPart:
        image, runs, digests = row["image"], row["runs"], row["digests"]
        shards = [Shard.from_json(shard) for shard in row["shards"]]
        return PlannedPart(
            row["name"],
            row["imageBytes"],
            self.bucket,
            None if image is None else (image["bucket"], image["key"]),
            row["blockBytes"],
            None if digests is None else base64.b64decode(digests),
            None if runs is None else [(run[0], run[1], run[2], run[3]) for run in runs],
            shards,
            direct_objects(row.get("direct")),
            {shard.name: shard for shard in shards},
        )

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        idempotent: bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any:
        asked = {"bucket": self.bucket, **(query or {})}
        return self.client.request_json(method, self._path + path, body, asked, idempotent=idempotent, retry=retry)


def _at(step: Step) -> str:
    return "/snapshots/latest" if step == "latest" else f"/snapshots/{parse_step(step)}"


def assert_durability(durability: str) -> None:
    if durability not in DURABILITIES:
        raise RequestInvalidError(f"durability {durability!r:.100} is none of {', '.join(DURABILITIES)}")


def parse_step(step: Any) -> int:
    """Raises RequestInvalidError: it is no whole number from 0."""
    try:
        number = -1 if isinstance(step, (str, bool)) else operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise RequestInvalidError(f'{step!r:.100} is no step: use a whole number from 0, or "latest" where one is read')
    return number
