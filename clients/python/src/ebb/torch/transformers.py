"""Checkpoints of Transformers' Trainer in a run.

```python
trainer = Trainer(..., callbacks=[EbbTrainerCallback(checkpointer)])
trainer.train(resume_from_checkpoint=latest_checkpoint(checkpointer, args.output_dir))
```

The Trainer writes plain files into ``checkpoint-N``, one after another, and resumes from the highest N there is, whole
or not. The callback makes a snapshot of the directory when it is complete; `latest_checkpoint` brings the last one.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..checkpoint import Checkpointer
from ..errors import DataCorruptError, DataLostError, RequestInvalidError

__all__ = ["EbbTrainerCallback", "latest_checkpoint"]

_log = logging.getLogger("ebb.checkpoint")
_PREFIX = "checkpoint"


class EbbTrainerCallback(TrainerCallback):
    """
    Args:
        checkpointer: of one rank, since all ranks write to one directory: ``Checkpointer(…, rank=0, world_size=1)``.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        if checkpointer.world_size != 1:
            raise RequestInvalidError("ranks share the directory: give Checkpointer(…, rank=0, world_size=1)")
        self._checkpointer = checkpointer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The files are copied when this returns; what goes wrong later is raised by the next save."""
        _await_ranks()
        if state.is_world_process_zero:
            step = int(state.global_step)
            self._checkpointer.save_directory(step, os.path.join(args.output_dir, f"{_PREFIX}-{step}"))
        _await_ranks()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._checkpointer.flush()


def latest_checkpoint(checkpointer: Checkpointer, output_dir: str | os.PathLike[str]) -> str | None:
    """Brings the newest snapshot that is whole to ``output_dir/checkpoint-N``, in place of what is there. The path, for
    ``resume_from_checkpoint``. None when there is none. With several ranks, call it on one of each host.

    Raises:
        DataCorruptError, DataLostError: no snapshot is whole.
    """
    step = checkpointer.latest()
    while step is not None:
        path = Path(output_dir) / f"{_PREFIX}-{step}"
        try:
            checkpointer.restore_directory(step, path, overwrite=True)
        except (DataCorruptError, DataLostError) as error:
            older = error.details.get("fallback")
            if older is None:
                raise
            _log.warning("%s; going back to step %s", error, older)
            step = int(older)
        else:
            return str(path)
    return None


def _await_ranks() -> None:
    """Every rank writes a file or two."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
