"""Checkpoints: `Checkpointer` saves and restores the state of a training job (docs/checkpoints.md)."""

from ._api import Snapshot
from ._checkpointer import Checkpointer, Save
from ._states import OpenSnapshot, Restored
from ._tree import UnsupportedValueError

__all__ = ["Checkpointer", "OpenSnapshot", "Restored", "Save", "Snapshot", "UnsupportedValueError"]
