"""Several processes a block, compared with copies of the network in one process that average their gradients."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pipeline_runs import LAYERS, free_port, kill_one, node, same, spec_of, workers
from torch import Tensor, nn

from sedona_nb import data, meeting, pipeline, runs, training
from sedona_nb.block_local import BlockLocalConfig
from sedona_nb.blocks import LocalLoss
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.heads import NO_HEAD
from sedona_nb.records import RunSpec
from sedona_nb.replicas import Position
from sedona_nb.seeds import mix


class Twin(nn.Module):
    """Copies of a cut network, all in one process; the serial trainer steps and tests the first."""

    def __init__(self, spec: RunSpec, replicas: int):
        super().__init__()
        self.first, *others = (runs.build(spec, data.load("digits")) for _ in range(replicas))
        self.copies = (self.first, *(other.to(memory_format=torch.channels_last) for other in others))
        self.names = self.first.names

    def groups(self) -> list[list[nn.Parameter]]:
        return self.first.groups()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.first(images)

    def backward(self, images: Tensor, labels: Tensor, config: LocalLoss, seed: int, arithmetics) -> Tensor:
        losses, count = [], len(self.copies)
        for number, (copy, x, y) in enumerate(
            zip(self.copies, images.chunk(count), labels.chunk(count), strict=True)
        ):
            copy.train()
            copy.zero_grad()
            with torch.no_grad():
                for mine, model in zip(copy.parameters(), self.first.parameters(), strict=True):
                    mine.copy_(model)
            draw = mix(seed, "replica", number) if number else seed
            losses.append(copy.backward(x, y, config, draw, arithmetics))
        for parameter, *rest in zip(*(copy.parameters() for copy in self.copies), strict=True):
            for other in rest:
                parameter.grad += other.grad
            parameter.grad /= count
        return sum(losses) / count


def twin_of(spec: RunSpec, replicas: int) -> tuple[training.TrainOutcome, Twin]:
    """What the copies give, and they themselves with their last weights."""
    twin = Twin(spec, replicas)
    return training.train(twin, data.load("digits"), spec.train, spec.seed), twin


# Loaded by Python at the start of every process of a run; keeps what the process holds in the end.
WITNESS = """
import os
if "RANK" in os.environ:
    import torch
    from sedona_nb import block_worker
    run = block_worker.BlockWorker.run
    def run_and_keep(self):
        run(self)
        state = {{"block": self.block.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}}
        torch.save(state, {folder!r} + "/" + os.environ["RANK"])
    block_worker.BlockWorker.run = run_and_keep
"""


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """Folder in which each process of a run leaves its last state under its rank."""
    folder = tmp_path / "witness"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITNESS.format(folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def check_replicas_are_equal(witness: Path, blocks: int, replicas: int) -> None:
    """Weights and momentum bit for bit; running statistics are each replica's own."""
    for block in range(blocks):
        first, *others = (torch.load(witness / f"{block * replicas + number}") for number in range(replicas))
        for other in others:
            for name, value in first["block"].items():
                if "num_batches" not in name:
                    assert torch.equal(value, other["block"][name]) is ("running" not in name), name
            for number, values in first["optimizer"].items():
                assert torch.equal(values["momentum_buffer"], other["optimizer"][number]["momentum_buffer"])


