"""The whole way on real pictures: pretrain, search, discretize, train, record, tabulate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sedona_nb import data, methods, profiles, runs, tables
from sedona_nb.decoupling import Decoupling
from sedona_nb.networks import NetworkConfig

CHANCE = 90.0  # % error of guessing one of ten classes


@pytest.mark.slow
@pytest.mark.filterwarnings("default::sedona_nb.errors.TieWarning")  # a short search may leave ties
def test_search_to_table_on_cifar10_pictures(real_data_root: Path, tmp_path: Path, device: torch.device) -> None:
    small = profiles.load("small")
    profile = replace(
        small,
        network=NetworkConfig("vgg11", width=1 / 8),
        search=replace(small.search, pretrain_steps=60, snapshot_every=20, snapshot_batches=4, outer_steps=6),
        train=replace(small.train, steps=300, evaluate_every=100),
    )
    pictures = data.load("cifar10", root=real_data_root)
    assert pictures.name == "cifar10-jpeg"
    store = runs.RunStore(tmp_path)

    search = runs.find_or_search(methods.search_spec(profile, pictures), pictures, store, device)
    found = runs.search_result(search)
    first, last = found.pretraining[0][1], found.pretraining[-1][1]
    assert last < first  # the loss falls while all heads and layers learn together
    assert found.pretraining[-1][2] < CHANCE
    assert (found.alpha_history[1:] != found.alpha_history[:-1]).all(dim=(1, 2)).all()
    assert (found.alpha_gradients.abs().amax(dim=(0, 2)) > 1e-6).all()  # no layer is cut off from the outer loss

    for num_blocks in (2, 4):
        cut = Decoupling.from_search(found.alpha, found.beta, num_blocks)
        assert cut.num_blocks == num_blocks
        spec = methods.run_spec("sedona", replace(profile, num_blocks=num_blocks), pictures, 8, found=found)
        record = runs.find_or_train(spec, pictures, store, device)
        best = record.result["best"]
        assert best["test"]["count"] == 10_000
        assert best["test"]["top1"] < CHANCE - 25
        assert len(best["test"]["heads"]) == num_blocks
        assert min(best["test"]["heads"]) < CHANCE - 25
        assert best["test"]["top5"] < best["test"]["top1"]

    assert len(store.records()) == 3
    frame = tables.table2(profile, pictures, store).set_index("method")
    assert frame["n"].to_dict() == {"Backprop": 0, "PredSim": 0, "DGL": 0, "SEDONA": 1}
    assert "cifar10-jpeg" in tables.text(frame.reset_index())
