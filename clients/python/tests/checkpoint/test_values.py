"""What a state may hold: it comes back equal in value, type and identity, or is refused at the save with its path.

States are made at random, of all kinds of values; the seed is in the name of a test.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import gc
import math
import pathlib
import random
import struct
import weakref
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Callable

import numpy as np
import pytest

from ebb.checkpoint import Checkpointer, UnsupportedValueError, _tree, _tree_text
from ebb.checkpoint import _arrays as arrays
from ebb.errors import UnsupportedError

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
Refused = (UnsupportedError, UnsupportedValueError)


def comes_back(checkpointer: Checkpointer, state: Any) -> Any:
    checkpointer.save(1, state)
    checkpointer.wait()
    return checkpointer.restore(1).state


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def assert_same(found: Any, expected: Any, path: str = "state") -> None:
    """In value and type."""
    assert type(found) is type(expected), path
    if isinstance(expected, (np.ndarray, np.generic)):
        assert found.dtype == expected.dtype, path
        assert found.shape == expected.shape, path
        assert found.tobytes() == expected.tobytes(), path
        if isinstance(expected, np.ndarray):
            assert found.flags.writeable == expected.flags.writeable, path
            if expected.flags.f_contiguous:
                assert found.flags.f_contiguous, path
    elif torch is not None and isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape, found.requires_grad) == (
            expected.dtype,
            expected.shape,
            expected.requires_grad,
        ), path
        assert raw(found) == raw(expected), path
        assert isinstance(found, torch.nn.Buffer) == isinstance(expected, torch.nn.Buffer), path
    elif isinstance(expected, dict):
        assert [(type(key), key) for key in found] == [(type(key), key) for key in expected], path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
        if isinstance(expected, defaultdict):
            assert found.default_factory is expected.default_factory, path
    elif isinstance(expected, (list, tuple, deque)) and not hasattr(expected, "numel"):
        assert len(found) == len(expected), path
        if isinstance(expected, deque):
            assert found.maxlen == expected.maxlen
        for n, (one, other) in enumerate(zip(found, expected)):
            assert_same(one, other, f"{path}.{n}")
    elif isinstance(expected, (float, complex)):
        assert repr(found) == repr(expected), path  # NaN, and the sign of zero
    else:
        assert found == expected, path


def raw(tensor: Any) -> bytes:
    whole = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return b"" if whole.numel() == 0 else bytes(arrays.flat(whole).view(torch.uint8).tolist())


def places(value: Any, path: str = "") -> dict[str, Any]:
    """All containers and arrays, by where they are."""
    found = {path: value} if is_array(value) or isinstance(value, (dict, list, set, deque, bytearray)) else {}
    if isinstance(value, dict):
        for n, (key, one) in enumerate(value.items()):
            # A set among keys has another text each time.
            found |= places(one, f"{path}.{repr(key) if type(key) is str else n}")
    elif isinstance(value, (list, tuple, deque)):
        for n, one in enumerate(value):
            found |= places(one, f"{path}.{n}")
    return found


def assert_same_identities(found: Any, expected: Any) -> None:
    """What was one object is one object; what was not, is not; what lies on each other lies on each other."""
    here, there = places(found), places(expected)
    assert here.keys() == there.keys()
    names = list(there)
    for n, one in enumerate(names):
        for other in names[:n]:
            if is_array(there[one]) and is_array(there[other]):
                assert share(here[one], here[other]) == share(there[one], there[other]), (one, other)
            else:
                assert (here[one] is here[other]) == (there[one] is there[other]), (one, other)


def share(one: Any, other: Any) -> bool:
    return np.shares_memory(elements(one), elements(other))


def elements(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array
    resolved = array.detach()
    return np.lib.stride_tricks.as_strided(
        np.frombuffer((np.ctypeslib.ctypes.c_char * 0).from_address(array.data_ptr()), "V1")
        if array.numel() == 0
        else np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * 1).from_address(array.data_ptr())),
        (*resolved.shape, resolved.element_size()),
        (*(stride * resolved.element_size() for stride in resolved.stride()), 1),
    )


# -- at random -------------------------------------------------------------------------------------------------------


class Maker:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.made: list[Any] = []

    def state(self) -> dict[str, Any]:
        return {f"k{n}": self.value(3) for n in range(self.chance.randrange(1, 8))}

    def value(self, depth: int) -> Any:
        if self.made and self.chance.random() < 0.2:
            return self.chance.choice(self.made)
        choices: list[Callable[[int], Any]] = [self.plain, self.plain, self.array]
        if torch is not None:
            choices.append(self.tensor)
        if depth > 0:
            choices += [self.container, self.container]
        value = self.chance.choice(choices)(depth - 1)
        self.made.append(value)
        return value

    def plain(self, _: int) -> Any:
        return self.chance.choice(PLAIN)

    def container(self, depth: int) -> Any:
        kind = self.chance.choice([dict, dict, list, tuple, OrderedDict, defaultdict, deque, set, bytearray])
        if kind is set:
            return {self.chance.choice(KEYS) for _ in range(3)}
        if kind is bytearray:
            return bytearray(self.numbers.bytes(3))
        if issubclass(kind, dict):
            pairs = [(self.chance.choice(KEYS), self.value(depth)) for _ in range(self.chance.randrange(4))]
            return defaultdict(list, pairs) if kind is defaultdict else kind(pairs)
        return kind(self.value(depth) for _ in range(self.chance.randrange(4)))

    def array(self, _: int) -> Any:
        dtype = self.chance.choice(["?", "u1", "i8", "f2", "f4", ">f8", "c8", ">i2", "M8[s]", "m8[ns]"])
        array = self.numbers.integers(0, 2, self.shape()).astype(dtype)
        return self.view(array, lambda one: one.T, lambda one: one.copy("F"))

    def tensor(self, _: int) -> Any:
        dtype = self.chance.choice(
            [torch.bool, torch.bfloat16, torch.float32, torch.int64, torch.complex64, torch.uint16]
        )
        tensor = torch.from_numpy(self.numbers.integers(0, 2, self.shape())).to(dtype)
        tensor = self.view(tensor, lambda one: one.movedim(0, -1) if one.dim() else one, lambda one: one.clone())
        if dtype == torch.float32 and self.chance.random() < 0.3:
            return torch.nn.Parameter(tensor, requires_grad=self.chance.random() < 0.5)
        return tensor

    def shape(self) -> tuple[int, ...]:
        return tuple(
            self.chance.randrange(0 if self.chance.random() < 0.1 else 1, 4) for _ in range(self.chance.randrange(4))
        )

    def view(self, array: Any, *more: Callable[[Any], Any]) -> Any:
        """An array, or a view of one that is in the state as well."""
        ways = [lambda one: one, lambda one: one[::2] if one.ndim else one, lambda one: one[1:] if one.ndim else one]
        self.made.append(array)
        return self.chance.choice([*ways, *more])(array)


PLAIN = [
    None, True, 0, -1, 2**53, -(2**200), 1.0, -0.0, math.nan, math.inf, 5e-324, 1 + 2j, complex(-0.0, math.nan), "ü",
    "\ud800", "\ud83d\ude00", "a\nb\0", b"", b"\xff", range(3), range(0, -9, -2), (), (1, (2,)),
    np.float64(0.1), np.float32(-0.0), np.float16(1), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.longlong(3),
    np.complex64(1j), np.datetime64("2026-11-30"), np.timedelta64(3, "ms"), np.str_("text"), np.bytes_(b"x"),
    frozenset({1, "a"}), Counter("aab"),
]  # fmt: skip
KEYS = [
    "a",
    "b.c",
    "",
    "\ud800",
    1,
    -1,
    2**70,
    True,
    None,
    1.5,
    b"k",
    (1, "x"),
    frozenset({2}),
    np.int64(9),
    np.str_("s"),
]
if torch is not None:
    PLAIN += [torch.float32, torch.Size([2, 3]), torch.device("cpu")]


@pytest.mark.parametrize("seed", range(40))
def test_a_random_state_comes_back_equal_in_value_type_and_identity(checkpointer: Checkpointer, seed: int) -> None:
    state = Maker(seed).state()
    found = comes_back(checkpointer, state)
    assert_same(found, state)
    assert_same_identities(found, state)
    with checkpointer.open(1) as opened:
        assert_same_identities(opened.state, state)


class Constants:
    """Values that can be keys and elements of sets, nested in each other, and each in several places."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.made: list[Any] = [frozenset({"relu", "gelu"})]

    def constant(self, depth: int = 0) -> Any:
        if self.chance.random() < 0.3:
            return self.chance.choice(self.made)
        if depth > 2 or self.chance.random() < 0.3:
            return self.chance.choice(KEYS)
        kind = self.chance.choice([tuple, frozenset])
        one = kind(self.constant(depth + 1) for _ in range(self.chance.randrange(4)))
        self.made.append(one)
        return one

    def value(self, depth: int = 0) -> Any:
        count = self.chance.randrange(4)
        kind = self.chance.choice([list, tuple, dict, OrderedDict, defaultdict] if depth < 3 else [set])
        if self.chance.random() < 0.3:
            return self.constant()
        if kind is set or self.chance.random() < 0.3:
            return {self.constant() for _ in range(count)}
        if issubclass(kind, dict):
            pairs = [(self.constant(), self.value(depth + 1)) for _ in range(count)]
            return defaultdict(list, pairs) if kind is defaultdict else kind(pairs)
        return kind(self.value(depth + 1) for _ in range(count))


