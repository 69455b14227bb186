"""How the processes of an asynchronous run find each other, and agree where it stands."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from sedona_nb.block_files import BlockFiles
from sedona_nb.errors import SedonaError
from sedona_nb.records import RunSpec
from sedona_nb.replicas import Position, in_words


def block_names(spec: RunSpec) -> list[str]:
    """What a person calls each block."""
    return [f"block {k} (layers {first}-{last})" for k, (first, last) in enumerate(spec.decoupling.blocks, 1)]


def process_names(spec: RunSpec, replicas: int = 1) -> list[str]:
    """What a person calls each process, by rank: the block's name, and which replica if there are several."""
    if replicas == 1:
        return block_names(spec)
    return [f"{block}, replica {number}" for block in block_names(spec) for number in range(1, replicas + 1)]


def join(spec: RunSpec, replicas: int, device: str, timeout: float) -> tuple[Position, dist.Store]:
    """Meet the other processes, as torchrun's environment variables say.

    Args:
        spec: the run.
        replicas: processes a block.
        device: type of the device, "cpu" or "cuda".
        timeout: seconds until all must be there.

    Returns:
        this process's position, and the store that all share.

    Raises:
        SedonaError: there are not as many processes as the run needs.
    """
    rank, world, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    address, wait = os.environ["MASTER_ADDR"], timedelta(seconds=timeout)
    names, blocks = process_names(spec, replicas), len(spec.decoupling.blocks)
    if world != len(names):
        allowed = "one a block" if replicas == 1 else len(names)
        raise SedonaError(f"{world} processes for {in_words(blocks, replicas)}; allowed: {allowed}")
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store: dist.Store = dist.TCPStore(address, port, None, hosts, wait, wait_for_workers=False)
    except dist.DistError:
        raise SedonaError(f"nobody answers at {address}:{port} within {timeout:g} s: is rank 0 there?") from None
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    store.set(f"here/{rank}", "")
    try:
        store.wait([f"here/{k}" for k in range(world)], wait)
    except dist.DistError:
        missing = [f"rank {k}, {names[k]}" for k in range(world) if not store.check([f"here/{k}"])]
        raise SedonaError(f"did not join within {timeout:g} s: {'; '.join(missing)}") from None
    store.set_timeout(timedelta(days=1))  # from here on, blocks wait for each other's work
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Position.of(rank, blocks, replicas), store


def common_step(store: dist.Store, files: BlockFiles, position: Position) -> int:
    """The last step of which every block has a checkpoint; 0 if there is none.

    Raises:
        SedonaError: replicas of a block see different checkpoints, so that going on would mean to begin anew.
    """
    store.set(f"steps/{position.rank}", json.dumps(files.steps()))
    world, replicas = position.blocks * position.replicas, position.replicas
    found = [set(json.loads(store.get(f"steps/{k}"))) for k in range(world)]
    for rank, steps in enumerate(found):
        block, replica = divmod(rank, replicas)
        if steps != found[block * replicas]:
            raise SedonaError(
                f"replicas 1 and {replica + 1} of block {block + 1} see different checkpoints; "
                "allowed: one folder, shared by the machines of a block's replicas"
            )
    return max(set.intersection(*found), default=0)


def leave(store: dist.Store, position: Position) -> None:
    """Wait until all are done: who leaves early closes connections that others still use."""
    store.set(f"done/{position.rank}", "")
    store.wait([f"done/{k}" for k in range(position.blocks * position.replicas)])
