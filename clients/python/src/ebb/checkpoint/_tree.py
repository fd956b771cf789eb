"""A state as a tree: nested containers whose leaves are arrays or plain values.

Arrays become shards; everything else becomes one JSON text, the shard ``""``: loading a checkpoint never runs code.
"""

from __future__ import annotations

import base64
import json
import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ..errors import DataCorruptError

#: Name of the shard with the tree.
TREE = ""


@dataclass(frozen=True)
class Leaf:
    """Where an array was in the tree. `kind`: whose array it is, so that restoring makes the same."""

    name: str
    kind: str


class UnsupportedValueError(TypeError):
    """A value of the state is neither an array nor a plain value."""


#: Keys and positions from the root to a leaf.
Path = tuple[Any, ...]


def flatten(
    state: Any, kind_of: Callable[[Any], str | None], identity: Callable[[Any], Hashable] = id
) -> tuple[Any, dict[str, Any]]:
    """Takes a state apart.

    Args:
        state: dicts, lists, tuples; arrays; None, bool, int, float, str, bytes.
        kind_of: whose array a value is, or None when it is none.
        identity: the same for arrays that are one, as tied weights are: they are one array under the first path.

    Returns:
        The tree with a `Leaf` in the place of each array, and the arrays by name: their paths, joined by dots.

    Raises:
        UnsupportedValueError: names the path of a value that is neither.
    """
    arrays: dict[str, Any] = {}
    seen: dict[Hashable, Leaf] = {}

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        kind = kind_of(value)
        if kind is not None:
            leaf = seen.get(identity(value))
            if leaf is None:
                leaf = Leaf(_unused(name_of(path), arrays), kind)
                arrays[leaf.name] = value
                seen[identity(value)] = leaf
            return leaf
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, Mapping):
            pairs = ((key, walk(one, (*path, str(key)))) for key, one in value.items())
            return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
        if isinstance(value, (list, tuple)):
            items = [walk(one, (*path, str(n))) for n, one in enumerate(value)]
            if isinstance(value, list):
                return items
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        where = ".".join(path) or "the state"
        raise UnsupportedValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint takes arrays and tensors, "
            "None, bool, int, float, str, bytes, and dicts, lists and tuples of them; turn it into those, "
            "or leave it out"
        )

    return walk(state, ()), arrays


def unflatten(tree: Any, make: Callable[[Path, Leaf], Any], path: Path = ()) -> Any:
    """The tree with what `make` gives in the place of each leaf."""
    if isinstance(tree, Leaf):
        return make(path, tree)
    if isinstance(tree, dict):
        pairs = ((key, unflatten(one, make, (*path, key))) for key, one in tree.items())
        return OrderedDict(pairs) if isinstance(tree, OrderedDict) else dict(pairs)
    if isinstance(tree, (list, tuple)):
        items = [unflatten(one, make, (*path, n)) for n, one in enumerate(tree)]
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


def paths(tree: Any) -> dict[Path, Leaf]:
    """All leaves, by where they are."""
    found: dict[Path, Leaf] = {}
    unflatten(tree, found.__setitem__)
    return found


def name_of(path: Path) -> str:
    return ".".join(str(one) for one in path) or "value"


def leaves(tree: Any) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, dict):
        for one in tree.values():
            yield from leaves(one)
    elif isinstance(tree, (list, tuple)):
        for one in tree:
            yield from leaves(one)


def encode(tree: Any) -> bytes:
    return json.dumps(_pack(tree), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(text: bytes) -> Any:
    """
    Raises:
        DataCorruptError: it is no tree.
    """
    try:
        return _unpack(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorruptError(f"the tree of the state is broken: {error}") from error


# What JSON has of its own stays as it is; everything else is an array with a tag.


def _pack(value: Any) -> Any:
    if isinstance(value, Leaf):
        return ["array", value.name, value.kind]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else ["int", str(int(value))]
    if isinstance(value, float):
        # repr gives the same float back; JSON has no NaN and no infinity.
        return float(value) if math.isfinite(value) else ["float", repr(float(value))]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, dict):
        if not isinstance(value, OrderedDict) and all(type(key) is str for key in value):
            return {key: _pack(one) for key, one in value.items()}
        tag = "ordered" if isinstance(value, OrderedDict) else "dict"
        return [tag, [[_pack_key(key), _pack(one)] for key, one in value.items()]]
    items = [_pack(one) for one in value]
    return ["list" if isinstance(value, list) else "tuple", items]


def _pack_key(key: Any) -> Any:
    if key is None or isinstance(key, (bool, int, float, str, bytes)):
        return _pack(key)
    if isinstance(key, tuple):
        return ["tuple", [_pack_key(one) for one in key]]
    raise UnsupportedValueError(f"{key!r} is no key that a checkpoint takes: use str, int, or tuples of them")


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unpack(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    tag, body = value[0], value[1]
    if tag == "array":
        return Leaf(body, value[2])
    if tag == "int":
        return int(body)
    if tag == "float":
        return float(body)
    if tag == "bytes":
        return base64.b64decode(body)
    if tag == "dict":
        return {_unpack(key): _unpack(one) for key, one in body}
    if tag == "ordered":
        return OrderedDict((_unpack(key), _unpack(one)) for key, one in body)
    if tag == "list":
        return [_unpack(one) for one in body]
    if tag == "tuple":
        return tuple(_unpack(one) for one in body)
    raise ValueError(f"no value of kind {tag!r}")


def _unused(name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        return name
    n = 2
    while f"{name}#{n}" in names:
        n += 1
    return f"{name}#{n}"