@pytest.mark.parametrize("seed", range(40))
def test_constants_in_any_places_of_sets_keys_and_values_are_read_again(seed: int) -> None:
    make = Constants(seed)
    for _ in range(50):
        state = [make.value() for _ in range(3)]
        flat = _tree.flatten(state, lambda _: None)
        text = _tree_text.encode(flat.root, {})
        found = _tree_text.decode(text).root
        assert_same(found, state)
        assert_same_identities(found, state)
        assert _tree_text.encode(found, {}) == text


# -- what is refused -------------------------------------------------------------------------------------------------


class Mode(enum.Enum):
    A = 1


class Level(enum.IntEnum):
    A = 1


class Text(str):
    pass


class Numbers(list):  # type: ignore[type-arg]
    pass


class Named(dict):  # type: ignore[type-arg]
    pass


@dataclass
class Record:
    a: int


Pair = namedtuple("Pair", "a b")


class Buffer(bytearray):
    def assert_there(self) -> None:
        raise AssertionError("it is the caller's, and nobody else may call it")


class Celsius(np.float64):
    pass


class Label(np.str_):
    pass


def with_attribute(value: Any, attribute: Any) -> Any:
    value.extra = attribute
    return value


OTHERS = {
    "masked array": lambda: np.ma.masked_array([1, 2], [False, True]),
    "array in a file": lambda: np.ones(3).view(np.memmap),
    "record array": lambda: np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    "structured array": lambda: np.zeros(2, dtype=[("a", int)]),
    "objects": lambda: np.array([{}, []], dtype=object),
    "texts": lambda: np.array(["a", "b"]),
    "long double": lambda: np.ones(2, np.longdouble),
    "long double scalar": lambda: np.longdouble(1),
    "record": lambda: np.zeros(2, dtype=[("a", int)])[0],
    "date without unit": lambda: np.array(["NaT"], "M8"),
    "dates with metadata": lambda: np.zeros(3, np.dtype("M8[s]", metadata={"a": 1})),
    "durations with metadata": lambda: np.zeros(3, np.dtype(">m8[s]", metadata={"a": 1})),
    "numbers with metadata": lambda: np.zeros(3, np.dtype("f8", metadata={"a": 1})),
    "subclass of a scalar": lambda: Celsius(20.5),
    "key of such a subclass": lambda: {Celsius(20.5): 1},
    "subclass of numpy's text": lambda: Label("a"),
    "strides beyond": lambda: np.lib.stride_tricks.as_strided(np.ones(3), (100,), (8,)),
    "strides beyond what a caller's own buffer has": lambda: np.lib.stride_tricks.as_strided(
        np.frombuffer(Buffer(24)), (100,), (8,)
    ),
    "enum": lambda: Mode.A,
    "int enum": lambda: Level.A,
    "str subclass": lambda: Text("a"),
    "list subclass": lambda: Numbers([1]),
    "dict subclass": lambda: Named(a=1),
    "named tuple": lambda: Pair(1, 2),
    "dataclass": lambda: Record(1),
    "mapping": lambda: MappingProxyType({"a": 1}),
    "factory": lambda: defaultdict(lambda: 1),
    "ordered dict with an attribute": lambda: with_attribute(OrderedDict(a=1), 5),
    "counter with an attribute": lambda: with_attribute(Counter("ab"), 5),
    "key": lambda: {Level.A: 1},
    "key in a key": lambda: {(1, Text("a")): 1},
    "element": lambda: {Level.A},
    "decimal": lambda: decimal.Decimal("0.1"),
    "date": lambda: datetime.date(2026, 1, 1),
    "path": lambda: pathlib.Path("a"),
    "slice": lambda: slice(3),
    "ellipsis": lambda: ...,
    "generator": lambda: np.random.default_rng(0),
    "function": lambda: len,
}


