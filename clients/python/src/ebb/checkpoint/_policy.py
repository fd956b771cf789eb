"""What a run keeps and does, in the words of Python: what is wrong is told in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Callable

from ..errors import RequestInvalidError

_SLOTS_MAX = 64


def policy_json(policy: Mapping[str, Any]) -> dict[str, Any]:
    """
    Raises:
        TypeError: a name that no policy has.
        RequestInvalidError: a value that it does not take.
    """
    unknown = [name for name in policy if name not in _FIELDS]
    if unknown:
        raise TypeError(f"a Checkpointer takes no {', '.join(unknown)}; of a policy: {', '.join(_FIELDS)}")
    named: dict[str, Any] = {}
    for name, value in policy.items():
        key, takes, convert = _FIELDS[name]
        try:
            named[key] = convert(value)
        except (TypeError, ValueError, OverflowError):
            raise RequestInvalidError(f"{name}={value!r:.100}: it takes {takes}", {"name": name}) from None
    return named


def _whole(value: Any) -> int:
    if isinstance(value, (bool, str)) or value != int(value):
        raise ValueError
    return int(value)


def _limit(value: Any) -> int | None:
    if value is None:
        return None
    number = _whole(value)
    if number < 1:
        raise ValueError
    return number


def _age(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, (bool, str)):
        raise ValueError
    return _limit(math.floor(value * 1000))


def _slots(value: Any) -> int:
    number = _whole(value)
    if not 1 <= number <= _SLOTS_MAX:
        raise ValueError
    return number


def _one_of(*choices: Any) -> Callable[[Any], Any]:
    def choose(value: Any) -> Any:
        return choices[choices.index(value)]

    return choose


_LIMIT = "a whole number from 1 on, or None for no limit"
#: By name: how the node calls it, what it takes, and how that is written.
_FIELDS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "keep_last": ("keepLast", _LIMIT, _limit),
    "keep_every": ("keepEvery", "a whole number of steps from 1 on, or None", _limit),
    "max_age_s": ("maxAgeMs", "seconds from 0.001 on, or None for no limit", _age),
    "max_bytes": ("maxBytes", _LIMIT, _limit),
    "slots": ("slots", f"a whole number from 1 to {_SLOTS_MAX}", _slots),
    "behind": ("behind", "'wait', 'skip' or 'spill'", _one_of("wait", "skip", "spill")),
    "superseded": ("superseded", "'store' or 'drop'", _one_of("store", "drop")),
    "delta": ("delta", "True or False", _one_of(True, False)),
}
