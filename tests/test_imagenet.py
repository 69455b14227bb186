"""The paper's settings on ImageNet: schedules, and the errors of ensembles."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from sedona_nb import imagenet
from sedona_nb.blocks import ensemble_scores
from sedona_nb.decoding import decode
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.evaluate import Tally
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec, protocol, spec_hash
from sedona_nb.train_config import Checkpoint, TrainConfig, TrainOutcome, outcome_from_json


def test_schedules_of_appendix_e2():
    for name, first, last in (("resnet101", 0.1, 1e-4), ("resnet152", 0.05, 1e-5)):
        config = imagenet.schedule(name, precision="bfloat16")
        assert (config.steps, config.batch_size, config.evaluate_every) == (600_000, 256, 5_000)
        assert (config.momentum, config.weight_decay, config.loss.smoothing) == (0.9, 5e-5, 0.1)
        assert (config.held_out, config.precision) == (0.0, "bfloat16")
        assert config.rate(0) == first
        assert config.rate(300_000) == pytest.approx((first + last) / 2)
        assert config.rate(600_000) == pytest.approx(last)
    assert imagenet.network("resnet152") == NetworkConfig("resnet152", width=1.0)
    with pytest.raises(SedonaError, match="unknown network on ImageNet 'vgg19'; allowed: resnet101, resnet152"):
        imagenet.schedule("vgg19")


def test_dgl_divides_by_ten_every_ten_epochs():
    config = imagenet.dgl_schedule()
    epoch = 5_004  # 1,281,167 pictures in batches of 256
    assert (config.steps, config.weight_decay) == (50 * epoch, 1e-4)
    rates = [config.rate(number * epoch) for number in (0, 9, 10, 19, 20, 30, 49)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4, 1e-5])
    assert config.rate(10 * epoch - 1) == 0.1
    warm = replace(config, warmup_steps=100)
    assert warm.rate(49) == pytest.approx(0.05)
    assert warm.rate(10 * epoch + 99) == 0.1
    for bad in (-1, 2.5):
        with pytest.raises(SedonaError, match=f"decay_every {bad} is not allowed; allowed: whole numbers, or 0"):
            TrainConfig(decay_every=bad)


def test_records_of_before_keep_their_names():
    cut = Decoupling.uniform(8, 2)
    spec = RunSpec("digits", "0" * 16, NetworkConfig("vgg11", 0.125), "given", TrainConfig(), cut)
    assert spec_hash(spec) == "92ee449c9c09"  # as before there was the field
    stepped = replace(spec, train=replace(spec.train, decay_every=10_000))
    assert spec_hash(stepped) != spec_hash(spec)
    assert protocol(stepped) == protocol(spec) + ", a tenth every 10,000"
    content = json.loads(json.dumps(asdict(stepped)))
    assert decode(RunSpec, content) == stepped
    del content["train"]["decay_every"]
    assert decode(RunSpec, content) == spec


def test_top_5_errors_of_ensembles():
    draw = torch.Generator().manual_seed(0)
    scores = [torch.randn(90, 12, generator=draw) for _ in range(3)]
    labels = torch.randint(12, (90,), generator=draw)
    tally = Tally()
    for part in range(0, 90, 40):
        tally.add([one[part : part + 40] for one in scores], labels[part : part + 40])
    found = tally.result()
    for size in (1, 2, 3):
        order = ensemble_scores(scores, size).argsort(1, descending=True)
        wrong = sum(label not in row[:5] for row, label in zip(order, labels, strict=True))
        assert found.ensembles_top5[size - 1] == pytest.approx(100 * wrong / 90)
        assert found.ensembles[size - 1] == pytest.approx(100 * (order[:, 0] != labels).double().mean().item())
    assert found.top5 == found.ensembles_top5[0]
    few = Tally()
    few.add([one[:, :5] for one in scores], labels % 5)
    assert (few.result().top5, few.result().ensembles_top5) == (None, None)


def test_outcomes_of_before_are_read():
    tally = Tally()
    tally.add([torch.randn(4, 12)], torch.arange(4))
    outcome = TrainOutcome(*[Checkpoint(1, tally.result(), tally.result())] * 2, [(1, (0.5,), 50.0)], 1.0)
    content = json.loads(json.dumps(asdict(outcome)))
    assert outcome_from_json(json.dumps(content)) == outcome
    for checkpoint in ("best", "last"):
        for split in ("validation", "test"):
            del content[checkpoint][split]["ensembles_top5"]
        del content[checkpoint]["train"]
    del content["alignment"], content["processor_seconds"]
    assert outcome_from_json(json.dumps(content)).best.test.ensembles_top5 is None
