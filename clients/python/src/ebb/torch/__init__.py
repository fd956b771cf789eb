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
from typing import Any, Callable, NamedTuple

import numpy as np
import torch

from ..checkpoint import Checkpointer, Save
from ..checkpoint._api import Step
from ..errors import RequestInvalidError, UnsupportedError

__all__ = ["Loaded", "load", "restore_rng_state", "rng_state", "save"]

_RNG = "rng"
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


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
    allow_partial: bool = False,
    progress: bool = False,
    **objects: Any,
) -> Loaded:
    """Brings a snapshot back into objects: weights in place, everything else by ``load_state_dict``. States of
    generators, where they were saved, are set.

    Args:
        strict: whether modules must have the same parameters and buffers as the snapshot.
        part, allow_partial, progress: as `Checkpointer.restore`.
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
    found = checkpointer.restore(
        step, into or None, part=part, allow_partial=allow_partial, strict=must, progress=progress
    )
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
    """What the generators of Python, NumPy (whichever bit generator it has) and PyTorch hold: a state that a
    `Checkpointer` and `torch.distributed.checkpoint` take.

    Raises:
        UnsupportedError: NumPy's global generator is none of its own.
    """
    numpy = np.random.get_state(legacy=False)
    _bit_generator(numpy["bit_generator"])
    state = {
        "python": random.getstate(),
        "numpy": _with_arrays(numpy, np.ndarray, lambda array: torch.from_numpy(array.copy())),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """States of GPUs that are not here are left out."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    if "bit_generator" in numpy:
        _restore_numpy(_with_arrays(numpy, torch.Tensor, lambda tensor: tensor.numpy()))
    else:  # as it was written before
        position, has_gauss = int(numpy["position"]), int(numpy["has_gauss"])
        np.random.set_state((numpy["kind"], np.asarray(numpy["keys"]), position, has_gauss, float(numpy["gauss"])))
    torch.set_rng_state(torch.as_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, one in zip(range(torch.cuda.device_count()), state["cuda"]):
            torch.cuda.set_rng_state(one, device)


def _restore_numpy(state: dict[str, Any]) -> None:
    kind = state["bit_generator"]
    if np.random.get_state(legacy=False)["bit_generator"] != kind:
        generators: Any = np.random
        generators.set_bit_generator(_bit_generator(kind)())
    np.random.set_state(state)


def _bit_generator(name: str) -> Any:
    if name not in _BIT_GENERATORS:
        raise UnsupportedError(
            f"NumPy's global generator is a {name}: of {', '.join(_BIT_GENERATORS)} the state is known"
        )
    return getattr(np.random, name)


def _with_arrays(value: Any, kind: type, make: Callable[[Any], Any]) -> Any:
    """Nested dicts with their arrays changed, and numbers of NumPy as Python's."""
    if isinstance(value, Mapping):
        return {key: _with_arrays(one, kind, make) for key, one in value.items()}
    if isinstance(value, kind):
        return make(value)
    return value.item() if isinstance(value, np.generic) else value


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
