"""When a failed call may be made again. Mirror of ``retry.ts`` of the TypeScript client.

I1  A call that may have been applied is repeated only if repeating it changes nothing (``idempotent``).
I2  Refusals (`busy`, `tier_full`) are repeated a bounded number of times; a node that does not answer is sought for a
    bounded time. The time the node names (``retryAfterMs``) is respected as a minimum, up to RETRY_AFTER_S_MAX.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Callable, TypeVar

from .errors import EbbError, PreconditionFailedError, SupersededError

T = TypeVar("T")
RETRY_AFTER_S_MAX = 30.0
#: How often an object is opened whose versions go while they are read.
_OPENS_MAX = 4


@dataclass(frozen=True)
class RetryPolicy:
    #: How often a call that the node refused is made in all.
    attempts_max: int = 6
    #: For how long a node that does not answer is tried again, in seconds.
    unreachable_s: float = 30.0
    backoff_min_s: float = 0.02
    backoff_max_s: float = 2.0


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(attempts_max=1, unreachable_s=0.0)


def find_delay(
    error: EbbError, *, attempts: int, elapsed_s: float, idempotent: bool, policy: RetryPolicy, spread: float
) -> float | None:
    """Seconds to the next attempt; None: no more. ``spread`` in [0, 1) parts callers that failed at once."""
    if error.code == "aborted":
        return None
    not_applied = error.retry == "safe" or error.details.get("notSent") is True
    if not not_applied and not (error.retry == "ambiguous" and idempotent):
        return None
    delay_s = max(backoff_s(attempts, policy, spread), _retry_after_s(error))
    allowed = elapsed_s + delay_s <= policy.unreachable_s if _is_restarting(error) else attempts < policy.attempts_max
    return delay_s if allowed else None


def with_retry(attempt: Callable[[], T], *, idempotent: bool, policy: RetryPolicy = DEFAULT_RETRY) -> T:
    """Runs ``attempt`` until it succeeds or `find_delay` says stop; then the last error is raised."""
    started_s = time.monotonic()
    attempts = 0
    while True:
        attempts += 1
        try:
            return attempt()
        except EbbError as error:
            delay_s = find_delay(
                error,
                attempts=attempts,
                elapsed_s=time.monotonic() - started_s,
                idempotent=idempotent,
                policy=policy,
                spread=random.random(),
            )
            if delay_s is None:
                raise
        time.sleep(delay_s)


def with_reopen(read: Callable[[], T]) -> T:
    """Runs what opens an object and reads it, and does so again when the version went meanwhile: bytes of two versions
    are never mixed. When that does not end, or the object is gone, the error is raised."""
    left = _OPENS_MAX
    while True:
        left -= 1
        try:
            return read()
        except (SupersededError, PreconditionFailedError):
            if left == 0:
                raise


def backoff_s(attempts: int, policy: RetryPolicy, spread: float) -> float:
    """Doubles from the minimum to the maximum; the upper half is random."""
    full = min(policy.backoff_max_s, policy.backoff_min_s * 2.0 ** min(attempts - 1, 30))
    return full / 2 + full / 2 * spread


def _is_restarting(error: EbbError) -> bool:
    """A node that does not answer, or that stops or starts, is on its way back: what counts is time, not tries."""
    return error.code in ("node_unreachable", "draining", "starting")


def _retry_after_s(error: EbbError) -> float:
    value = error.details.get("retryAfterMs")
    return min(max(value / 1000, 0.0), RETRY_AFTER_S_MAX) if isinstance(value, (int, float)) else 0.0
