"""A state out of a part: read into arrays that are given or made, or seen through views of the node's memory."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._client import Client
from .._closing import Closing
from ..errors import DataCorruptError, RequestInvalidError, UnsupportedError
from . import _arrays, _tree
from ._api import Plan, PlannedPart, Snapshot
from ._copy import Copier
from ._image import Shard
from ._progress import progress_bar
from ._restore import PartSource, Wanted, fetch

if TYPE_CHECKING:
    from ._checkpointer import Checkpointer


class Restored(NamedTuple):
    """A state that was brought back: in the arrays that were given, where they were, else in fresh ones."""

    step: int
    state: Any
    metadata: Mapping[str, str]


def restore_state(
    owner: Checkpointer, plan: Plan, planned: PlannedPart, into: Any, *, strict: bool | Collection[str], progress: bool
) -> Restored:
    """Raises as `Checkpointer.restore`."""
    tree = read_tree(owner.client, planned, owner.copier, verify=owner.verify)
    wanted = _tree.paths(tree)
    given: dict[_tree.Path, Any] = {}
    if into is not None:
        into_tree, arrays = _tree.flatten(into, _arrays.kind_of, _arrays.identity)
        given = {path: arrays[leaf.name] for path, leaf in _tree.paths(into_tree).items()}
        _assert_fits(planned, wanted, given, strict=strict)
    made: dict[_tree.Path, Any] = {}
    fresh: dict[str, Any] = {}
    # Arrays that share their memory are read once: where they were not one when saved, the last of them.
    sources: dict[Any, tuple[Any, _tree.Leaf]] = {}
    for path, leaf in wanted.items():
        target = given.get(path)
        if target is None:
            shard = planned.by_name[leaf.name]
            if leaf.name not in fresh:
                fresh[leaf.name] = _arrays.empty(leaf.kind, _dtype(shard), shard.shape or ())
            target = fresh[leaf.name]
        made[path] = target
        sources[_arrays.identity(target)] = (target, leaf)
    later: dict[Any, tuple[Any, _tree.Leaf, np.ndarray[Any, Any]]] = {}
    pieces: list[Wanted] = []
    for key, (target, leaf) in sources.items():
        shard = planned.by_name[leaf.name]
        address = _arrays.address_of(target) if _is_writable(target) else None
        if address is None:
            host = np.empty(shard.length, np.uint8)
            later[key] = (target, leaf, host)
            address = _arrays.address(host)
        pieces.append(Wanted(shard.offset, shard.length, address))
    with progress_bar(progress, plan.snapshot.step, sum(piece.length for piece in pieces)) as tick:
        fetch(owner.client, planned, pieces, owner.copier, slots=owner.slots, verify=owner.verify, progress=tick)
    anew: dict[Any, Any] = {}
    while later:  # what was read goes as arrays are made of it, so that the state is not in memory once more
        key, (target, leaf, host) = later.popitem()
        anew[key] = _filled(target, host, planned.by_name[leaf.name], leaf.kind)

    def found(path: _tree.Path, leaf: _tree.Leaf) -> Any:
        array = made[path]
        return _as_kind(anew.get(_arrays.identity(array), array), leaf.kind)

    return Restored(plan.snapshot.step, _tree.unflatten(tree, found), plan.snapshot.metadata)


class OpenSnapshot(Closing):
    """A snapshot whose arrays are read-only views of the node's memory. Use as a context manager."""

    def __init__(self, snapshot: Snapshot, source: PartSource) -> None:
        self.snapshot = snapshot
        self.step = snapshot.step
        self._source = source
        whole = np.frombuffer(source.map(), np.uint8)
        part = source.part
        shard = part.by_name[_tree.TREE]
        tree = _tree.decode(whole[shard.offset : shard.offset + shard.length].tobytes())

        wraps = {kind: _arrays.wrapper(kind, whole) for kind in {leaf.kind for leaf in _tree.leaves(tree)}}

        def view(_: _tree.Path, leaf: _tree.Leaf) -> Any:
            one = part.by_name[leaf.name]
            return wraps[leaf.kind](one.offset, one.length, _dtype(one), one.shape or ())

        self.state = _tree.unflatten(tree, view)

    def close(self) -> None:
        """Drops the state of this object; arrays that were taken from it stay."""
        self.state = None
        self._source.close()


def read_tree(client: Client, part: PlannedPart, copier: Copier, *, verify: bool) -> Any:
    """
    Raises:
        UnsupportedError: the part was not saved by a `Checkpointer`.
    """
    shard = part.by_name.get(_tree.TREE)
    if shard is None:
        raise UnsupportedError(f"part {part.name} holds no state of a Checkpointer: load it by what saved it")
    text = np.empty(shard.length, np.uint8)
    # While there are no digests, the whole image is compared when the arrays are read.
    checks = verify and part.digests is not None
    fetch(client, part, [Wanted(shard.offset, shard.length, _arrays.address(text))], copier, verify=checks)
    return _tree.decode(text.tobytes())


def _dtype(shard: Shard) -> str:
    if shard.dtype is None:
        raise DataCorruptError(f"shard {shard.name} is no tensor")
    return shard.dtype


def _is_writable(array: Any) -> bool:
    return not isinstance(array, np.ndarray) or bool(array.flags.writeable)


def _filled(made: Any, host: np.ndarray[Any, Any], shard: Shard, kind: str) -> Any:
    try:
        _arrays.fill(made, host)
    except UnsupportedError:
        return _arrays.wrap(kind, host, _dtype(shard), shard.shape or ())
    return made


def _as_kind(array: Any, kind: str) -> Any:
    """A NumPy array that stands for one of JAX becomes that."""
    if kind == _arrays.JAX and isinstance(array, np.ndarray) and "jax" in sys.modules:
        import jax.numpy as jnp

        return jnp.asarray(array)
    return array


def _assert_fits(
    part: PlannedPart,
    wanted: Mapping[_tree.Path, _tree.Leaf],
    given: Mapping[_tree.Path, Any],
    *,
    strict: bool | Collection[str],
) -> None:
    def must(path: _tree.Path) -> bool:
        return strict if isinstance(strict, bool) else bool(path) and path[0] in strict

    name = _tree.name_of
    problems = [f"{name(path)} is in the snapshot only" for path in wanted if must(path) and path not in given]
    problems += [f"{name(path)} is not in the snapshot" for path in given if must(path) and path not in wanted]
    for path, array in given.items():
        if path in wanted:
            shard, spec = part.by_name[wanted[path].name], _arrays.spec_of(array)
            if (shard.dtype, shard.shape) != (spec.dtype, spec.shape):
                problems.append(
                    f"{name(path)} is {spec.dtype} {list(spec.shape)} here, "
                    f"{shard.dtype} {list(shard.shape or ())} in the snapshot"
                )
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise RequestInvalidError(f"the state does not fit the snapshot: {shown}", {"problems": problems})