@pytest.mark.parametrize("lag", [1, 2])
def test_both_chains_of_block_local_learning_run_in_each_replica(lag, tmp_path, witness, one_thread):
    cut, settings = Decoupling.uniform(LAYERS, 3, NO_HEAD), BlockLocalConfig(hidden=16, lag=lag)
    spec = replace(spec_of(3), method="block-local", decoupling=cut, block_local=settings)
    wanted, twin = twin_of(spec, 2)
    found = pipeline.train(spec, "digits", tmp_path, depth=1, threads=1, replicas=2)
    assert same(found, wanted)
    for number, block in enumerate(twin.first.blocks, 1):
        saved = torch.load(tmp_path / f"block-{number}" / "step-13.pt", weights_only=True)["block"]
        assert saved.keys() == block.state_dict().keys()  # feedback weights, what was said, what was heard
        assert all(torch.equal(saved[name], value) for name, value in block.state_dict().items())
    check_replicas_are_equal(witness, 3, 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_replicas_give_the_numbers_of_two_copies(precision, tmp_path, witness, one_thread):
    spec = spec_of(2, precision=precision)
    wanted, twin = twin_of(spec, 2)
    found = pipeline.train(spec, "digits", tmp_path, depth=1, threads=1, replicas=2)
    assert same(found, wanted)
    for number, block in enumerate(twin.first.blocks, 1):
        saved = torch.load(tmp_path / f"block-{number}" / "step-13.pt", weights_only=True)["block"]
        assert all(torch.equal(saved[name], value) for name, value in block.state_dict().items())
    check_replicas_are_equal(witness, 2, 2)
    assert not workers(tmp_path)


def test_three_replicas_stay_equal(tmp_path, witness, one_thread):
    """A sum of three may be taken in any order, but by all in the same."""
    spec = spec_of(1, batch_size=33, steps=3, warmup_steps=0)
    wanted, twin = twin_of(spec, 3)
    found = pipeline.train(spec, "digits", tmp_path, threads=1, replicas=3)
    assert found.curve[0][1] == pytest.approx(wanted.curve[0][1], rel=1e-5)
    saved = torch.load(tmp_path / "block-1" / "step-3.pt", weights_only=True)["block"]
    ours = torch.cat([saved[name].flatten() for name, _ in twin.first.blocks[0].named_parameters()])
    theirs = torch.cat([value.flatten() for value in twin.first.parameters()])
    assert (ours - theirs).norm() < 1e-6 * theirs.norm()
    check_replicas_are_equal(witness, 1, 3)
    with pytest.raises(SedonaError, match="holds a run with other settings"):  # one replica gives other numbers
        pipeline.train(spec, "digits", tmp_path, threads=1)


def test_a_killed_replica_is_named_and_the_run_resumes_to_the_same_numbers(tmp_path, witness, one_thread):
    spec = spec_of(2, steps=60, evaluate_every=6)
    wanted, _ = twin_of(spec, 2)
    killed: list[int] = []
    thread = threading.Thread(target=kill_one, args=(tmp_path, 2, random.random() * 0.3, killed))
    thread.start()
    with pytest.raises(SedonaError) as caught:
        pipeline.train(spec, "digits", tmp_path, depth=2, threads=1, replicas=2)
    thread.join()
    block, replica = divmod(killed[0], 2)
    layers = ("1-4", "5-8")[block]
    assert (
        str(caught.value)
        == f"block {block + 1} (layers {layers}), replica {replica + 1} was killed by signal SIGKILL"
    )
    assert not workers(tmp_path)
    assert same(pipeline.train(spec, "digits", tmp_path, depth=2, threads=1, replicas=2), wanted)
    check_replicas_are_equal(witness, 2, 2)


def test_a_loss_that_is_not_finite_names_block_and_replica(tmp_path):
    words = r"^block (\d \(layers \d-\d\)), replica \d failed: the loss of block \1 is (nan|inf) at step \d+"
    with pytest.raises(SedonaError, match=words):
        pipeline.train(spec_of(1, lr=1e30, warmup_steps=0), "digits", tmp_path, threads=1, replicas=2)
    assert not workers(tmp_path)


def test_wrong_numbers_of_replicas_are_refused(tmp_path):
    spec = spec_of(2)
    with pytest.raises(
        SedonaError, match="a batch of 32 does not divide into 3 equal parts.*allowed: replicas that"
    ):
        pipeline.train(spec, "digits", tmp_path, replicas=3)
    with pytest.raises(SedonaError, match="0 replicas a block; allowed: at least 1"):
        pipeline.train(spec, "digits", tmp_path, replicas=0)
    if torch.cuda.device_count() < 4:
        with pytest.raises(SedonaError, match="2 blocks of 2 replicas need 4 GPUs"):
            pipeline.train(spec, "digits", tmp_path, device="cuda", replicas=2)
    path = pipeline.save_spec(spec, tmp_path / "spec.json")
    child = node(path, tmp_path, free_port(), 0, 1, "--replicas", "2")
    text = child.communicate(timeout=120)[0]
    assert child.returncode != 0
    assert "error: 1 processes for 2 blocks of 2 replicas; allowed: 4" in text


def test_replicas_of_a_block_need_one_folder(tmp_path):
    """Two machines under torchrun, each with a folder of its own: trains, but does not begin anew in silence."""
    path = pipeline.save_spec(spec_of(1, steps=4), tmp_path / "spec.json")
    for words in ("", "error: replicas 1 and 2 of block 1 see different checkpoints; allowed: one folder"):
        port = free_port()
        nodes = [node(path, tmp_path / f"{rank}", port, rank, 2, "--replicas", "2") for rank in range(2)]
        texts = [child.communicate(timeout=120)[0] for child in nodes]
        assert [child.returncode != 0 for child in nodes] == [bool(words)] * 2, "\n".join(texts)
        assert all(words in text for text in texts)


def test_positions_and_names():
    assert [Position.of(rank, 3, 2).rank for rank in range(6)] == list(range(6))
    assert [rank for rank in range(6) if Position.of(rank, 3, 2).leads] == [0, 2, 4]
    assert [rank for rank in range(6) if Position.of(rank, 3, 2).judges] == [4]
    assert [Position.of(rank, 1, 4).part(32) for rank in (0, 3)] == [slice(0, 8), slice(24, 32)]
    seeds = [Position.of(rank, 1, 4).seed(7) for rank in range(4)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert meeting.process_names(spec_of(2), 1) == meeting.block_names(spec_of(2))
    assert meeting.process_names(spec_of(2), 2)[2] == "block 2 (layers 5-8), replica 1"
