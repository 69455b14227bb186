"""A worker holds its block, its optimiser, and depth + 1 messages; no other block; pictures in the first alone."""

from __future__ import annotations

import json

import pytest

from sedona_nb import data, pipeline, runs
from sedona_nb.decoupling import Decoupling
from sedona_nb.messages import Slot
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec
from sedona_nb.train_config import TrainConfig

BATCH = 256

# Loaded by Python at the start of every worker; writes at its checkpoint how large all tensors are that anything
# in the process refers to, and how large those are that it should have. Counted and not read off the process's
# resident memory, which moves by tens of MB with what the allocator keeps.
REPORT = """
import os
if "RANK" in os.environ:
    import gc, json, torch
    from sedona_nb import block_worker

    def size(tensors):
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({{storage.data_ptr(): storage.nbytes() for storage in storages}}.values())

    checkpoint = block_worker.BlockWorker.checkpoint
    def report(self, losses):
        gc.collect()
        parameters = list(self.block.parameters())
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        found = {{
            "all": size(item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)),
            "own": size([*parameters, *self.block.buffers(), *[one.grad for one in parameters], *states]),
        }}
        with open(os.path.join({folder!r}, os.environ["RANK"] + ".json"), "w") as file:
            json.dump(found, file)
        return checkpoint(self, losses)
    block_worker.BlockWorker.checkpoint = report
"""


@pytest.mark.parametrize(("depth", "replicas", "splits"), [(1, 1, (1, 2)), (8, 1, (1, 2)), (2, 2, (1,))])
def test_a_worker_holds_its_own_things_and_depth_plus_one_messages(depth, replicas, splits, tmp_path, monkeypatch):
    """Between two messages, to a few hundred bytes: so it grows with `depth` by the bytes of a slot, exactly."""
    (tmp_path / "sitecustomize.py").write_text(REPORT.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pictures = data.load("digits")
    config = TrainConfig(steps=3, batch_size=BATCH, lr=0.01, evaluate_every=3)
    cuts = Decoupling(8, splits, ("aux2",) * len(splits))  # early, where activations are large
    network = NetworkConfig("vgg11", 0.25)
    spec = RunSpec(pictures.name, pictures.fingerprint, network, "given", config, cuts, seed=1)
    pipeline.train(spec, "digits", tmp_path / "run", depth, threads=1, replicas=replicas)

    blocks, part = runs.build(spec, pictures).blocks, BATCH // replicas
    slots = [Slot(part, block.out_shape, k, 10).nbytes for k, block in enumerate(blocks[:-1], 1)]
    assert min(slots) > 2_000_000
    for rank in range(len(blocks) * replicas):
        block = rank // replicas
        held = json.loads((tmp_path / f"{rank}.json").read_text())
        weights = sum(4 * parameter.numel() for parameter in blocks[block].parameters())
        assert 3 * weights <= held["own"] <= 3 * weights + 10_000  # weights, gradients, momentum; statistics
        below, above = depth * slots[block - 1] if block else 0, 0 if block == len(slots) else slots[block]
        rest = held["all"] - held["own"] - below - above
        if block:
            assert 0 <= rest < 500
        else:  # makes the batches: pictures as bytes, the batch at hand in float32; labels and tables of numbers
            images = pictures.train_images.nbytes + pictures.test_images.nbytes
            batch = 4 * part * pictures.train_images[0].numel()
            assert images <= rest < images + batch + 100_000