def test_texts_of_numpy_keep_zeros_at_their_end(checkpointer: Checkpointer) -> None:
    texts = [np.str_("a\0"), np.str_("\0\0"), np.str_("\ud800\0"), np.bytes_(b"a\0"), np.bytes_(b"\0")]
    found = comes_back(checkpointer, {"texts": texts, "keys": dict.fromkeys(texts, 1), "set": set(texts)})
    for some in (found["texts"], list(found["keys"])):
        assert [(type(one), len(one)) for one in some] == [(type(one), len(one)) for one in texts]
        assert [list(one) for one in some] == [list(one) for one in texts]
    assert sorted(len(one) for one in found["set"]) == [1, 2, 2, 2, 2]


def test_a_nan_keeps_its_sign_and_bits(checkpointer: Checkpointer) -> None:
    bits = [0xFFF8_0000_0000_0000, 0x7FF8_0000_0000_0001, 0x7FF8_0000_0000_0000]
    values = [struct.unpack("<d", struct.pack("<Q", one))[0] for one in bits]
    found = comes_back(checkpointer, [*values, complex(values[0], values[1])])
    found[3:] = [found[3].real, found[3].imag]
    assert [struct.unpack("<Q", struct.pack("<d", one))[0] for one in found] == [*bits, bits[0], bits[1]]


