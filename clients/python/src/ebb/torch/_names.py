"""What writer and reader agree on: how snapshots are named to DCP, and where an item lies."""

from __future__ import annotations

import os
from typing import NamedTuple, Union

from ..errors import RequestInvalidError

#: The part with DCP's metadata, and its one shard.
METADATA_PART = "dcp-metadata"
METADATA_SHARD = "metadata"
#: Beside it: names of tied tensors, and whose bytes they are (docs/checkpoint-format.md).
TIED_SHARD = "#tied"

CheckpointId = Union[int, str, "os.PathLike[str]", None]


class Place(NamedTuple):
    """Where an item lies. In DCP's metadata it is a plain tuple."""

    part: str
    offset: int
    length: int


def step_of(checkpoint_id: CheckpointId) -> int | str:
    if not is_step(checkpoint_id):
        raise RequestInvalidError(f'{checkpoint_id!r} is no step: use a whole number, or "latest"')
    text = str(checkpoint_id)
    return text if text == "latest" else int(text)


def is_step(checkpoint_id: CheckpointId) -> bool:
    text = str(checkpoint_id)
    return text == "latest" or (text.isascii() and text.isdigit())
