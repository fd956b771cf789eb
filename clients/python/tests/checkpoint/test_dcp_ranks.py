"""`ebb.torch.dcp` on several ranks: processes joined by gloo."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.distributed as dist
from ranks import run_ranks
from torch.distributed import checkpoint as torch_dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from ebb.checkpoint import Checkpointer
from ebb.errors import UnsupportedError
from ebb.torch import dcp
from support import NodeProcess

FULL = StateDictOptions(full_state_dict=True)


def opened(url: str, run: str, **options: Any) -> Checkpointer:
    return Checkpointer(url, run, **options)


# -- FSDP2 -----------------------------------------------------------------------------------------------------------


def trained(seed: int, steps: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.Tanh(), torch.nn.Linear(33, 3, bias=False))
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for step in range(steps):
        model(torch.full((4, 7), step + 1.0)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def full_state(model: Any, optimizer: Any) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=FULL)
    return {"model": weights, "optim": moments}


def save_sharded(rank: int, url: str, run: str, how: str) -> Any:
    model, optimizer = trained(1, 3)
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optim": moments, "epoch": 4}
    with opened(url, run) as checkpointer:
        if how == "helper":
            dcp.save(checkpointer, 3, state)
        elif how == "save":
            torch_dcp.save(state, checkpoint_id=3, storage_writer=dcp.EbbStorageWriter(checkpointer))
        else:
            future: Any = torch_dcp.async_save(
                state,
                checkpoint_id=3,
                storage_writer=dcp.EbbStorageWriter(checkpointer),
                async_stager=dcp.EbbStager(checkpointer).at(3),
            )
            future.result()
    return full_state(model, optimizer)


def load_sharded(rank: int, url: str, run: str) -> Any:
    model, optimizer = trained(2, 1)
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optim": moments, "epoch": 0}
    with opened(url, run) as checkpointer:
        assert dcp.load(checkpointer, state) == 3
    assert state["epoch"] == 4
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    return full_state(model, optimizer)


@pytest.mark.parametrize(
    ("before", "after", "how"), [(2, 1, "helper"), (1, 2, "save"), (2, 3, "async"), (2, 2, "save")]
)
def test_a_sharded_state_is_loaded_on_another_number_of_ranks(
    node: NodeProcess, run: str, before: int, after: int, how: str
) -> None:
    saved = run_ranks(before, save_sharded, node.socket_url, run, how)[0]
    loaded = run_ranks(after, load_sharded, node.socket_url, run)[0]
    assert flat(loaded).keys() == flat(saved).keys()
    for name, tensor in flat(saved).items():
        assert torch.equal(flat(loaded)[name], tensor), name
    with opened(node.socket_url, run) as checkpointer:
        plan = checkpointer.api.plan(3)
        pieces = [shard for part in plan.parts.values() for shard in part.shards if shard.piece_of is not None]
        assert bool(pieces) == (before > 1)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: one for key, of in value.items() for name, one in flat(of, f"{path}.{key}").items()}
    return {path: torch.as_tensor(value)} if isinstance(value, (torch.Tensor, int, float)) else {}


# -- DTensor on two dimensions ---------------------------------------------------------------------------------------


def placed(rank: int, url: str, run: str, placements: list[Any], *, save: bool) -> bool:
    whole = torch.arange(30 * 50, dtype=torch.float32).reshape(30, 50)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    tensors = {
        str(n): distribute_tensor(whole if save else torch.zeros_like(whole), mesh, [one])
        for n, one in enumerate(placements)
    }
    with opened(url, run) as checkpointer:
        if save:
            dcp.save(checkpointer, 1, tensors)
        else:
            dcp.load(checkpointer, tensors)
    return all(torch.equal(one.full_tensor(), whole) for one in tensors.values())


def test_other_placements_are_read_by_slices(node: NodeProcess, run: str) -> None:
    before, after = [Shard(0), Shard(1), Shard(1), Replicate()], [Shard(1), Shard(0), Replicate(), Shard(1)]
    run_ranks(2, save_placed, node.socket_url, run, before)
    assert run_ranks(3, load_placed, node.socket_url, run, after) == [True] * 3


def save_placed(rank: int, url: str, run: str, placements: list[Any]) -> bool:
    return placed(rank, url, run, placements, save=True)


def load_placed(rank: int, url: str, run: str, placements: list[Any]) -> bool:
    return placed(rank, url, run, placements, save=False)


# -- replicated states -----------------------------------------------------------------------------------------------


def save_replicated(rank: int, url: str, run: str, saves: int) -> None:
    state = {f"w{n}": torch.full((10_000,), float(n)) for n in range(8)}
    with opened(url, run) as checkpointer:
        for step in range(saves):
            for tensor in state.values():
                tensor += 1
            dcp.async_save(checkpointer, step, state)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_all_ranks_have_is_saved_by_one(node: NodeProcess, run: str) -> None:
    run_ranks(2, save_replicated, node.socket_url, run, 3)
    with opened(node.socket_url, run) as checkpointer:
        plan = checkpointer.api.plan("latest")
        names = [shard.name for part in plan.parts.values() for shard in part.shards if shard.dtype is not None]
        assert sorted(names) == [f"w{n}" for n in range(8)]
        assert set(plan.parts) == {"rank-00000", "rank-00001", "dcp-metadata"}
        for step in range(3):
            found = {f"w{n}": torch.zeros(10_000) for n in range(8)}
            checkpointer.api.get(step)
            torch_dcp.load(found, checkpoint_id=step, storage_reader=dcp.EbbStorageReader(checkpointer), no_dist=True)
            for n in range(8):
                assert found[f"w{n}"].eq(n + step + 1).all(), (step, n)


# -- failures --------------------------------------------------------------------------------------------------------


def fail_on_one(rank: int, url: str, run: str) -> list[str]:
    seen = []
    with opened(url, run, slots=1) as checkpointer:
        writer = dcp.EbbStorageWriter(checkpointer)
        for step in range(2):
            good, bad = torch.ones(100), torch.ones(100).to_sparse()
            state = {"shared": good, f"own-{rank}": bad if rank == 1 else good}
            try:
                if step == 0:
                    torch_dcp.save(state, checkpoint_id=step, storage_writer=writer)
                else:
                    dcp.save(checkpointer, step, state)
            except BaseException as error:
                seen.append(f"{type(error).__name__}: {error}")
        torch_dcp.save({"shared": torch.ones(100)}, checkpoint_id=2, storage_writer=writer)
    return seen


def test_a_rank_that_fails_fails_the_save_on_all_ranks(node: NodeProcess, run: str) -> None:
    for seen in run_ranks(2, fail_on_one, node.socket_url, run):
        assert len(seen) == 2
        assert "CheckpointException" in seen[0]
        assert "own-1" in seen[0]
        assert UnsupportedError.__name__ in seen[1]
        assert "own-1" in seen[1]
    with opened(node.socket_url, run) as checkpointer:
        assert [one.step for one in checkpointer.list()] == [2]


def skip_on_all(rank: int, url: str, run: str) -> None:
    with opened(url, run, slots=1, behind="skip") as checkpointer:
        if rank == 1:
            assert checkpointer.api.begin(1, checkpointer.session, "rank-00001", 10, None) is not None
        dist.barrier()
        assert dcp.save(checkpointer, 2, {f"own-{rank}": torch.ones(10)}) is None
        dist.barrier()
        if rank == 1:
            checkpointer.api.abort(1, checkpointer.session)
        dist.barrier()
        assert (dcp.save(checkpointer, 3, {f"own-{rank}": torch.ones(10)}) is not None) == (rank == 0)


def test_a_save_is_left_out_on_all_ranks(node: NodeProcess, run: str) -> None:
    run_ranks(2, skip_on_all, node.socket_url, run)
    with opened(node.socket_url, run) as checkpointer:
        assert [one.step for one in checkpointer.list()] == [3]


# -- without DCP -----------------------------------------------------------------------------------------------------


def save_parts(rank: int, url: str, run: str) -> None:
    with opened(url, run) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"rank": rank, "w": torch.full((1000,), float(rank + 10 * step))})
        checkpointer.wait(2)
        assert checkpointer.latest() == 2
        found = checkpointer.restore().state
        assert found["rank"] == rank
        assert found["w"].eq(rank + 20).all()


def test_each_rank_restores_its_own_part(node: NodeProcess, run: str) -> None:
    run_ranks(2, save_parts, node.socket_url, run)
    with opened(node.socket_url, run) as checkpointer:
        assert checkpointer.restore(1, part="rank-00001").state["w"].eq(11).all()
        assert sorted(checkpointer.list()[0].parts) == ["rank-00000", "rank-00001"]
