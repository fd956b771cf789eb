"""`ebb.torch`: modules, optimizers, generators; tensors of all dtypes."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from test_dcp import assert_same, blank, some_state
from torch import nn
from torch.distributed import checkpoint as torch_dcp

from ebb.checkpoint import Checkpointer, _arrays
from ebb.errors import (
    DataLostError,
    EbbError,
    NotFoundError,
    PreconditionFailedError,
    RequestInvalidError,
    SupersededError,
    UnsupportedError,
)
from ebb.torch import _reader, dcp, load, restore_rng_state, rng_state, save
from support import OWN_NODE, REPO, NodeProcess


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape)

    def __tensor_flatten__(self) -> Any:
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise NotImplementedError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, 8)
        self.norm = nn.BatchNorm1d(8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Any) -> Any:
        return self.lm_head(self.norm(self.wte(tokens)))


def trained(seed: int, steps: int = 3) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(steps):
        model(torch.arange(20)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return model, optimizer, scheduler


def test_tensors_of_all_dtypes_come_back(checkpointer: Checkpointer) -> None:
    state = some_state()
    checkpointer.save(1, state)
    checkpointer.wait()
    found = checkpointer.restore().state
    assert_same(found, state)
    assert found["model"]["wte"] is found["model"]["lm_head"]
    into = blank(state)
    kept = into["odd"]["transposed"]
    found = checkpointer.restore(into=into).state
    assert_same(found, state)
    assert found["odd"]["transposed"] is kept
    into["odd"] = {**blank(state["odd"]), "transposed": torch.zeros(5, 7).t(), "strided": torch.zeros(40)[::3]}
    assert_same(checkpointer.restore(into=into).state, state)
    with checkpointer.open() as snapshot:
        assert_same(snapshot.state, state)


def test_training_goes_on_as_if_nothing_had_been(checkpointer: Checkpointer) -> None:
    model, optimizer, scheduler = trained(1)
    save(checkpointer, 3, model=model, optimizer=optimizer, scheduler=scheduler, epoch=2, history=[1.0, 2.0])
    checkpointer.wait()
    other, other_optimizer, other_scheduler = trained(2, steps=0)
    weight = other.wte.weight
    found = load(checkpointer, model=other, optimizer=other_optimizer, scheduler=other_scheduler)
    assert found.step == 3
    assert found.more == {"epoch": 2, "history": [1.0, 2.0]}
    assert other.wte.weight is weight
    assert other.lm_head.weight is weight
    for one in (model, other):
        one(torch.arange(20)).square().mean().backward()
    optimizer.step()
    other_optimizer.step()
    assert_same(other.state_dict(), model.state_dict())
    assert_same(other_optimizer.state_dict()["state"], optimizer.state_dict()["state"])
    assert other_scheduler.state_dict() == scheduler.state_dict()


def test_tied_weights_are_saved_once(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1, model=trained(1)[0])
    checkpointer.wait()
    names = [shard.name for shard in checkpointer.api.plan(1).parts["rank-00000"].shards]
    assert "model.wte.weight" in names
    assert "model.lm_head.weight" not in names


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_an_export_has_tied_tensors_under_each_of_their_names(
    node: NodeProcess, checkpointer: Checkpointer, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model = trained(1)[0]
    whole = torch.arange(12.0).reshape(3, 4)
    state = {**model.state_dict(), "whole": whole, "rows": whole[1:], "column": whole[:, 1]}
    checkpointer.save(1, state)
    dcp.save(checkpointer, 2, model.state_dict())
    checkpointer.wait(2)
    for step, saved in ((1, state), (2, model.state_dict())):
        to = tmp_path / f"{step}.safetensors"
        command = ["checkpoint", "export", checkpointer.run, str(step), "--to", str(to)]
        main = REPO / "packages/server/src/main.ts"
        done = subprocess.run(
            [OWN_NODE, "--conditions=source", main, *command],
            env={**os.environ, "EBB_NODE": node.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = safetensors.load_file(to)
        left_out = {"column"} if step == 1 else set()
        assert all(f"left out: {name} of part rank-00000: it lies in whole" in done.stderr for name in left_out)
        assert set(found) == set(saved) - left_out
        assert_same(found, {name: saved[name] for name in found})


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp_waits_for_a_redistribution_and_says_what_to_save_of_a_wrapper(checkpointer: Checkpointer) -> None:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    dcp.save(checkpointer, 1, {"w": AsyncCollectiveTensor(torch.arange(3.0))})
    torch_dcp.save(
        {"w": AsyncCollectiveTensor(torch.arange(3.0))},
        checkpoint_id=2,
        storage_writer=dcp.EbbStorageWriter(checkpointer),
    )
    for step in (1, 2):
        state = {"w": torch.zeros(3)}
        dcp.load(checkpointer, state, step)
        assert state["w"].tolist() == [0, 1, 2]
    with pytest.raises(UnsupportedError, match=r'm\.w is a Wrapper.* put those into the state as "m\.w\.inner"'):
        dcp.save(checkpointer, 3, {"m": {"w": Wrapper(torch.ones(3))}})


def test_another_model_is_told_by_name_and_not_changed(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1, model=nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    checkpointer.wait()
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(1, 1)).double()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(RequestInvalidError) as caught:
        load(checkpointer, model=other)
    problems = caught.value.details["problems"]
    assert "model.1.weight is float64 [5, 4] here, float32 [2, 4] in the snapshot" in problems
    assert "model.2.bias is not in the snapshot" in problems
    assert_same(other.state_dict(), before)
    with pytest.raises(RequestInvalidError, match="has no optimizer"):
        load(checkpointer, optimizer=torch.optim.SGD(other.parameters()))
    fewer = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RequestInvalidError, match=r"model\.1\.weight is in the snapshot only"):
        load(checkpointer, model=fewer)
    load(checkpointer, strict=False, model=fewer)


def test_a_module_that_does_more_is_asked(checkpointer: Checkpointer) -> None:
    class More(nn.Linear):
        extra = 0

        def get_extra_state(self) -> Any:
            return {"extra": self.extra}

        def set_extra_state(self, state: Any) -> None:
            self.extra = state["extra"]

    model = More(2, 3)
    model.extra = 7
    save(checkpointer, 1, model=model)
    checkpointer.wait()
    other = More(2, 3)
    load(checkpointer, model=other)
    assert other.extra == 7
    assert torch.equal(other.weight, model.weight)


def test_generators_go_on_where_they_were(checkpointer: Checkpointer) -> None:
    save(checkpointer, 1, rng=True, epoch=1)
    checkpointer.wait()
    drawn = (random.random(), np.random.random(), torch.rand(3).tolist())
    load(checkpointer)
    assert (random.random(), np.random.random(), torch.rand(3).tolist()) == drawn


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox", "SFC64"])
def test_generators_go_on_whichever_numpy_has(checkpointer: Checkpointer, kind: str) -> None:
    generators: Any = np.random
    before = generators.get_bit_generator()
    try:
        generators.set_bit_generator(getattr(np.random, kind)(3))
        np.random.normal()
        save(checkpointer, 1, rng=True)
        state = {"rng": rng_state()}
        dcp.save(checkpointer, 2, state)
        drawn = np.random.normal(size=3).tolist()
        generators.set_bit_generator(np.random.MT19937(4))
        load(checkpointer, 1)
        assert np.random.normal(size=3).tolist() == drawn
        dcp.load(checkpointer, state, 2)
        restore_rng_state(state["rng"])
        assert np.random.normal(size=3).tolist() == drawn
    finally:
        generators.set_bit_generator(before)


def test_a_distributed_tensor_is_sent_to_dcp(checkpointer: Checkpointer) -> None:
    with pytest.raises(UnsupportedError, match=r"ebb\.torch\.dcp"):
        checkpointer.save(1, {"w": Wrapper(torch.ones(3))})
    with pytest.raises(UnsupportedError, match="device meta"):
        checkpointer.save(1, {"w": torch.ones(3, device="meta")})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error", [SupersededError, NotFoundError, PreconditionFailedError])
def test_dcp_looks_up_again_what_goes_while_it_is_loaded(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, error: type[EbbError]
) -> None:
    dcp.save(checkpointer, 1, {"w": torch.ones(3)})
    checkpointer.wait(1)
    fetch = _reader.fetch
    left = [2]

    def fetch_late(*args: Any, **options: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error("it went")
        fetch(*args, **options)

    monkeypatch.setattr(_reader, "fetch", fetch_late)
    state = {"w": torch.zeros(3)}
    dcp.load(checkpointer, state, 1)
    assert (left, state["w"].tolist()) == ([0], [1, 1, 1])
    left[0] = 1000
    with pytest.raises(DataLostError, match=r"step 1 of run .*: it went; and there is no older snapshot"):
        dcp.load(checkpointer, state, 1)


def test_what_is_known_of_a_tensor_is_what_a_look_at_it_says() -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = [base, base[1:3], base.t(), base[:0], base.to(torch.bfloat16), torch.nn.Parameter(base.clone())]
    for tensor in tensors:
        assert _arrays.known_spec(tensor) == _arrays.spec_of(tensor)
        assert _arrays.known_address_of(tensor, tensor.nbytes) == _arrays.address_of(tensor)


def _whole() -> torch.Tensor:
    return torch.ones(1000)


def _become(tensor: torch.Tensor, length: int) -> None:
    tensor.data = torch.ones(length, dtype=tensor.dtype)


LOOKED_AT: dict[str, Callable[[], torch.Tensor]] = {
    "whole": _whole,
    "middle": lambda: torch.ones(3000)[1000:2000],
    "transposed": lambda: torch.ones(25, 40).t(),
    "conjugate": lambda: torch.ones(1000, dtype=torch.complex64).conj(),
    "negative": lambda: torch.ones(1000, dtype=torch.complex64).conj().imag,
    "expanded": lambda: torch.ones(1000).expand(3, 1000),
    "parameter": lambda: torch.nn.Parameter(_whole()),
}
CHANGES: dict[str, Callable[[torch.Tensor], object]] = {
    "freed": lambda tensor: tensor.untyped_storage().resize_(0),
    "cut short": lambda tensor: tensor.untyped_storage().resize_(16),
    "smaller": lambda tensor: _become(tensor, 4),
    "larger": lambda tensor: _become(tensor, 5000),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", LOOKED_AT)
def test_memory_that_changes_while_a_save_waits_for_its_slot_is_refused_by_name(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, kind: str, change: str
) -> None:
    tensor = LOOKED_AT[kind]()
    begin = checkpointer.api.begin

    def begin_late(*args: Any) -> Any:
        place = begin(*args)
        CHANGES[change](tensor)
        return place

    monkeypatch.setattr(checkpointer.api, "begin", begin_late)
    with pytest.raises(UnsupportedError, match=r"^model\.1\S*: .*(freed|it was changed|is another one)"):
        checkpointer.save(1, {"model": [torch.ones(3), tensor]})
    monkeypatch.undo()
    checkpointer.save(2, {"model": torch.ones(3)})
    assert checkpointer.wait(2).step == 2
    assert [one.step for one in checkpointer.list()] == [2]


def test_an_array_of_numpy_that_changes_while_a_save_waits_for_its_slot_is_refused_by_name(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.ones(100_000)
    begin = checkpointer.api.begin

    def begin_late(*args: Any) -> Any:
        place = begin(*args)
        array.resize(10, refcheck=False)
        return place

    monkeypatch.setattr(checkpointer.api, "begin", begin_late)
    with pytest.raises(UnsupportedError, match="a: it had 800000 bytes when it was looked at, and has 80"):
        checkpointer.save(1, {"a": array})