@pytest.mark.parametrize("kind", ["q", "Q", ">q", "l", "i"])
def test_elements_of_an_array_stay_of_their_type(checkpointer: Checkpointer, kind: str) -> None:
    array = np.arange(6).astype(kind)
    state = {
        "a": array,
        "column": np.asfortranarray(array.reshape(2, 3).copy()),
        "shared": [array.reshape(2, 3), array[2:]],
    }
    found = comes_back(checkpointer, state)
    with checkpointer.open(1) as opened:
        for one in (found, opened.state):
            assert_same(one["shared"][0].copy(), array.reshape(2, 3))
            for there in (one["a"], one["column"], *one["shared"]):
                assert there.dtype.char == array.dtype.char
                assert type(there.flat[0]) is type(array[0])


def test_classes_of_programs_are_not_kept() -> None:
    kept = []
    for _ in range(100):
        made = type("Made", (np.ndarray,), {})
        assert arrays.kind_of(np.zeros(3).view(made)) == arrays.NUMPY
        kept.append(weakref.ref(made))
        del made
    gc.collect()
    assert [one() for one in kept if one() is not None] == []


@pytest.mark.parametrize("name", OTHERS)
def test_what_could_not_come_back_is_refused_with_its_path(checkpointer: Checkpointer, name: str) -> None:
    state = {"ok": [np.ones(1)] * 3, "deep": [1, {"bad": OTHERS[name]()}]}
    with pytest.raises(Refused, match=r"deep\.1\.bad"):
        checkpointer.save(1, state)
    assert checkpointer.list() == []


def test_cycles_and_endless_nesting_are_refused(checkpointer: Checkpointer) -> None:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    with pytest.raises(UnsupportedValueError, match=r"a\.1\.again contains itself"):
        checkpointer.save(1, {"a": cycle})
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(UnsupportedValueError, match="nested too deeply"):
        checkpointer.save(1, deep)


