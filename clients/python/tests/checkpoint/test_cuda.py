"""States on a GPU. They need one: where there is none, nothing of this was tried."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device is here: copies from and to a GPU were not tried", allow_module_level=True)

from ebb.checkpoint import Checkpointer, _cuda
from ebb.torch import dcp


def some_state(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {
        "weight": torch.randn(3000, 1000, device="cuda"),
        "half": torch.randn(1000, 1000, device="cuda").to(torch.bfloat16),
        "transposed": torch.randn(500, 700, device="cuda").t(),
        "strided": torch.randn(100_000, device="cuda")[::3],
        "scalar": torch.tensor(3.5, device="cuda"),
        "empty": torch.empty(0, 3, device="cuda"),
        "on_host": torch.randn(1000),
        "step": seed,
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name].cpu(), value.cpu()), name
        else:
            assert found[name] == value


def blank(state: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.zeros_like(one) if isinstance(one, torch.Tensor) else None for name, one in state.items()}


def test_a_state_comes_back_to_the_gpu_and_to_the_host(checkpointer: Checkpointer) -> None:
    for step in range(1, 4):
        state = some_state(step)
        checkpointer.save(step, state)
        into = blank(state)
        found = checkpointer.restore(step, into).state
        assert_same(found, state)
        assert found["weight"] is into["weight"]
        assert found["weight"].is_cuda
        assert_same(checkpointer.restore(step).state, state)


def test_what_the_gpu_has_still_to_do_is_waited_for_and_what_comes_after_is_not_seen(
    checkpointer: Checkpointer,
) -> None:
    a = torch.full((4000, 4000), 1.0, device="cuda")
    for step in range(1, 6):
        for _ in range(20):
            a = a @ torch.eye(4000, device="cuda")
        a += 1
        checkpointer.save(step, {"a": a})
        a += 100
        found = checkpointer.restore(step).state["a"]
        assert torch.equal(found.cpu(), torch.full((4000, 4000), 101.0 * step - 99.0)), step


def test_slots_are_registered_while_they_are_mapped(checkpointer: Checkpointer) -> None:
    checkpointer.save(1, some_state(1))
    checkpointer.wait(1)
    assert _cuda._registered
    checkpointer.close()
    assert not _cuda._registered


def test_distributed_checkpoints_are_staged_from_the_gpu(checkpointer: Checkpointer) -> None:
    state = {name: one for name, one in some_state(1).items() if isinstance(one, torch.Tensor)}
    dcp.async_save(checkpointer, 1, state).result(60)
    found = blank(state)
    dcp.load(checkpointer, found, 1)
    assert_same(found, state)
