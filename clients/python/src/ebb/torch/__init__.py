"""Checkpoints of PyTorch's modules, optimizers, and whatever else has a state.

```python
from ebb.torch import load, save

save(checkpointer, step, model=model, optimizer=optimizer, scheduler=scheduler, epoch=3)
found = load(checkpointer, model=model, optimizer=optimizer, scheduler=scheduler)
first = found.step + 1, found.more["epoch"]
```

Sharded states: `ebb.torch.dcp`. Lightning: `ebb.torch.lightning`. Transformers: `ebb.torch.transformers`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from ..checkpoint import Checkpointer, Save
from ..checkpoint._api import Step
from ..errors import RequestInvalidError

__all__ = ["Loaded", "load", "restore_rng_state", "rng_state", "save"]

_RNG = "rng"


class Loaded(NamedTuple):
    """What `load` found."""

    step: int
    #: What was saved, and not given to `load`.
    more: Mapping[str, Any]
    metadata: Mapping[str, str]


def save(
    checkpointer: Checkpointer,
    step: int,
    *,
    rng: bool = False,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    **objects: Any,
) -> Save:
    """Takes a snapshot. Returns as soon as all of it may change.

    Args:
        rng: with the states of the generators of Python, NumPy and PyTorch, on the CPU and all GPUs.
        metadata: texts to be kept with it.
        **objects: by name: modules, optimizers, schedulers, scalers (their ``state_dict()``); tensors, plain values,
            and dicts, lists and tuples of them.

    Raises:
        RequestInvalidError: nothing to save, or a name that means something else.
        EbbError: as `Checkpointer.save`.
    """
    if not objects and not rng:
        raise RequestInvalidError("nothing to save: give model=…, optimizer=…")
    if _RNG in objects:
        raise RequestInvalidError(f'"{_RNG}" is the name of the generators\' states: take another')
    state = {name: _state_of(one) for name, one in objects.items()}
    if rng:
        state[_RNG] = rng_state()
    return checkpointer.save(step, state, metadata=metadata, overwrite=overwrite)


def load(
    checkpointer: Checkpointer,
    step: Step = "latest",
    *,
    strict: bool = True,
    part: str | None = None,
    progress: bool = False,
    **objects: Any,
) -> Loaded:
    """Brings a snapshot back into objects: weights in place, everything else by ``load_state_dict``. States of
    generators, where they were saved, are set.

    Args:
        strict: whether modules must have the same parameters and buffers as the snapshot.
        part, progress: as `Checkpointer.restore`.
        **objects: as they were given to `save`. Values that cannot be overwritten are in `Loaded.more`, and so is what
            is not given.

    Raises:
        RequestInvalidError: a module has other parameters, shapes or dtypes; all differences are named, nothing was
            changed. Or an object that the snapshot does not have.
        NotFoundError, DataCorruptError, DataLostError: as `Checkpointer.restore`.
    """
    modules = {name: one for name, one in objects.items() if isinstance(one, torch.nn.Module)}
    into: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
    into.update({name: one for name, one in objects.items() if isinstance(one, torch.Tensor)})
    must = tuple(modules) if strict else ()
    found = checkpointer.restore(step, into or None, part=part, strict=must, progress=progress)
    state = found.state
    missing = [name for name in objects if not isinstance(state, dict) or name not in state]
    if missing:
        raise RequestInvalidError(f"step {found.step} of run {checkpointer.run} has no {', '.join(missing)}")
    for name, one in objects.items():
        if name not in modules:
            if hasattr(one, "load_state_dict"):
                one.load_state_dict(state[name])
        elif not _is_plain(one):
            one.load_state_dict(state[name], strict=strict)
    if _RNG in state and _RNG not in objects:
        restore_rng_state(state[_RNG])
    taken = {name for name, one in objects.items() if hasattr(one, "load_state_dict") or isinstance(one, torch.Tensor)}
    more = {name: one for name, one in state.items() if name not in taken and name != _RNG}
    return Loaded(found.step, more, found.metadata)


def rng_state() -> dict[str, Any]:
    """Of the generators of Python, NumPy and PyTorch: a state that a `Checkpointer` takes."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": {"kind": kind, "keys": keys, "position": position, "has_gauss": has_gauss, "gauss": gauss},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """States of GPUs that are not here are left out."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    position, has_gauss = int(numpy["position"]), int(numpy["has_gauss"])
    np.random.set_state((numpy["kind"], np.asarray(numpy["keys"]), position, has_gauss, float(numpy["gauss"])))
    torch.set_rng_state(torch.as_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, one in zip(range(torch.cuda.device_count()), state["cuda"]):
            torch.cuda.set_rng_state(one, device)


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether weights in place are all there is to loading it: no module in it does more."""
    plain = torch.nn.Module
    return not any(
        type(one).load_state_dict is not plain.load_state_dict
        or type(one)._load_from_state_dict is not plain._load_from_state_dict
        or type(one).set_extra_state is not plain.set_extra_state
        or one._load_state_dict_pre_hooks
        or one._load_state_dict_post_hooks
        for one in module.modules()
    )
