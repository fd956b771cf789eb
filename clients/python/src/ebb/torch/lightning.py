"""Lightning's checkpoints in a run: ``Trainer(plugins=[EbbCheckpointIO(checkpointer)])``.

A checkpoint is a snapshot of the trainer's ``global_step``. Lightning knows it by a path, where there is no file: all
paths that one step is saved under are kept with the snapshot. To go on: ``trainer.fit(model, ckpt_path=io.latest())``.

Jobs have the Trainer of `lightning` or that of `pytorch_lightning`: the same code twice, and each asks for a plugin of
its own `CheckpointIO`. `EbbCheckpointIO` is one of both, where both are installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any, Union

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

_PATHS = "lightning-paths"
_Path = Union[str, "os.PathLike[str]"]


class EbbCheckpointIO(CheckpointIO):
    """
    Args:
        checkpointer: of one rank, since Lightning saves on rank 0: ``Checkpointer(…, rank=0, world_size=1)``.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        super().__init__()
        if checkpointer.world_size != 1:
            raise RequestInvalidError("Lightning saves on rank 0: give Checkpointer(…, rank=0, world_size=1)")
        self._checkpointer = checkpointer
        self._lock = threading.Lock()
        #: Of steps that were saved here.
        self._paths: dict[int, list[str]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any = None) -> None:
        """Returns when the state may change; what goes wrong later is raised by the next save, or by `teardown`."""
        if storage_options is not None:
            raise TypeError("EbbCheckpointIO takes no storage_options")
        step = int(checkpoint.get("global_step", 0))
        with self._lock:
            paths = self._paths.setdefault(step, [])
            if os.fspath(path) not in paths:
                paths.append(os.fspath(path))
            metadata = {_PATHS: json.dumps(paths)}
        self._checkpointer.save(step, dict(checkpoint), metadata=metadata)

    def load_checkpoint(
        self,
        path: _Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Tensors come to the CPU, from where Lightning takes them; no code is run, whatever ``weights_only`` says."""
        state = self._checkpointer.restore(self._find(path).step).state
        if not isinstance(state, dict):
            raise RequestInvalidError(f"{os.fspath(path)} is no checkpoint of Lightning")
        return state

    def remove_checkpoint(self, path: _Path) -> None:
        """The snapshot goes with the last of its paths."""
        self._settle()
        try:
            found = self._find(path)
        except NotFoundError:
            return
        with self._lock:
            left = [one for one in self._paths.get(found.step, _paths_of(found)) if one != os.fspath(path)]
            self._paths[found.step] = left
        if not left:
            self._checkpointer.remove(found.step)

    def latest(self) -> str | None:
        """The path of the newest snapshot that is complete and not marked bad."""
        for snapshot in self._checkpointer.list():
            paths = _paths_of(snapshot)
            if snapshot.bad is None and paths:
                return paths[0]
        return None

    def teardown(self) -> None:
        self._settle()

    def _settle(self) -> None:
        """What is removed next may be all there is, until the newest is committed."""
        self._checkpointer.flush()

    def _find(self, path: _Path) -> Snapshot:
        name = os.fspath(path)
        for snapshot in self._checkpointer.list():
            if name in _paths_of(snapshot):
                return snapshot
        raise NotFoundError(f"run {self._checkpointer.run} has no snapshot for {name}")


with contextlib.suppress(ImportError):
    from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO as _OtherCheckpointIO

    _OtherCheckpointIO.register(EbbCheckpointIO)


def _paths_of(snapshot: Snapshot) -> list[str]:
    return [str(one) for one in json.loads(snapshot.metadata.get(_PATHS, "[]"))]
