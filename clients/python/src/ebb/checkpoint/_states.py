"""A state out of a part: read into arrays that are given or made, or seen through views of the node's memory."""

from __future__ import annotations

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
from ._sharing import view_of
from ._tree_text import decode

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
    wanted = _tree.paths(tree.root)
    given: dict[_tree.Path, Any] = {}
    if into is not None:
        flat = _tree.flatten(into, _arrays.describe)
        given = {path: flat.arrays[leaf.name] for path, leaf in _tree.paths(flat.root).items()}
        _assert_fits(planned, tree, wanted, given, strict=strict)
    memories = _Memories(planned, tree)
    # Arrays that share their memory are read once: where they were not one when saved, the last of them.
    targets: dict[Any, tuple[Any, _tree.Leaf]] = {}
    keys: dict[_tree.Path, Any] = {}
    for path, leaf in wanted.items():
        target = given.get(path)
        if target is None:
            memories.add(leaf)
        else:
            keys[path] = _arrays.identity(target)
            targets[keys[path]] = (target, leaf)
    pieces = memories.pieces()
    beside: dict[Any, tuple[Any, _tree.Leaf, np.ndarray[Any, Any]]] = {}
    in_place: list[Any] = []
    for key, (target, leaf) in targets.items():
        shard = planned.by_name[tree.shard_of(leaf)]
        address = _arrays.address_of(target) if _is_direct(target, leaf, tree) else None
        if address is None:
            host = np.empty(shard.length, np.uint8)
            beside[key] = (target, leaf, host)
            address = _arrays.address(host)
        else:
            in_place.append(target)
        pieces.append(Wanted(shard.offset, shard.length, address))
    try:
        with progress_bar(progress, plan.snapshot.step, sum(piece.length for piece in pieces)) as tick:
            fetch(owner.client, planned, pieces, owner.copier, slots=owner.slots, verify=owner.verify, progress=tick)
    finally:
        _arrays.mark_written(in_place)
    anew: dict[Any, Any] = {}
    while beside:  # what was read goes as arrays are made of it, so that the state is not in memory once more
        key, (target, leaf, host) = beside.popitem()
        source = _seen(host, leaf, tree, planned)
        try:
            _arrays.fill(target, source)
        except UnsupportedError:
            anew[key] = _arrays.dressed(source, leaf.kind, _form_of(leaf, tree))

    def found(path: _tree.Path, leaf: _tree.Leaf) -> Any:
        target = given.get(path)
        return memories.get(leaf) if target is None else anew.get(keys[path], target)

    return Restored(plan.snapshot.step, _tree.unflatten(tree.root, found), plan.snapshot.metadata)


class _Memories:
    """Fresh memory for arrays that are made: once for each shard, and one array for all places that had one."""

    def __init__(self, planned: PlannedPart, tree: _tree.Tree) -> None:
        self._planned = planned
        self._tree = tree
        self._of: dict[str, Any] = {}
        self._made: dict[_tree.Leaf, Any] = {}
        self._in_order: dict[str, Any] = {}

    def add(self, leaf: _tree.Leaf) -> None:
        name = self._tree.shard_of(leaf)
        if name in self._of:
            return
        shard = self._planned.by_name[name]
        if leaf.name in self._tree.views:
            self._of[name] = np.empty(shard.length, np.uint8)
            return
        try:
            self._of[name] = _arrays.empty(leaf.kind, _dtype(shard), shard.shape or ())
        except UnsupportedError as error:
            raise UnsupportedError(f"{leaf.name}: {error.message}") from error

    def pieces(self) -> list[Wanted]:
        shards = self._planned.by_name
        return [
            Wanted(shards[name].offset, shards[name].length, _arrays.address_of(memory) or 0)
            for name, memory in self._of.items()
        ]

    def get(self, leaf: _tree.Leaf) -> Any:
        if leaf not in self._made:
            memory = self._of[self._tree.shard_of(leaf)]
            view = self._tree.views.get(leaf.name)
            array = memory if view is None else view_of(memory, view, leaf.kind)
            form = _form_of(leaf, self._tree)
            if leaf.name in self._in_order:  # a parameter and its data: laid out once, so that they share it
                array = self._in_order[leaf.name]
                form = tuple((name, value) for name, value in form if name != "order")
            self._made[leaf] = _arrays.dressed(array, leaf.kind, form)
            if "order" in dict(form):
                self._in_order[leaf.name] = self._made[leaf]
        return self._made[leaf]


