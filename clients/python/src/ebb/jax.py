"""Checkpoints of JAX's pytrees.

```python
from ebb.jax import restore, save

save(checkpointer, step, state)
state = restore(checkpointer, into=state).state
```

A snapshot has the leaves of a tree, by their key paths. What the tree is made of, with its own nodes (Flax, Equinox,
optax), is taken from ``into``, a tree like the one that was saved; so no code of a checkpoint is run. Leaves of `into`
may be arrays or ``jax.ShapeDtypeStruct``; where they say a sharding, the restored leaf has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .checkpoint import Checkpointer, Restored, Save
from .checkpoint._api import Step
from .errors import RequestInvalidError, UnsupportedError

__all__ = ["restore", "save"]

_LEAVES = "leaves"
_KEYS = "prng"


def save(
    checkpointer: Checkpointer,
    step: int,
    tree: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> Save:
    """Takes a snapshot. Returns when all of it is copied: buffers may be donated.

    Raises:
        UnsupportedError: an array has shards on other hosts, or a leaf is neither array nor plain value.
        EbbError: as `Checkpointer.save`.
    """
    leaves: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for name, leaf in _named(tree).items():
        if not isinstance(leaf, jax.Array):
            leaves[name] = leaf
            continue
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            raise UnsupportedError(
                f"{name} has shards on devices of other hosts: gather it first "
                "(jax.experimental.multihost_utils.process_allgather), or save what is addressable on each host"
            )
        if _is_key(leaf.dtype):
            keys[name] = str(jax.random.key_impl(leaf))
            leaves[name] = jax.random.key_data(leaf)
        else:
            leaves[name] = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
    return checkpointer.save(step, {_LEAVES: leaves, _KEYS: keys}, metadata=metadata, overwrite=overwrite)


def restore(
    checkpointer: Checkpointer,
    step: Step = "latest",
    into: Any = None,
    *,
    part: str | None = None,
    allow_partial: bool = False,
) -> Restored:
    """Brings a snapshot back.

    Args:
        into: a tree like the one that was saved. Without it, the leaves come in a dict, by their key paths.
        part, allow_partial: as `Checkpointer.restore`.

    Raises:
        RequestInvalidError: `into` has other leaves, shapes or dtypes; all differences are named.
        UnsupportedError: it was not saved by this module.
        NotFoundError, DataCorruptError, DataLostError: as `Checkpointer.restore`.
    """
    found = checkpointer.restore(step, part=part, allow_partial=allow_partial)
    state = found.state
    if not isinstance(state, dict) or set(state) != {_LEAVES, _KEYS}:
        raise UnsupportedError(f"step {found.step} of run {checkpointer.run} was not saved by ebb.jax")
    leaves = dict(state[_LEAVES])
    for name, kind in state[_KEYS].items():
        leaves[name] = jax.random.wrap_key_data(leaves[name], impl=kind)
    if into is None:
        return Restored(found.step, leaves, found.metadata)
    wanted = _named(into)
    _assert_same(leaves, wanted)
    placed = [_placed(leaves[name], like) for name, like in wanted.items()]
    return Restored(
        found.step, jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(into), placed), found.metadata
    )


def _named(tree: Any) -> dict[str, Any]:
    """The leaves, by their key paths, in the order of the tree."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    named: dict[str, Any] = {}
    for path, leaf in pairs:
        name = jax.tree_util.keystr(path)
        if name in named:
            raise UnsupportedError(f"two leaves of the tree have the key path {name}")
        named[name] = leaf
    return named


def _is_key(dtype: Any) -> bool:
    dtypes: Any = jax.dtypes
    return bool(dtypes.issubdtype(dtype, dtypes.prng_key))


def _placed(leaf: Any, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    if isinstance(like, (jax.Array, jax.ShapeDtypeStruct)):
        return jax.device_put(leaf, sharding)
    return np.asarray(leaf) if isinstance(like, np.ndarray) else leaf


def _assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    problems = [f"{name} is in the snapshot only" for name in found if name not in wanted]
    problems += [f"{name} is not in the snapshot" for name in wanted if name not in found]
    for name, like in wanted.items():
        if name in found and hasattr(like, "dtype"):
            here = (str(like.dtype), tuple(like.shape))
            leaf = found[name]
            there = (str(leaf.dtype), tuple(leaf.shape)) if hasattr(leaf, "dtype") else (type(leaf).__name__, ())
            if here != there:
                problems.append(
                    f"{name} is {here[0]} {list(here[1])} here, {there[0]} {list(there[1])} in the snapshot"
                )
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise RequestInvalidError(f"the tree does not fit the snapshot: {shown}", {"problems": problems})
