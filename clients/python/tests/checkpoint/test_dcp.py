"""`ebb.torch.dcp` in one process."""

from __future__ import annotations

import gc
import os
import pickle
from concurrent.futures import Future
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.distributed import checkpoint as torch_dcp
from torch.distributed.checkpoint.metadata import Metadata

import ebb
from ebb.checkpoint import Checkpointer
from ebb.errors import DataCorruptError, NotFoundError, RequestInvalidError, UnsupportedError
from ebb.torch import dcp
from ebb.torch._metadata import decode_metadata
from support import NodeProcess

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
]  # fmt: skip


def some_state(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    weight = torch.randn(50, 30)
    tensors = {
        name: torch.randint(0, 2, (3, 5), dtype=torch.uint8).view(torch.bool)
        if name == "bool"
        else torch.randint(0, 100, (24 * getattr(torch, name).itemsize,), dtype=torch.uint8).view(getattr(torch, name))
        for name in DTYPES
    }
    return {
        "model": {
            "wte": weight,
            "lm_head": weight,
            "bias": torch.randn(700, 300),
            "nested": [torch.randn(3), {"x": 1}],
        },
        "dtypes": tensors,
        "odd": {
            "transposed": torch.randn(5, 7).t(),
            "strided": torch.randn(40)[::3],
            "conjugate": torch.randn(4, dtype=torch.complex64).conj(),
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0, 3),
            "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        },
        "optim": {"lr": 0.1, "betas": (0.9, 0.999), "step": 7, "name": "adam", "none": None, "big": 2**70},
    }


def blank(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: blank(one) for key, one in value.items()}
    return [blank(one) for one in value] if isinstance(value, list) else 0


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, path
        assert found.shape == expected.shape, path
        assert raw(found) == raw(expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        for n, one in enumerate(expected):
            assert_same(found[n], one, f"{path}.{n}")
    else:
        assert found == expected, path


def raw(tensor: Any) -> bytes:
    plain = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy().tobytes())


def staged_save(checkpointer: Checkpointer, step: int, state: dict[str, Any]) -> None:
    future: Any = torch_dcp.async_save(
        state,
        checkpoint_id=step,
        storage_writer=dcp.EbbStorageWriter(checkpointer),
        async_stager=dcp.EbbStager(checkpointer).at(step),
    )
    assert isinstance(future, Future)
    future.result(60)


def plain_save(checkpointer: Checkpointer, step: int, state: dict[str, Any]) -> None:
    torch_dcp.save(state, checkpoint_id=step, storage_writer=dcp.EbbStorageWriter(checkpointer))


def own_save(checkpointer: Checkpointer, step: int, state: dict[str, Any]) -> None:
    snapshot = dcp.save(checkpointer, step, state)
    assert snapshot is not None
    assert snapshot.step == step


@pytest.mark.parametrize("save", [plain_save, staged_save, own_save])
def test_a_state_comes_back_as_it_was(checkpointer: Checkpointer, save: Any) -> None:
    state = some_state()
    save(checkpointer, 3, state)
    for step in (3, "3", "latest"):
        found = blank(state)
        torch_dcp.load(found, checkpoint_id=step, storage_reader=dcp.EbbStorageReader(checkpointer))
        assert_same(found, state)
    found = blank(state)
    assert dcp.load(checkpointer, found) == 3
    assert_same(found, state)


@pytest.mark.parametrize("save", [plain_save, staged_save, own_save])
def test_a_job_that_goes_back_saves_steps_again(checkpointer: Checkpointer, save: Any) -> None:
    for seed, step in enumerate((1, 2, 1, 1, 2)):
        save(checkpointer, step, some_state(seed))
    for step, seed in ((1, 3), (2, 4)):
        found = blank(some_state(seed))
        dcp.load(checkpointer, found, step)
        assert_same(found, some_state(seed))


@pytest.mark.parametrize("path", ["local", "http"])
def test_it_works_where_the_files_of_the_node_are_not_seen(node: NodeProcess, run: str, path: str) -> None:
    with ebb.Client(node.url, path="auto" if path == "local" else "http") as client, Checkpointer(client, run) as ck:
        states = {step: some_state(step) for step in (1, 2)}
        for step, state in states.items():
            dcp.async_save(ck, step, state)
        for step, state in states.items():
            ck.wait(step)
            found = blank(state)
            dcp.load(ck, found, step)
            assert_same(found, state)


def test_a_staged_state_is_not_copied_again(checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcp.EbbStorageWriter, "_copied", None)
    staged_save(checkpointer, 1, some_state())


def test_prepared_memory_takes_the_first_state(checkpointer: Checkpointer) -> None:
    state = some_state()
    dcp.EbbStager(checkpointer).prepare({**state, "module": torch.nn.Linear(3, 4)})
    dcp.EbbStager(checkpointer).prepare(state)
    opened = checkpointer.slots.open
    fresh = []
    checkpointer.slots.open = lambda *args: (fresh.append(slot := opened(*args)), slot)[1]  # type: ignore[method-assign]
    staged_save(checkpointer, 1, state)
    assert not fresh[0].is_fresh


def test_a_state_may_change_when_stage_has_returned(checkpointer: Checkpointer) -> None:
    state = {"w": torch.ones(1000), "values": {"history": [1, 2]}, "pair": (torch.ones(2), 1)}
    staged = dcp.EbbStager(checkpointer, 1).stage(state)
    state["w"].zero_()
    state["values"]["history"].append(3)
    state["pair"][0].zero_()
    torch_dcp.save(staged, checkpoint_id=1, storage_writer=dcp.EbbStorageWriter(checkpointer))
    found = {"w": torch.zeros(1000), "values": {"history": None}, "pair": None}
    dcp.load(checkpointer, found)
    assert found["w"].sum() == 1000
    assert found["values"]["history"] == [1, 2]
    assert torch.equal(found["pair"][0], torch.ones(2))


def test_two_saves_are_under_way_at_once(checkpointer: Checkpointer) -> None:
    states = {step: some_state(step) for step in (1, 2)}
    writer, stager = dcp.EbbStorageWriter(checkpointer), dcp.EbbStager(checkpointer)
    futures = [
        torch_dcp.async_save(state, checkpoint_id=step, storage_writer=writer, async_stager=stager.at(step))
        for step, state in states.items()
    ]
    for future in futures:
        assert isinstance(future, Future)
        future.result(60)
    for step, state in states.items():
        found = blank(state)
        dcp.load(checkpointer, found, step)
        assert_same(found, state)


def test_a_step_that_is_staged_twice_before_it_is_written_is_two_saves(checkpointer: Checkpointer) -> None:
    states = [{"w": torch.full((100_000,), float(n))} for n in (1, 2)]
    writer, stager = dcp.EbbStorageWriter(checkpointer), dcp.EbbStager(checkpointer)
    staged = [stager.at(1).stage(state) for state in states]
    stager.at(2).stage({"w": torch.zeros(100_000)})  # in memory that is free, if any is
    for state in states:
        torch_dcp.save(staged.pop(0), checkpoint_id=1, storage_writer=writer)
        found = blank(state)
        dcp.load(checkpointer, found, 1)
        assert_same(found, state)


def test_tied_tensors_lie_in_the_image_once(checkpointer: Checkpointer) -> None:
    weight = torch.randn(1000, 100)
    dcp.save(checkpointer, 1, {"wte": weight, "lm_head": weight, "copy": weight.clone()})
    (shards,) = [part.shards for part in checkpointer.api.plan(1).parts.values() if part.name == checkpointer.part]
    assert sorted(shard.name for shard in shards) == ["copy", "wte"]


def test_what_the_planner_makes_anew_is_saved_too(checkpointer: Checkpointer) -> None:
    class Halved(torch_dcp.DefaultSavePlanner):  # type: ignore[misc]
        def transform_object(self, write_item: Any, object: Any) -> Any:
            found = super().transform_object(write_item, object)
            return found / 2 if isinstance(found, torch.Tensor) else found

    state = {"w": torch.full((100,), 8.0), "step": 3}
    dcp.save(checkpointer, 1, state, planner=Halved())
    found = {"w": torch.zeros(100), "step": 0}
    dcp.load(checkpointer, found)
    assert found["step"] == 3
    assert found["w"].tolist() == [4.0] * 100


def test_a_tensor_of_another_dtype_is_converted_as_dcp_does(checkpointer: Checkpointer) -> None:
    dcp.save(checkpointer, 1, {"w": torch.arange(1000).reshape(10, 100).float()})
    found = {"w": torch.zeros(10, 100, dtype=torch.float64)}
    dcp.load(checkpointer, found)
    assert torch.equal(found["w"], torch.arange(1000).reshape(10, 100).double())


def test_a_tensor_that_is_not_contiguous_is_loaded_in_place(checkpointer: Checkpointer) -> None:
    dcp.save(checkpointer, 1, {"w": torch.randn(60, 40)})
    whole = torch.zeros(40, 60)
    dcp.load(checkpointer, {"w": whole.t()})
    found = {"w": torch.zeros(60, 40)}
    dcp.load(checkpointer, found)
    assert torch.equal(whole.t(), found["w"])


def test_another_shape_and_a_missing_name_are_named(checkpointer: Checkpointer) -> None:
    dcp.save(checkpointer, 1, {"w": torch.ones(3)})
    with pytest.raises(ValueError, match="w"):
        dcp.load(checkpointer, {"w": torch.ones(4)})
    with pytest.raises(RuntimeError, match="other"):
        dcp.load(checkpointer, {"w": torch.ones(3), "other": torch.ones(1)})


def test_what_is_not_there_is_an_error(checkpointer: Checkpointer) -> None:
    with pytest.raises(NotFoundError):
        dcp.load(checkpointer, {"w": torch.ones(3)})
    checkpointer.save(1, {"w": torch.ones(3)})
    checkpointer.wait()
    with pytest.raises(UnsupportedError, match="not saved by torch"):
        dcp.load(checkpointer, {"w": torch.ones(3)})


def test_a_stager_must_know_the_step(checkpointer: Checkpointer) -> None:
    with pytest.raises(RequestInvalidError, match=r"stager\.at"):
        dcp.EbbStager(checkpointer).stage({"w": torch.ones(1)})
    with pytest.raises(BaseException, match="no step"):
        torch_dcp.save({"w": torch.ones(1)}, checkpoint_id="/tmp/x", storage_writer=dcp.EbbStorageWriter(checkpointer))


def test_a_save_that_fails_leaves_nothing_and_frees_its_slot(checkpointer: Checkpointer) -> None:
    checkpointer.api.put_policy({"slots": 1})
    for step in range(3):
        with pytest.raises(UnsupportedError, match=r"w: .*not checkpointed"):
            dcp.save(checkpointer, step, {"w": torch.ones(3).to_sparse()})
    staged = dcp.EbbStager(checkpointer, 4).stage({"w": torch.ones(3)})
    del staged
    gc.collect()
    dcp.save(checkpointer, 5, {"w": torch.ones(3)})
    assert [one.step for one in checkpointer.list()] == [5]


def test_a_save_is_left_out_when_storing_is_behind(checkpointer: Checkpointer) -> None:
    checkpointer.api.put_policy({"slots": 1, "behind": "skip"})
    place = checkpointer.api.begin(1, checkpointer.session, "rank-00000", 100, None)
    assert place is not None
    assert dcp.save(checkpointer, 2, {"w": torch.ones(3)}) is None
    plain_save(checkpointer, 3, {"w": torch.ones(3)})
    assert checkpointer.list() == []
    checkpointer.api.abort(1, checkpointer.session)
    assert dcp.save(checkpointer, 4, {"w": torch.ones(3)}) is not None


class Dangerous:
    """Unpickling it would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __deepcopy__(self, _: Any) -> Dangerous:
        return self

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def test_a_checkpoint_runs_no_code(checkpointer: Checkpointer, tmp_path: Any) -> None:
    made = tmp_path / "made"
    with pytest.raises(UnsupportedError, match="would run code"):
        dcp.save(checkpointer, 1, {"value": Dangerous(str(made))})
    torch_dcp.save(
        {"value": Dangerous(str(made))},
        checkpoint_id=2,
        storage_writer=dcp.EbbStorageWriter(checkpointer, weights_only=False),
    )
    with pytest.raises(UnsupportedError, match="value is neither"):
        dcp.load(checkpointer, {"value": None})
    with pytest.raises(UnsupportedError, match="mkdir"):
        decode_metadata(pickle.dumps(Metadata({}, planner_data=Dangerous(str(made)))))
    assert not made.exists()
    reader = dcp.EbbStorageReader(checkpointer, weights_only=False)
    torch_dcp.load({"value": None}, checkpoint_id=2, storage_reader=reader)
    assert made.exists()


def test_metadata_that_is_none_is_corrupt() -> None:
    with pytest.raises(DataCorruptError):
        decode_metadata(b"nonsense")
    with pytest.raises(DataCorruptError):
        decode_metadata(pickle.dumps({"a": 1}))


def test_modules_and_optimizers_are_states(checkpointer: Checkpointer) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def made(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(3):
            model(torch.ones(2, 5)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer

    model, optimizer = made(1)
    weights, moments = get_state_dict(model, optimizer)
    dcp.save(checkpointer, 1, {"model": weights, "optim": moments})
    other, other_optimizer = made(2)
    other_weights, other_moments = get_state_dict(other, other_optimizer)
    state = {"model": other_weights, "optim": other_moments}
    dcp.load(checkpointer, state)
    set_state_dict(other, other_optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    assert_same(other.state_dict(), model.state_dict())
    assert_same(other_optimizer.state_dict()["state"], optimizer.state_dict()["state"])