def _seen(memory: np.ndarray[Any, Any], leaf: _tree.Leaf, tree: _tree.Tree, planned: PlannedPart) -> Any:
    """An array over the bytes of its shard, before it is dressed; of dates, with their dtype."""
    view = tree.views.get(leaf.name)
    if view is not None:
        return view_of(memory, view, leaf.kind)
    shard = planned.by_name[leaf.name]
    array = _arrays.wrap(leaf.kind, memory, _dtype(shard), shard.shape or ())
    counted = _counted_dtype(leaf)
    return array if counted is None else array.view(counted.newbyteorder("="))


def _form_of(leaf: _tree.Leaf, tree: _tree.Tree) -> _tree.Form:
    """A view says dtype and order itself."""
    if leaf.name not in tree.views:
        return leaf.form
    return tuple((name, value) for name, value in leaf.form if name not in ("dtype", "order"))


def _counted_dtype(leaf: _tree.Leaf) -> np.dtype[Any] | None:
    dtype = np.dtype(dict(leaf.form).get("dtype", "u1"))
    return dtype if dtype.kind in "mM" else None


def _is_direct(target: Any, leaf: _tree.Leaf, tree: _tree.Tree) -> bool:
    """Whether the bytes of the shard are those of the array."""
    return leaf.name not in tree.views and (not isinstance(target, np.ndarray) or bool(target.flags.writeable))


class OpenSnapshot(Closing):
    """A snapshot whose arrays are read-only views of the node's memory. Use as a context manager."""

    def __init__(self, snapshot: Snapshot, source: PartSource) -> None:
        self.snapshot = snapshot
        self.step = snapshot.step
        self._source = source
        whole = np.frombuffer(source.map(), np.uint8)
        part = source.part
        shard = part.by_name[_tree.TREE]
        tree = decode(whole[shard.offset : shard.offset + shard.length].tobytes())

        made: dict[_tree.Leaf, Any] = {}
        kinds = {leaf.kind for leaf in _tree.leaves(tree.root)}
        wraps = {kind: _arrays.wrapper(kind, whole) for kind in kinds}

        def view(_: _tree.Path, leaf: _tree.Leaf) -> Any:
            if leaf not in made:
                one = part.by_name[tree.shard_of(leaf)]
                shared = tree.views.get(leaf.name)
                if shared is None:
                    array = wraps[leaf.kind](one.offset, one.length, _dtype(one), one.shape or ())
                else:
                    array = view_of(whole[one.offset : one.offset + one.length], shared, leaf.kind)
                made[leaf] = _arrays.dressed(array, leaf.kind, _form_of(leaf, tree), in_place=True)
            return made[leaf]

        self.state = _tree.unflatten(tree.root, view)

    def close(self) -> None:
        """Drops the state of this object; arrays that were taken from it stay."""
        self.state = None
        self._source.close()


def read_tree(client: Client, part: PlannedPart, copier: Copier, *, verify: bool) -> _tree.Tree:
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
    return decode(text.tobytes())


def _dtype(shard: Shard) -> str:
    if shard.dtype is None:
        raise DataCorruptError(f"shard {shard.name} is no tensor")
    return shard.dtype


def _assert_fits(
    part: PlannedPart,
    tree: _tree.Tree,
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
            leaf = wanted[path]
            here = (_arrays.dtype_label(array), tuple(array.shape))
            there = _label_of(leaf, tree, part)
            if here != there:
                problems.append(
                    f"{name(path)} is {here[0]} {list(here[1])} here, {there[0]} {list(there[1])} in the snapshot"
                )
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise RequestInvalidError(f"the state does not fit the snapshot: {shown}", {"problems": problems})


def _label_of(leaf: _tree.Leaf, tree: _tree.Tree, part: PlannedPart) -> tuple[str, tuple[int, ...]]:
    view = tree.views.get(leaf.name)
    if view is not None:
        is_named = "<" not in view.dtype and ">" not in view.dtype and "|" not in view.dtype
        return view.dtype if is_named else np.dtype(view.dtype).name, view.shape
    shard, counted = part.by_name[leaf.name], _counted_dtype(leaf)
    return _dtype(shard) if counted is None else counted.name, shard.shape or ()