# -- identity --------------------------------------------------------------------------------------------------------


def test_a_number_that_two_groups_share_is_a_number_for_each(checkpointer: Checkpointer) -> None:
    rate = np.float64(0.1)
    found = comes_back(checkpointer, {"groups": [{"lr": rate}, {"lr": rate}]})["groups"]
    for group in found:
        group["lr"] *= 0.5
    assert [group["lr"] for group in found] == [0.05, 0.05]


def test_one_container_under_two_names_is_one_container(checkpointer: Checkpointer) -> None:
    shared = {"a": [1], "w": np.ones(3)}
    found = comes_back(checkpointer, {"x": shared, "y": shared, "z": {"a": [1], "w": np.ones(3)}})
    assert found["x"] is found["y"]
    assert found["x"] is not found["z"]
    apart = {name: {"a": [0], "w": np.zeros(3)} for name in "xyz"}
    state = checkpointer.restore(1, into=apart).state
    assert all(one["w"].all() for one in apart.values())
    assert state["x"] is state["y"]


def test_a_set_that_is_at_several_places_and_within_other_sets_comes_back(checkpointer: Checkpointer) -> None:
    kinds = frozenset({"relu", "gelu"})
    state = {
        "seen": {(kinds, 1), (kinds, 2)},
        "train": kinds,
        "eval": kinds,
        "by kind": {(kinds,): 1, kinds: kinds},
        "pairs": [(kinds, 1)] * 2,
    }
    if torch is not None:
        state["tensor"] = with_attribute(torch.ones(2), (kinds, kinds, frozenset({(kinds, 1), (kinds, 2)})))
    found = comes_back(checkpointer, state)
    assert_same(found, state)
    assert found["train"] is found["eval"] is found["by kind"][kinds]
    assert found["pairs"][0] is found["pairs"][1]
    if torch is not None:
        assert found["tensor"].extra == state["tensor"].extra


def test_what_lies_on_each_other_shares_memory_again(checkpointer: Checkpointer) -> None:
    whole = np.arange(24.0).reshape(4, 6)
    state = {"rows": whole[1:3], "whole": whole, "column": whole[:, 2], "bits": whole.view("i8"), "turned": whole.T}
    found = comes_back(checkpointer, state)
    assert_same(found, state)
    found["whole"][2, 2] = -1
    assert (found["rows"][1, 2], found["column"][2], found["turned"][2, 2]) == (-1, -1, -1)
    assert found["bits"][2, 2] == np.float64(-1).view("i8")
    [shard] = [one for one in checkpointer.api.plan(1).parts["rank-00000"].shards if one.name]
    assert (shard.name, shard.length) == ("whole", 192)
    apart = {name: np.zeros(one.shape, one.dtype) for name, one in state.items()}
    checkpointer.restore(1, into=apart)
    assert all(np.array_equal(apart[name], state[name]) for name in state)


def records() -> np.ndarray[Any, Any]:
    """Packed ones, of 5 bytes."""
    made = np.zeros(6, [("x", "<f4"), ("flag", "u1")])
    made["x"], made["flag"] = range(6), range(6)
    return made


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str = "<f4", offset: int = 0) -> Any:
    return np.ndarray(shape, dtype, bytearray(range(1, 65)), offset, strides)


def test_views_whose_strides_are_no_multiples_of_their_elements_come_back(checkpointer: Checkpointer) -> None:
    column, odd = records()["x"], strided((3,), (6,), offset=1)
    turned = records()["x"].reshape(2, 3).T
    for state in (
        {"x": column, "rows": column.reshape(2, 3)},
        {"x": column, "part": column[1:4], "back": column[::-1]},
        {"odd": odd, "again": odd[1:], "longs": odd.view("<i4")},
        {"turned": turned, "x": turned[0]},
        {"flags": records()["flag"], "one": column[2:3]},
    ):
        found = comes_back(checkpointer, state)
        with checkpointer.open(1) as opened:
            for there in (found, opened.state):
                assert_same_identities(there, state)
                for name, array in state.items():
                    assert there[name].dtype == array.dtype
                    assert there[name].tobytes() == array.tobytes(), name


