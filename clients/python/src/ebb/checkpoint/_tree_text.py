"""A tree as the JSON text of the shard ``""``: docs/checkpoint-format.md, "The tree of a state"."""

from __future__ import annotations

import base64
import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from typing import Any

from ..errors import DataCorruptError, UnsupportedError
from . import _values
from ._tree import FACTORIES, Leaf, Tree, View, is_container

_FACTORY = {one.__name__: one for one in FACTORIES}


def encode(root: Any, views: Mapping[str, View]) -> bytes:
    body = _Packer(root).pack(root)
    if views:
        rows = {name: [one.of, one.offset, one.dtype, one.shape, one.strides] for name, one in views.items()}
        body = ["views", rows, body]
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(text: bytes) -> Tree:
    """
    Raises:
        DataCorruptError: it is no tree.
        UnsupportedError: it holds what this process, or this version, cannot make.
    """
    try:
        body = json.loads(text)
        views = {}
        if isinstance(body, list) and body[0] == "views":
            views = {
                name: View(of, offset, dtype, tuple(shape), tuple(strides))
                for name, (of, offset, dtype, shape, strides) in body[1].items()
            }
            body = body[2]
        return Tree(_Unpacker().unpack(body), views)
    except UnsupportedError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataCorruptError(f"the tree of the state is broken: {error}") from error


class _Packer:
    """Containers that have several places are written at the first of them, with a number."""

    def __init__(self, root: Any) -> None:
        seen: set[int] = set()
        shared: set[int] = set()
        left = [root]
        while left:
            node = left.pop()
            if not is_container(node):
                continue
            if id(node) in seen:
                shared.add(id(node))
                continue
            seen.add(id(node))
            left += node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple, deque)) else ()
        self._shared = shared
        self._numbers: dict[int, int] = {}

    def pack(self, node: Any) -> Any:
        if isinstance(node, Leaf):
            return ["array", node.name, node.kind, *([dict(node.form)] if node.form else [])]
        if not is_container(node):
            return _values.pack(node)
        if id(node) not in self._shared:
            return self._container(node)
        if id(node) in self._numbers:
            return ["again", self._numbers[id(node)]]
        number = self._numbers[id(node)] = len(self._numbers)
        return ["shared", number, self._container(node)]

    def _container(self, node: Any) -> Any:
        kind = type(node)
        if kind is bytearray:
            return ["bytearray", base64.b64encode(node).decode()]
        if kind is dict and all(type(key) is str and key.isprintable() for key in node):
            return {key: self.pack(one) for key, one in node.items()}
        if isinstance(node, dict):
            pairs = [[_constant(key), self.pack(one)] for key, one in node.items()]
            if kind is OrderedDict:
                more = getattr(node, "_metadata", None)
                return ["ordered", pairs, *([] if more is None else [_Packer(more).pack(more)])]
            if isinstance(node, defaultdict):
                factory: Any = node.default_factory
                return ["defaultdict", pairs, None if factory is None else factory.__name__]
            return ["counter" if kind is Counter else "dict", pairs]
        if kind in (set, frozenset):
            return _set(node)
        items = [self.pack(one) for one in node]
        if kind is deque:
            return ["deque", items, node.maxlen]
        return ["list" if kind is list else "tuple", items]


def _constant(node: Any) -> Any:
    """A key, or an element of a set. It has no number, wherever else it is: elements have no order in which one could
    be the first place of another."""
    if not is_container(node):
        return _values.pack(node)
    return ["tuple", [_constant(one) for one in node]] if type(node) is tuple else _set(node)


def _set(node: Any) -> Any:
    """Its elements are in an order that does not change from one snapshot to the next."""
    return [type(node).__name__, sorted((_constant(one) for one in node), key=json.dumps)]


class _Unpacker:
    def __init__(self) -> None:
        self._shared: dict[int, Any] = {}

    def unpack(self, body: Any) -> Any:
        again = self.unpack
        if isinstance(body, dict):
            return {key: again(one) for key, one in body.items()}
        if not isinstance(body, list):
            return body
        tag, rest = body[0], body[1:]
        if tag == "array":
            name, kind, *form = rest
            return Leaf(name, kind, tuple(_frozen(form[0]).items()) if form else ())
        if tag == "shared":
            found = self._shared[rest[0]] = again(rest[1])
            return found
        if tag == "again":
            return self._shared[rest[0]]
        if tag in ("dict", "ordered", "defaultdict", "counter"):
            pairs = [(again(key), again(one)) for key, one in rest[0]]
            if tag == "ordered":
                ordered: Any = OrderedDict(pairs)
                if len(rest) > 1:
                    ordered._metadata = _Unpacker().unpack(rest[1])
                return ordered
            if tag == "defaultdict":
                return defaultdict(None if rest[1] is None else _FACTORY[rest[1]], pairs)
            return Counter(dict(pairs)) if tag == "counter" else dict(pairs)
        if tag in ("list", "tuple", "set", "frozenset", "deque"):
            items = [again(one) for one in rest[0]]
            if tag == "deque":
                return deque(items, rest[1])
            return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](items)
        try:
            return _values.unpack(tag, rest, again)
        except KeyError:
            raise UnsupportedError(f"the state has a value of the kind {tag!r}, which a newer client wrote") from None


def _frozen(form: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(one) if isinstance(one, list) else one for name, one in form.items()}
