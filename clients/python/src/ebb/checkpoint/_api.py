"""The calls of ``/v1/runs`` (docs/checkpoint-format.md), as values of Python."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union
from urllib.parse import quote

from .._client import Client
from .._retry import RetryPolicy
from ..errors import BusyError, NotFoundError, TimedOutError
from ._direct import DirectObject, direct_objects
from ._gmac import DIGEST_BYTES
from ._image import Shard

#: Milliseconds that the node holds one answer back.
_WAIT_STEP_MS = 30_000
_POLL_S = 0.05
#: What a run says of its slots is an answer: the node has waited already.
_REFUSED_ONCE = RetryPolicy(attempts_max=1)

Step = Union[int, str]


@dataclass(frozen=True)
class Snapshot:
    """A committed snapshot.

    Attributes:
        step: of the run.
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
        deadline_s = None if wait_s is None else time.monotonic() + wait_s
        while True:
            left_ms = _WAIT_STEP_MS if deadline_s is None else int((deadline_s - time.monotonic()) * 1000)
            try:
                answer = self._call(
                    "POST",
                    f"/snapshots/{step}/begin",
                    {**body, "waitMs": max(0, min(left_ms, _WAIT_STEP_MS))},
                    idempotent=True,
                    retry=_REFUSED_ONCE,
                )
                return (answer["bucket"], answer["key"]) if answer["decision"] == "go" else None
            except BusyError:
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise

    def commit(
        self,
        step: int,
        session: str,
        parts: Sequence[str],
        metadata: Mapping[str, str],
        overwrite: bool,
        wait_s: float,
    ) -> Snapshot:
        body = {
            "session": session,
            "parts": list(parts),
            "metadata": dict(metadata),
            "overwrite": overwrite,
            "waitMs": int(wait_s * 1000),
        }
        # The same session may commit again: it gets the same answer.
        return Snapshot.from_json(self._call("POST", f"/snapshots/{step}/commit", body, idempotent=True))

    def abort(self, step: int, session: str) -> None:
        self._call("POST", f"/snapshots/{step}/abort", {"session": session}, idempotent=True)

    def list(self) -> list[Snapshot]:
        """The newest step first; none of a run that nobody made."""
        try:
            rows = self._call("GET", "/snapshots")["snapshots"]
        except NotFoundError:
            return []
        return [Snapshot.from_json(row) for row in rows]

    def get(self, step: Step) -> Snapshot:
        return Snapshot.from_json(self._call("GET", f"/snapshots/{step}"))

    def plan(self, step: Step, *, digests: bool = True, direct: bool = False) -> Plan:
        """`digests`: whether they are wanted; they are most of the answer. `direct`: whether URLs are."""
        query = {**({} if digests else {"digests": "false"}), **({"direct": "true"} if direct else {})}
        answer = self._call("GET", f"/snapshots/{step}/plan", query=query)
        snapshot = Snapshot.from_json(answer["snapshot"])
        parts = [self._part(row) for row in answer["parts"]]
        return Plan(snapshot, {part.name: part for part in parts})

    def wait(self, step: int, durability: str, timeout_s: float | None) -> Snapshot:
        """A snapshot that another rank has still to commit is waited for, too."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_ms = _WAIT_STEP_MS if deadline_s is None else int((deadline_s - time.monotonic()) * 1000)
            query = {"for": durability, "timeoutMs": max(0, min(left_ms, _WAIT_STEP_MS))}
            try:
                return Snapshot.from_json(self._call("GET", f"/snapshots/{step}/wait", query=query))
            except (NotFoundError, TimedOutError) as error:
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise TimedOutError(
                        f"step {step} of run {self.run} was not on {durability} after {timeout_s:g} s",
                        {"step": step, "run": self.run},
                    ) from error
                if isinstance(error, NotFoundError):
                    time.sleep(_POLL_S)

    def pin(self, step: int, pinned: bool) -> Snapshot:
        return Snapshot.from_json(self._call("POST", f"/snapshots/{step}/pin", {"pinned": pinned}, idempotent=True))

    def mark(self, step: int, bad: str | None) -> Snapshot:
        return Snapshot.from_json(self._call("POST", f"/snapshots/{step}/bad", {"bad": bad}, idempotent=True))

    def verify(self, step: Step) -> Mapping[str, Any]:
        return self._call("POST", f"/snapshots/{step}/verify", idempotent=True)  # type: ignore[no-any-return]

    def remove(self, step: int) -> None:
        self._call("DELETE", f"/snapshots/{step}")

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
