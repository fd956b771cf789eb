"""Lightning's checkpoints in a run: ``Trainer(plugins=[EbbCheckpointIO(checkpointer)])``.

A checkpoint is a snapshot of the trainer's ``global_step``. Lightning knows it by a path, where a small file says which
snapshot it is: by that, Lightning finds the last one (``ckpt_path="last"``), links it, and counts versions.
Where the files are gone (another host), ``trainer.fit(model, ckpt_path=io.latest())`` goes on.

I1  A path belongs to what was saved under it last. The order is that of a count that is kept with the snapshots, over
    all lives of the job.
I2  One snapshot has several paths only if all of them were given to the same content. Other content of one step
    (weights without the optimizer's state, or weights that were changed in between) is another snapshot: in the run
    ``NAME.weights``, and for a second one of its kind in ``NAME.2``, ``NAME.weights.2`` …
I3  A snapshot goes with the last of its paths: when that is removed, or given to another one that is committed.
I4  The file of a path is there only when its snapshot is committed.
I5  Lightning saves in a signal handler when SLURM takes a job away. Where that interrupted a save on its thread, its
    own is made when that one has ended, before that returns: the state is what it was.

Jobs have the Trainer of `lightning` or that of `pytorch_lightning`: the same code twice, and each asks for a plugin of
its own `CheckpointIO`. `EbbCheckpointIO` is one of both, where both are installed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

import torch

if TYPE_CHECKING:
    from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
else:
    try:
        from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
    except ImportError:
        from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from ..checkpoint import Checkpointer, Snapshot
from ..errors import NotFoundError, RequestInvalidError

__all__ = ["EbbCheckpointIO"]

_log = logging.getLogger("ebb.checkpoint")
_PATHS = "lightning-paths"
_COUNT = "lightning-saves"
_WEIGHTS = ".weights"
#: Contents of one step, of one kind.
_HOMES_MAX = 16
#: What the file at a path begins with.
_MARK = "A checkpoint in Ebb: "
_Path = Union[str, "os.PathLike[str]"]


@dataclass
class _Kept:
    """A snapshot, by its run and step. `content`: None where another life of the job saved it."""

    count: int
    paths: set[str] = field(default_factory=set)
    content: Hashable = None


_Place = tuple[str, int]


class EbbCheckpointIO(CheckpointIO):
    """
    Args:
        checkpointer: of one rank, since Lightning saves on rank 0: ``Checkpointer(…, rank=0, world_size=1)``.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        super().__init__()
        if checkpointer.world_size != 1:
            raise RequestInvalidError("Lightning saves on rank 0: give Checkpointer(…, rank=0, world_size=1)")
        self._lock = threading.RLock()
        #: The names of all runs that snapshots of this job are in.
        self._owners: dict[str, Checkpointer] = {"": checkpointer}
        self._main = checkpointer
        self._kept: dict[_Place, _Kept] | None = None
        self._count = 0
        #: Saves of a signal handler that interrupted another one: by whom, of what.
        self._postponed: deque[tuple[int, dict[str, Any], _Path]] = deque()
        #: Saves whose snapshots, files and removals are not done.
        self._under_way: list[threading.Event] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any = None) -> None:
        """Returns when the state may change; what goes wrong later is raised by the next save, or by `teardown`."""
        if storage_options is not None:
            raise TypeError("EbbCheckpointIO takes no storage_options")
        here = threading.get_ident()
        if self._is_saving():
            self._postponed.append((here, checkpoint, path))
            return
        try:
            self._save(checkpoint, path)
        finally:
            while (one := next((one for one in list(self._postponed) if one[0] == here), None)) is not None:
                self._postponed.remove(one)
                self._save(*one[1:])

    def _is_saving(self) -> bool:
        """Whether this thread is in `save_checkpoint`, and was interrupted there (I5)."""
        code = EbbCheckpointIO.save_checkpoint.__code__
        frame = sys._getframe(1).f_back
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        return frame is not None

    def _save(self, checkpoint: dict[str, Any], path: _Path) -> None:
        name = _name_of(path)
        if _is_local(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)  # Lightning links to what is there
        with self._lock:
            kept = self._load()
            content = _content_of(checkpoint)
            # Fabric's checkpoints say no step: each is one of its own.
            is_fabric = "global_step" not in checkpoint
            step = self._count + 1 if is_fabric else int(checkpoint["global_step"])
            place = self._place_for(name, step, content, is_full=is_fabric or "optimizer_states" in checkpoint)
            there = kept.get(place)
            is_same = there is not None and there.content == content
            paths = {name} | (there.paths if is_same and there is not None else set())
            count = self._count + 1
            metadata = {_PATHS: json.dumps(sorted(paths)), _COUNT: str(count)}
            self._assert_policy(place[0])
            save = self._owner(place[0]).save(step, dict(checkpoint), metadata=metadata)
            if save.skipped:
                return
            self._count = count
            kept[place] = _Kept(count, paths, content)
            left = self._take_from_others(name, place)

        done = threading.Event()
        self._under_way.append(done)

        def ended(is_committed: bool) -> None:
            # Without the lock: who has it may wait for the slot of this save.
            try:
                if not is_committed:
                    self._kept = None
                    return
                for run, old in left:
                    with contextlib.suppress(NotFoundError):
                        self._owner(run).remove(old)
                _write_mark(name, self._owner(place[0]).run, step)
            except Exception:
                _log.exception("what %s replaces could not be removed", name)
            finally:
                done.set()

        save.then(ended)

    def load_checkpoint(
        self,
        path: _Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Tensors come to the CPU, from where Lightning takes them; no code is run, whatever ``weights_only`` says.

        Raises:
            NotFoundError: nothing was saved under this path. It is a `FileNotFoundError`.
        """
        self._settle()
        with self._lock:
            place = self._find(path)
            state = self._owner(place[0]).restore(place[1]).state
        if not isinstance(state, dict):
            raise RequestInvalidError(f"{os.fspath(path)} is no checkpoint of Lightning")
        return state

    def remove_checkpoint(self, path: _Path) -> None:
        """The snapshot goes with the last of its paths."""
        self._settle()
        if os.path.islink(path):  # what it points to has a path of its own
            os.unlink(path)
            return
        with self._lock:
            try:
                place = self._find(path)
            except NotFoundError:
                return
            kept = self._load()
            name = next(one for one in _names(path) if one in kept[place].paths)
            kept[place].paths.discard(name)
            if not kept[place].paths:
                del kept[place]
                with contextlib.suppress(NotFoundError):
                    self._owner(place[0]).remove(place[1])
            _remove_mark(os.fspath(path))

    def latest(self) -> str | None:
        """A path of the newest snapshot that training can go on from: complete, not marked bad, with the states of
        optimizers if there is one."""
        self._settle()
        with self._lock:
            self._kept = None
            kept = self._load()
            for is_full in (True, False):
                places = sorted(
                    (one for one in kept if (_WEIGHTS not in one[0]) == is_full), key=lambda one: -kept[one].count
                )
                good = {
                    (run, one.step) for run, owner in self._owners.items() for one in owner.list() if one.bad is None
                }
                for place in places:
                    if place in good and kept[place].paths:
                        return min(kept[place].paths)
        return None

    def teardown(self) -> None:
        self._settle()
        with self._lock:
            for run in [run for run in self._owners if run]:
                self._owners.pop(run).close()
            self._kept = None

    # Inside.

    def _settle(self) -> None:
        """What is removed next may be all there is, until the newest is committed."""
        under_way, self._under_way = self._under_way, []
        for one in under_way:
            one.wait()
        for owner in list(self._owners.values()):
            owner.flush()

    def _load(self) -> dict[_Place, _Kept]:
        """What the node has, from all lives of the job (I1)."""
        if self._kept is not None:
            return self._kept
        kept: dict[_Place, _Kept] = {}
        owned: dict[str, _Place] = {}
        for kind in ("", _WEIGHTS):
            for n in range(1, _HOMES_MAX + 1):
                run = _home(kind, n)
                snapshots = self._owner(run).list()
                if not snapshots and n > 1:
                    break
                for snapshot in snapshots:
                    kept[run, snapshot.step] = _Kept(_count_of(snapshot), set(_paths_of(snapshot)))
        for place in sorted(kept, key=lambda one: kept[one].count):
            for path in kept[place].paths:
                if path in owned:
                    kept[owned[path]].paths.discard(path)
                owned[path] = place
        self._count = max((one.count for one in kept.values()), default=0)
        self._kept = kept
        return kept

    def _owner(self, run: str) -> Checkpointer:
        """The checkpointer of the job, or of a run beside its own."""
        found = self._owners.get(run)
        if found is None:
            main = self._main
            found = Checkpointer(
                main.client,
                main.run + run,
                bucket=main.api.bucket,
                rank=0,
                world_size=1,
                session=main.session,
                threads=main.copier.threads,
                verify=main.verify,
                direct=main.direct,
            )
            self._owners[run] = found
        return found

    def _assert_policy(self, run: str) -> None:
        """A run beside the job's own keeps what that keeps."""
        if run and not any(one[0] == run for one in self._load()):
            with contextlib.suppress(NotFoundError):
                self._owner(run).api.put_policy(self._main.api.policy())

    def _place_for(self, name: str, step: int, content: Hashable, *, is_full: bool) -> _Place:
        """Where this content of this step goes: over what is nobody else's, else beside it (I2)."""
        kept = self._load()
        for n in range(1, _HOMES_MAX + 1):
            place = (_home("" if is_full else _WEIGHTS, n), step)
            there = kept.get(place)
            if there is None or there.content == content or there.paths <= {name}:
                return place
        raise RequestInvalidError(f"step {step} has {_HOMES_MAX} checkpoints of other content: remove some")

    def _take_from_others(self, name: str, place: _Place) -> list[_Place]:
        """The path is this snapshot's now (I1); those that have none any more (I3)."""
        kept = self._load()
        left: list[_Place] = []
        for other, one in list(kept.items()):
            if other != place and name in one.paths:
                one.paths.discard(name)
                if not one.paths:
                    del kept[other]
                    left.append(other)
        return left

    def _find(self, path: _Path) -> _Place:
        kept = self._load()
        for name in _names(path):
            for place, one in kept.items():
                if name in one.paths:
                    return place
        raise NotFoundError(f"run {self._main.run} has no snapshot for {os.fspath(path)}")


with contextlib.suppress(ImportError):
    from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO as _OtherCheckpointIO

    _OtherCheckpointIO.register(EbbCheckpointIO)


def _home(kind: str, n: int) -> str:
    """What is put behind the run's name."""
    return kind if n == 1 else f"{kind}.{n}"


def _paths_of(snapshot: Snapshot) -> list[str]:
    return [str(one) for one in json.loads(snapshot.metadata.get(_PATHS, "[]"))]


def _count_of(snapshot: Snapshot) -> int:
    return int(snapshot.metadata.get(_COUNT, "0"))


def _is_local(path: str) -> bool:
    return "://" not in path


def _name_of(path: _Path) -> str:
    text = os.fspath(path)
    return os.path.abspath(text) if _is_local(text) else text


def _names(path: _Path) -> list[str]:
    """Under which a path may be known: itself, what a link points to, and what its file says (the directory moved)."""
    text = os.fspath(path)
    if not _is_local(text):
        return [text]
    names = [] if os.path.islink(text) else [_name_of(path), text]
    names.append(os.path.realpath(text))
    marked = _read_mark(text)
    return list(dict.fromkeys(names if marked is None else [*names, marked]))


def _content_of(checkpoint: dict[str, Any]) -> Hashable:
    """The same for two checkpoints that hold the same tensors, unchanged in between, and the same values. What
    callbacks remember is left out: it names the paths."""
    found: list[Hashable] = []

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            version = None if value.is_inference() else value._version
            found.append((value.data_ptr(), version, value.dtype, tuple(value.shape), value.stride()))
        elif isinstance(value, dict):
            for key, one in value.items():
                found.append(str(key))
                walk(one)
        elif isinstance(value, (list, tuple)):
            found.append(len(value))
            for one in value:
                walk(one)
        else:
            found.append(repr(value))

    walk({key: one for key, one in checkpoint.items() if key != "callbacks"})
    return hash(tuple(found))


def _write_mark(name: str, run: str, step: int) -> None:
    """Another file that is there is replaced, as Lightning does; a directory is left."""
    if not _is_local(name):
        return
    beside = f"{name}.{os.getpid()}.ebb"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(_MARK + json.dumps({"run": run, "step": step, "path": name}) + "\n")
        os.replace(beside, name)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        _log.warning('%s is saved, but there is no file for it, so ckpt_path="last" does not find it: %s', name, error)


def _read_mark(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            text = file.read(64 * 1024)
        if not text.startswith(_MARK.encode()):
            return None
        return str(json.loads(text[len(_MARK) :])["path"])
    except (OSError, ValueError, KeyError):
        return None


def _remove_mark(path: str) -> None:
    """The file that stands for a snapshot; nothing else."""
    if _is_local(path) and _read_mark(path) is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)