def test_elements_that_lie_on_each_other_by_some_bytes_do_so_again(checkpointer: Checkpointer) -> None:
    twice = strided((2, 2), (9, 6))
    found = comes_back(checkpointer, {"twice": twice})["twice"]
    assert (found.strides, found.tobytes()) == (twice.strides, twice.tobytes())
    checkpointer.save(2, {"twice": np.zeros((2, 2), np.float32)})
    checkpointer.wait()
    before = twice.tobytes()
    made = checkpointer.restore(2, into={"twice": twice}).state["twice"]  # it could not be written element by element
    assert made is not twice
    assert not made.any()
    assert twice.tobytes() == before


def test_order_and_overlaps_of_elements_are_told_by_bytes() -> None:
    turned = records()["x"].reshape(2, 3).T
    assert arrays.order_of(turned.shape, turned.strides, 4) is None
    assert arrays.order_of((3, 2), (4, 12), 4) == (1, 0)
    assert arrays.overlaps_itself((2, 2), (9, 6), 4)
    assert not arrays.overlaps_itself((2, 2), (10, 6), 4)
    assert not arrays.overlaps_itself((2, 2), (10, -6), 4)


def test_arrays_over_the_same_memory_keep_flags_of_their_own(checkpointer: Checkpointer) -> None:
    for make in (np.ones, lambda shape: np.ones(shape, "F"), lambda shape: np.ones(shape, ">i2")):
        array = make((3, 2))
        frozen = array[:]
        frozen.flags.writeable = False
        for state in ({"a": array, "b": frozen}, {"b": frozen, "a": array}, {"b": frozen}):
            found = comes_back(checkpointer, state)
            assert_same(found, state)
            assert_same_identities(found, state)
            with checkpointer.open(1) as opened:
                assert_same_identities(opened.state, state)


def test_an_array_that_lies_in_a_bytearray_of_the_state_is_refused(checkpointer: Checkpointer) -> None:
    buffer = bytearray(b"12345678")
    for view in (np.frombuffer(buffer, np.uint8), np.frombuffer(buffer, np.int16)[3:]):
        for state in ({"x": {"b": buffer}, "y": [view]}, {"y": [view], "x": {"b": buffer}}):
            with pytest.raises(UnsupportedError, match=r"y\.0 lies in the bytearray x\.b"):
                checkpointer.save(1, state)
    apart = {"b": [buffer, bytearray(), buffer], "a": np.frombuffer(bytes(buffer), np.uint8)}
    found = comes_back(checkpointer, apart)
    assert_same(found, apart)
    assert_same_identities(found, apart)


def test_what_lies_beside_each_other_is_shards_each(checkpointer: Checkpointer) -> None:
    flat = np.arange(24.0)
    matrix = flat.reshape(4, 6)
    found = comes_back(checkpointer, {"even": matrix[:, ::2], "odd": matrix[:, 1::2]})
    assert np.array_equal(found["odd"], matrix[:, 1::2])
    names = {one.name for one in checkpointer.api.plan(1).parts["rank-00000"].shards}
    assert names == {"", "even", "odd"}


def test_an_expanded_array_takes_the_bytes_that_it_has(checkpointer: Checkpointer) -> None:
    state = {
        "a": np.broadcast_to(np.float32(7), (4096, 4096)),
        "b": np.lib.stride_tricks.as_strided(np.arange(6), (4, 3), (8, 8)),
    }
    if torch is not None:
        state["c"] = torch.full((1, 3), 2.0).expand(5000, 3)
    checkpointer.save(1, state)
    snapshot = checkpointer.wait()
    assert snapshot.image_bytes < 4096
    found = checkpointer.restore(1).state
    assert np.array_equal(found["a"], state["a"])
    assert found["a"].strides == (0, 0)
    assert np.array_equal(found["b"], state["b"])
    if torch is not None:
        assert found["c"].stride() == (0, 1)
        assert torch.equal(found["c"], state["c"])
        into = {**state, "a": np.zeros((4096, 4096), np.float32), "b": np.zeros((4, 3), int), "c": torch.zeros(5000, 3)}
        assert torch.equal(checkpointer.restore(1, into=into).state["c"], state["c"])
        assert into["a"][77, 99] == 7


