"""`ebb.jax`, and Orbax by the directory contract."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp

from ebb.checkpoint import Checkpointer
from ebb.errors import RequestInvalidError, UnsupportedError
from ebb.jax import restore, save


class State(NamedTuple):
    params: dict[str, Any]
    moments: tuple[Any, ...]
    step: int


@jax.tree_util.register_pytree_node_class
class Node:
    def __init__(self, weight: Any, name: str) -> None:
        self.weight = weight
        self.name = name

    def tree_flatten(self) -> Any:
        return (self.weight,), self.name

    @classmethod
    def tree_unflatten(cls, name: str, children: Any) -> Node:
        return cls(children[0], name)


def some_tree(seed: int) -> Any:
    key = jax.random.key(seed)
    return State(
        {
            "w": jax.random.normal(key, (30, 20)),
            "half": jax.random.normal(key, (7,), jnp.bfloat16),
            "f8": jnp.ones(3, jnp.float8_e4m3fn),
            "node": Node(jnp.arange(5) + seed, "n"),
            "key": key,
        },
        (np.full(4, seed), jnp.zeros((0, 2))),
        seed,
    )


def test_a_tree_comes_back_as_it_was(checkpointer: Checkpointer) -> None:
    tree = some_tree(3)
    save(checkpointer, 1, tree, metadata={"a": "b"})
    checkpointer.wait()
    found = restore(checkpointer, into=some_tree(0))
    assert found.step == 1
    assert found.metadata == {"a": "b"}
    state = found.state
    assert isinstance(state, State)
    assert isinstance(state.params["node"], Node)
    assert state.params["node"].name == "n"
    assert state.step == 3
    assert isinstance(state.moments[0], np.ndarray)
    for one, other in zip(jax.tree_util.tree_leaves(state), jax.tree_util.tree_leaves(tree)):
        if hasattr(one, "dtype"):
            assert one.dtype == other.dtype
        if isinstance(one, jax.Array) and jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_weak_types_and_identity_come_back_and_what_cannot_is_refused_by_path(checkpointer: Checkpointer) -> None:
    one = jnp.ones(3)
    tree = {"weak": jnp.asarray(0.5), "many": jnp.broadcast_to(jnp.asarray(2), (3,)), "strong": one, "same": one}
    save(checkpointer, 1, tree)
    checkpointer.save(2, tree)
    checkpointer.wait(2)
    for found in (restore(checkpointer, 1, into=tree).state, checkpointer.restore(2).state):
        for name, array in tree.items():
            assert (found[name].weak_type, found[name].dtype) == (array.weak_type, array.dtype), name
            assert np.array_equal(found[name], array), name
    assert found["strong"] is found["same"]
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(UnsupportedError, match=r"a\.gone: .*deleted"):
        checkpointer.save(3, {"a": {"gone": gone}})
    with pytest.raises(UnsupportedError, match=r"a\.key: .*ebb\.jax"):
        checkpointer.save(3, {"a": {"key": jax.random.key(1)}})
    with pytest.raises(UnsupportedError, match=r"a: .*traced"):
        jax.jit(lambda x: checkpointer.save(3, {"a": x}))(one)


def test_what_was_saved_with_64_bits_is_not_halved(checkpointer: Checkpointer) -> None:
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        checkpointer.save(1, {"w": jnp.ones(3, jnp.float64)})
    checkpointer.wait()
    with pytest.raises(UnsupportedError, match="set jax_enable_x64"):
        checkpointer.restore()


def test_shapes_are_enough_to_restore_into(checkpointer: Checkpointer) -> None:
    tree = {"w": jnp.arange(6.0).reshape(2, 3)}
    save(checkpointer, 1, tree)
    checkpointer.wait()
    found = restore(checkpointer, into=jax.eval_shape(lambda: tree)).state
    assert isinstance(found["w"], jax.Array)
    assert np.array_equal(found["w"], tree["w"])
    assert list(restore(checkpointer).state) == ["['w']"]


def test_all_differences_are_named(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1, {"w": jnp.ones(3), "b": jnp.ones(2), "gone": 1})
    checkpointer.wait()
    with pytest.raises(RequestInvalidError) as caught:
        restore(checkpointer, into={"w": jnp.ones(4), "b": jnp.ones(2, jnp.int32), "new": 1})
    assert sorted(caught.value.details["problems"]) == [
        "['b'] is int32 [2] here, float32 [2] in the snapshot",
        "['gone'] is in the snapshot only",
        "['new'] is not in the snapshot",
        "['w'] is float32 [4] here, float32 [3] in the snapshot",
    ]


def test_shards_on_other_hosts_are_refused(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(jnp.ones(1))
    monkeypatch.setattr(kind, "is_fully_addressable", False)
    monkeypatch.setattr(kind, "is_fully_replicated", False)
    with pytest.raises(UnsupportedError, match=r"\['w'\] has shards on devices of other hosts"):
        save(checkpointer, 1, {"w": jnp.ones(3)})


def test_another_snapshot_is_refused(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, {"w": np.ones(3)})
    checkpointer.wait()
    with pytest.raises(UnsupportedError, match=r"not saved by ebb\.jax"):
        restore(checkpointer)


@pytest.mark.filterwarnings("ignore")
def test_orbax_writes_into_a_directory(checkpointer: Checkpointer, tmp_path: Path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
    tree = {"w": jnp.arange(1000.0), "step": 7}
    with checkpointer.directory(1) as path, orbax.StandardCheckpointer() as orbax_checkpointer:
        orbax_checkpointer.save(path / "state", tree)
        orbax_checkpointer.wait_until_finished()
    checkpointer.restore_directory(1, tmp_path / "back")
    with orbax.StandardCheckpointer() as orbax_checkpointer:
        found = orbax_checkpointer.restore(tmp_path / "back/state", tree)
    assert np.array_equal(found["w"], tree["w"])
    assert found["step"] == 7
