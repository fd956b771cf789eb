"""A state as a tree: nested containers whose leaves are arrays or plain values.

Arrays become shards; everything else becomes one JSON text, the shard ``""`` (_tree_text.py): loading a checkpoint
never runs code.

I1  What comes back is equal in value, type and identity, or was refused when it was saved, with its path. So types are
    compared exactly: of a subclass, what the subclass adds would be lost.
I2  One container under several paths comes back as one container, and arrays in the same memory share memory again
    (_sharing.py).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

from ..errors import UnsupportedError
from ._values import is_constant, is_plain, kind_name

#: Name of the shard with the tree.
TREE = ""
#: What a ``defaultdict`` of a state may make for a key that it does not have.
FACTORIES = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
#: What a state says of an array beside kind, dtype and shape: pairs, in the order of their names.
Form = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Leaf:
    """Where an array was in the tree. `kind`: whose array it is, and `form`: what else it is, so that restoring makes
    the same."""

    name: str
    kind: str
    form: Form = ()


class View(NamedTuple):
    """An array that shares memory with others: `shape` and `strides` (bytes) from `offset` of the shard `of` on."""

    of: str
    offset: int
    #: The name that NumPy writes (``<f4``), or one of PyTorch's own (``bfloat16``).
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Tree(NamedTuple):
    """A state without its arrays. `views`: by name, those arrays that are no shards of their own."""

    root: Any
    views: Mapping[str, View]

    def shard_of(self, leaf: Leaf) -> str:
        """The name of the shard with its bytes."""
        view = self.views.get(leaf.name)
        return leaf.name if view is None else view.of


class Described(NamedTuple):
    """What an array is. `identity`: the same for arrays that are one, as tied weights are."""

    kind: str
    form: Form
    identity: Hashable


class UnsupportedValueError(TypeError):
    """A value of the state is neither an array nor a plain value."""


#: Keys and positions from the root to a leaf.
Path = tuple[Any, ...]


@dataclass
class _Walk:
    describe: Callable[[Any], Described | None]
    arrays: dict[str, Any] = field(default_factory=dict)
    names: dict[Hashable, str] = field(default_factory=dict)
    #: What became of containers, by their identity; None while one is being walked.
    done: dict[int, Any] = field(default_factory=dict)
    buffers: dict[str, bytearray] = field(default_factory=dict)

    def walk(self, value: Any, path: tuple[str, ...]) -> Any:
        if is_plain(value):
            return value
        try:
            found = self.describe(value)
        except UnsupportedError as error:
            raise UnsupportedError(f"{_shown(path)}: {error.message}", error.details) from error
        if found is not None:
            return self._leaf(value, found, path)
        if not is_container(value):
            raise _unsupported(value, path)
        key = id(value)
        if key in self.done:
            if self.done[key] is None:
                raise UnsupportedValueError(f"{_shown(path)} contains itself: a checkpoint takes no cycles")
            return self.done[key]
        self.done[key] = None
        made = self.done[key] = self._container(value, path)
        return made

    def _leaf(self, value: Any, found: Described, path: tuple[str, ...]) -> Leaf:
        name = self.names.get(found.identity)
        if name is None:
            name = self.names[found.identity] = unused(name_of(path), self.arrays)
            self.arrays[name] = value
        return Leaf(name, found.kind, found.form)

    def _container(self, value: Any, path: tuple[str, ...]) -> Any:
        if type(value) is bytearray:
            self.buffers[unused(name_of(path), self.buffers)] = value
            return bytearray(value)
        if isinstance(value, dict):
            if type(value) is defaultdict:
                _assert_factory(value, path)
            for key in value:
                _assert_key(key, path)
            _assert_attributes(value, path)
            if type(value) is OrderedDict and hasattr(value, "_metadata"):
                _Walk(lambda _: None).walk(value._metadata, (*path, "_metadata"))
            return like(value, [(key, self.walk(one, (*path, _text(key)))) for key, one in value.items()])
        if isinstance(value, (set, frozenset)):
            for one in value:
                _assert_key(one, path)
            return like(value, value)
        return like(value, [self.walk(one, (*path, str(n))) for n, one in enumerate(value)])


class Flat(NamedTuple):
    """A state that was taken apart: the tree with a `Leaf` in the place of each array; the arrays, and the bytearrays,
    by name, which is their path, joined by dots."""

    root: Any
    arrays: dict[str, Any]
    buffers: dict[str, bytearray]


def flatten(state: Any, describe: Callable[[Any], Described | None]) -> Flat:
    """Takes a state apart.

    Args:
        state: containers, arrays, plain values (docs/checkpoints.md has the list).
        describe: what an array is; None when a value is none.

    Raises:
        UnsupportedValueError, UnsupportedError: names the path of what cannot come back as it is.
    """
    walk = _Walk(describe)
    try:
        return Flat(walk.walk(state, ()), walk.arrays, walk.buffers)
    except RecursionError:
        raise UnsupportedValueError("the state is nested too deeply: a checkpoint takes some 200 levels") from None


def unflatten(root: Any, make: Callable[[Path, Leaf], Any]) -> Any:
    """The tree with what `make` gives in the place of each leaf. One container stays one."""
    made: dict[int, Any] = {}

    def build(node: Any, path: Path) -> Any:
        if isinstance(node, Leaf):
            return make(path, node)
        if not is_container(node):
            return node
        if id(node) not in made:
            pairs = [(key, build(one, (*path, key))) for key, one in _children(node)]
            if isinstance(node, dict):
                made[id(node)] = like(node, pairs)
            else:
                made[id(node)] = like(node, [one for _, one in pairs])
        return made[id(node)]

    return build(root, ())


def paths(root: Any) -> dict[Path, Leaf]:
    """All leaves, by where they are: below a container with several places, in each of them."""
    found: dict[Path, Leaf] = {}
    left: list[tuple[Path, Any]] = [((), root)]
    while left:
        path, node = left.pop()
        if isinstance(node, Leaf):
            found[path] = node
        elif is_container(node):
            left += [((*path, key), one) for key, one in reversed(_children(node))]
    return found


def _children(node: Any) -> list[tuple[Any, Any]]:
    return list(node.items()) if isinstance(node, dict) else list(enumerate(node))


def leaves(root: Any) -> Iterator[Leaf]:
    return iter(paths(root).values())


def name_of(path: Path) -> str:
    """A text that is no text of Unicode (lone surrogates) is written with escapes."""
    return ".".join(_text(one) for one in path) or "value"


def unused(name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        return name
    n = 2
    while f"{name}#{n}" in names:
        n += 1
    return f"{name}#{n}"


def like(container: Any, items: Iterable[Any]) -> Any:
    """A container of the same type with other items; pairs for a dict."""
    kind = type(container)
    if kind is defaultdict:
        return defaultdict(container.default_factory, items)
    if kind is Counter:
        return Counter(dict(items))
    if kind is deque:
        return deque(items, container.maxlen)
    made = kind(items)
    if kind is OrderedDict and hasattr(container, "_metadata"):
        # torch.nn.Module.state_dict() keeps the versions of its modules there.
        made._metadata = container._metadata
    return made


_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, Counter, list, tuple, deque, set, frozenset, bytearray})


def is_container(value: Any) -> bool:
    return type(value) in _CONTAINERS and not is_plain(value)


def _assert_key(key: Any, path: tuple[str, ...]) -> None:
    if is_constant(key):
        return
    raise UnsupportedValueError(
        f"{_shown(path)} has the key {_repr(key)}, a {kind_name(key)}: use str, int, or other plain values, "
        "or tuples of them"
    )


def _assert_attributes(value: dict[Any, Any], path: tuple[str, ...]) -> None:
    """`_metadata` of an OrderedDict is kept (see `like`)."""
    kept = {"_metadata"} if type(value) is OrderedDict else set()
    lost = sorted(vars(value).keys() - kept) if hasattr(value, "__dict__") else []
    if lost:
        raise UnsupportedValueError(
            f"{_shown(path)} is a {type(value).__name__} with the attribute {lost[0]}, which would be lost: save that "
            "under a name of its own, and remove it"
        )


def _unsupported(value: Any, path: tuple[str, ...]) -> UnsupportedValueError:
    advice = "turn it into those, or leave it out"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        advice = "loading would run the code of its class; save its _asdict(), or tuple(…) of it"
    elif isinstance(value, Mapping):
        advice = "save dict(…) of it"
    return UnsupportedValueError(
        f"{_shown(path)} is a {kind_name(value)}: a checkpoint takes arrays and tensors, None, bool, int, float, "
        "complex, str, bytes, and dicts, lists, tuples and sets of them, and none of their subclasses; " + advice
    )


def _assert_factory(value: Any, path: tuple[str, ...]) -> None:
    factory = value.default_factory
    if factory is not None and factory not in FACTORIES:
        raise UnsupportedValueError(
            f"{_shown(path)} is a defaultdict of {_repr(factory)}: a checkpoint can name "
            f"{', '.join(one.__name__ for one in FACTORIES)}; save dict(…) of it"
        )


def _text(key: Any) -> str:
    if type(key) is str and key.isascii():
        return key
    return str(key).encode("utf-8", "backslashreplace").decode()


def _shown(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the state"


def _repr(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:
        return "(no text)"