def test_two_corners_of_something_huge_are_refused(checkpointer: Checkpointer) -> None:
    huge = np.empty((3000, 3000))
    with pytest.raises(UnsupportedError, match="row and column share memory that spans"):
        checkpointer.save(1, {"row": huge[0], "column": huge[:, 0]})


# -- PyTorch ---------------------------------------------------------------------------------------------------------


@needs_torch
def test_parameters_buffers_layouts_and_versions_of_modules_come_back(checkpointer: Checkpointer) -> None:
    module = torch.nn.BatchNorm2d(3)
    state = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "buffer": torch.nn.Buffer(torch.ones(2), persistent=False),
        "leaf": torch.ones(2, requires_grad=True),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "module": module.state_dict(),
    }
    found = comes_back(checkpointer, state)
    assert_same(found, state)
    assert found["last"].stride() == state["last"].stride()
    assert found["buffer"].persistent is False
    assert found["module"]._metadata == state["module"]._metadata
    shared = comes_back(checkpointer, {"p": state["parameter"], "t": state["parameter"].detach()})
    assert type(shared["p"]) is torch.nn.Parameter
    assert type(shared["t"]) is torch.Tensor
    assert shared["p"].data_ptr() == shared["t"].data_ptr()


@needs_torch
def test_attributes_of_tensors_come_back_or_are_refused_by_path(checkpointer: Checkpointer) -> None:
    state = {
        "parameter": with_attribute(torch.nn.Parameter(torch.ones(3)), True),
        "tensor": with_attribute(torch.ones(3), ("column", 1, math.inf, frozenset({2}))),
        "buffer": with_attribute(torch.nn.Buffer(torch.ones(2), persistent=False), None),
    }
    state["data"] = state["parameter"].detach()
    compiled = torch.ones(3)
    torch._dynamo.mark_static(compiled)
    found = comes_back(checkpointer, {**state, "compiled": compiled})
    assert_same(found, {**state, "compiled": compiled})
    assert [vars(found[name]) for name in state] == [vars(state[name]) for name in state]
    assert vars(found["compiled"]) == {}
    assert share(found["parameter"], found["data"])
    with checkpointer.open(1) as opened:
        assert [vars(opened.state[name]) for name in state] == [vars(state[name]) for name in state]
    for bad in (torch.ones(1), [1], len, (1, [2])):
        with pytest.raises(UnsupportedError, match=r"m\.0: the attribute extra of this tensor is a"):
            checkpointer.save(2, {"m": [with_attribute(torch.nn.Parameter(torch.ones(3)), bad)]})


@needs_torch
def test_tensors_over_the_same_memory_require_gradients_each_for_itself(checkpointer: Checkpointer) -> None:
    for whole in (torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        leaf = whole.requires_grad_()
        for state in ({"leaf": leaf, "data": leaf.detach()}, {"data": leaf.detach(), "leaf": leaf}):
            found = comes_back(checkpointer, state)
            assert_same(found, state)
            assert found["leaf"].stride() == found["data"].stride() == leaf.stride()
            assert found["leaf"].data_ptr() == found["data"].data_ptr()


@needs_torch
def test_gradients_hooks_and_the_graph_are_no_part_of_a_checkpoint(checkpointer: Checkpointer) -> None:
    calls: list[Any] = []
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.register_hook(calls.append)
    weight.register_post_accumulate_grad_hook(calls.append)
    made = weight * 3
    made.sum().backward()
    assert len(calls) == 2
    state = {"weight": weight, "made": made, "gradient": weight.grad}
    found = comes_back(checkpointer, state)
    assert_same(found, state)
    for name in ("weight", "made"):
        assert (found[name].grad_fn, found[name].grad, found[name].is_leaf) == (None, None, True)
    (found["weight"] * found["made"]).sum().backward()
    assert torch.equal(found["weight"].grad, torch.tensor([3.0, 6.0]))
    assert len(calls) == 2
    target = torch.nn.Parameter(torch.zeros(2))
    target.grad = torch.ones(2)
    checkpointer.restore(1, into={"weight": target}, strict=False)
    assert torch.equal(target, weight)
    assert torch.equal(target.grad, torch.ones(2))


def freed() -> Any:
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut() -> Any:
    tensor = torch.ones(1000)
    tensor.untyped_storage().resize_(400)
    return tensor


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


def wrapper() -> Any:
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, (3,))

        @classmethod
        def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return Wrapper() if call is torch.ops.aten.detach.default else NotImplemented

    return Wrapper()


class Own(torch.Tensor if torch is not None else object):  # type: ignore[misc]
    pass


WITHOUT_MEMORY = {
    "freed": freed,
    "cut short": cut,
    "fake": fake,
    "wrapper": wrapper,
    "meta": lambda: torch.ones(3, device="meta"),
    "lazy": lambda: torch.nn.UninitializedParameter(),
    "functional": lambda: torch._to_functional_tensor(torch.ones(3)),
    "masked": lambda: torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False])),
    "zero": lambda: torch._efficientzerotensor((3,)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
}


@needs_torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITHOUT_MEMORY)
def test_a_tensor_without_memory_of_its_own_is_refused_by_name_in_saves_and_restores(
    checkpointer: Checkpointer, name: str
) -> None:
    from ebb.torch import dcp

    bad = WITHOUT_MEMORY[name]()
    with pytest.raises(UnsupportedError, match=r"model\.1"):
        checkpointer.save(1, {"model": [torch.ones(3), bad]})
    with pytest.raises(UnsupportedError, match=r"model\.1"):
        dcp.save(checkpointer, 1, {"model": [torch.ones(3), bad]})
    assert checkpointer.list() == []
    checkpointer.save(2, {"model": [torch.ones(3), torch.ones(3)]})
    if name in ("freed", "cut short", "zero"):
        dcp.save(checkpointer, 3, {"model": [torch.ones(3), torch.ones(bad.shape)]})
    checkpointer.wait(2)
    first = torch.zeros(3)
    with pytest.raises(UnsupportedError, match=r"model\.1"):
        checkpointer.restore(2, into={"model": [first, bad]})
    assert not first.any()
    if name in ("freed", "cut short", "zero"):
        with pytest.raises(UnsupportedError, match=r"model\.1"):
            dcp.load(checkpointer, {"model": [first, bad]}, 3)
        assert not first.any()


@needs_torch
def test_a_tensor_within_a_transformation_is_refused_by_name(checkpointer: Checkpointer) -> None:
    for transform in (torch.func.vmap, torch.func.grad):
        with pytest.raises(UnsupportedError, match=r"a\.b: a Tensor has no memory of its own here"):
            transform(lambda one: checkpointer.save(1, {"a": {"b": one}}))(torch.ones(3))


@needs_torch
def test_a_subclass_of_tensors_is_refused_by_name(checkpointer: Checkpointer) -> None:
    with pytest.raises(UnsupportedError, match=r"a\.b: a .*Own would come back as a plain tensor"):
        checkpointer.save(1, {"a": {"b": torch.ones(2).as_subclass(Own)}})
    with pytest.raises(UnsupportedValueError, match=r"g is a torch.*Generator"):
        checkpointer.save(1, {"g": torch.Generator()})


@needs_torch
def test_restoring_in_place_makes_a_backward_pass_fail_that_needs_what_was_there(checkpointer: Checkpointer) -> None:
    weight = torch.ones(3, requires_grad=True)
    checkpointer.save(1, {"w": weight.detach()})
    checkpointer.wait()
    loss = (weight * weight).sum()
    checkpointer.restore(1, into={"w": weight.detach()})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_dtype_that_nothing_here_can_hold_is_an_error(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    checkpointer.save(1, {"w": np.ones(3, ml_dtypes.bfloat16)})
    checkpointer.wait()

    def without(name: str) -> np.dtype[Any]:
        raise UnsupportedError(f"NumPy has no {name}: install PyTorch, or ml_dtypes, to restore this snapshot")

    monkeypatch.setattr(arrays, "dtype_of", without)
    with pytest.raises(UnsupportedError, match="w: NumPy has no bfloat16: install PyTorch"):
        checkpointer.restore()
