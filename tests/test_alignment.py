"""Cosines of greedy and end-to-end gradients: what they compare, against a slow twin, and that looking is free."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import CLASSES, float64, toy_batch, toy_network

from sedona_nb import data, methods, pipeline, profiles, runs, training
from sedona_nb.alignment import fixed_statistics, gradient_cosines, square_kernels
from sedona_nb.blocks import BlockNetwork, LocalLoss, decouple
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.losses import cross_entropy
from sedona_nb.networks import NetworkConfig, build_network
from sedona_nb.precision import Arithmetic
from sedona_nb.runs import RunStore, find_or_train
from sedona_nb.seeds import mix
from sedona_nb.steps import dropout_seed, train_step
from sedona_nb.train_config import TrainConfig

LOSS = LocalLoss()
ALIGNED = TrainConfig(
    steps=7, batch_size=32, lr=0.05, warmup_steps=2, evaluate_every=3, train_pictures=50, alignment_every=3
)
CUTS = {
    "one block": Decoupling(4, (), ()),
    "two blocks": Decoupling(4, (3,), ("aux2",)),
    "three blocks": Decoupling(4, (1, 2), ("mlp-sr", "predsim")),
    "four blocks": Decoupling(4, (1, 2, 3), ("aux1", "aux4", "mlp-sr")),
}


def toy(kind: str, cut: str, dropout: float = 0.0) -> BlockNetwork:
    """A toy of `toys` in blocks, in float64 if called there; with dropout: in the last layers' classifier."""
    base = toy_network(kind)
    if dropout:
        base.classifier = nn.Sequential(*base.classifier[:-1], nn.Dropout(dropout), base.classifier[-1])
    network = decouple(base, CUTS[cut], CLASSES, 1 / 64, seed=5).train()
    return network.to(torch.get_default_dtype())


def flat(layer: nn.Module) -> Tensor:
    """The gradients of a layer's 3x3 kernels, found by their shape."""
    return torch.cat([p.grad.flatten() for p in layer.parameters() if p.dim() == 4 and p.shape[2:] == (3, 3)])


def twin(network: BlockNetwork, images: Tensor, labels: Tensor, seed: int) -> list[float]:
    """The cosines from two networks with the same weights, one trained greedily and one not cut at all."""
    greedy, whole = copy.deepcopy(network), copy.deepcopy(network)
    greedy.zero_grad()
    greedy.backward(images, labels, LOSS, seed)
    layers = [layer for block in whole.blocks for layer in block.layers]
    whole.zero_grad()
    x = images
    for layer in layers:
        x = layer(x)
    with torch.random.fork_rng(devices=[]):  # the classifier drops what it drops as part of the last block
        torch.manual_seed(mix(seed, "block", whole.blocks[-1].first))
        scores = whole.blocks[-1].head(x)
    cross_entropy(scores, labels, LOSS.smoothing, LOSS.convention).backward()
    cosines = []
    for one, other in zip((layer for b in greedy.blocks for layer in b.layers), layers, strict=True):
        a, b = flat(one), flat(other)
        cosines.append(float((a * b).sum() / (a.norm() * b.norm())))
    return cosines


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cosines_are_those_of_two_networks_with_the_same_weights(dropout, cut, kind):
    with float64():
        network = toy(kind, cut, dropout)
        for seed in (0, 1):
            batch = toy_batch(torch.Generator().manual_seed(seed))
            found = gradient_cosines(network, *batch, LOSS, seed)
            assert found.shape == (4,)
            assert found.dtype == torch.float64
            assert found.tolist() == pytest.approx(twin(network, *batch, seed), abs=1e-10)


def test_the_end_to_end_gradient_is_that_of_an_undecoupled_network_with_these_weights():
    """Built by `Decoupling.backprop`, and the greedy one is what a step puts into `.grad`."""
    with float64():
        network = toy("resnet", "three blocks")
        plain = decouple(toy_network("resnet"), Decoupling.backprop(4), CLASSES, 1 / 64).train()
        layers = [layer for block in network.blocks for layer in block.layers]
        for one, other in zip(plain.blocks[0].layers, layers, strict=True):
            one.load_state_dict(other.state_dict())
        plain.blocks[0].head.load_state_dict(network.blocks[-1].head.state_dict())
        batch = toy_batch(torch.Generator().manual_seed(2))
        found = gradient_cosines(network, *batch, LOSS)
        network.backward(*batch, LOSS)
        plain.backward(*batch, LOSS)
        for layer, whole, cosine in zip(layers, plain.blocks[0].layers, found.tolist(), strict=True):
            wanted = nn.functional.cosine_similarity(flat(layer), flat(whole), dim=0)
            assert cosine == pytest.approx(wanted.item(), abs=1e-10)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_block_and_the_last_of_several_point_where_backprop_does(precision, name):
    layers = {"vgg11": 8, "resnet18": 8, "resnet50": 16}[name]
    generator = torch.Generator().manual_seed(3)
    batch = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator)
    for splits in ((), (layers // 2,), (2, layers - 1)):
        base = build_network(name, 1 / 16, 10, 32, seed=0)
        network = decouple(base, Decoupling(layers, splits, ("aux1",) * len(splits)), 10, 1 / 16, seed=0).train()
        cosines = gradient_cosines(network, *batch, LOSS, 0, Arithmetic(precision)).tolist()
        assert len(cosines) == layers
        last = splits[-1] if splits else 0
        assert cosines[last:] == pytest.approx([1.0] * (layers - last), abs=1e-6)
        assert all(abs(cosine) < 0.999 for cosine in cosines[:last])


def test_3x3_kernels_of_every_kind_of_layer():
    shapes = {
        name: [
            [tuple(kernel.shape) for kernel in square_kernels(layer)]
            for layer in build_network(name, 1 / 16, 10, 32).layers[:2]
        ]
        for name in ("vgg11", "resnet18", "resnet50")
    }
    assert shapes == {
        "vgg11": [[(4, 3, 3, 3)], [(8, 4, 3, 3)]],
        "resnet18": [[(4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)], [(4, 4, 3, 3), (4, 4, 3, 3)]],  # the stem's, too
        "resnet50": [[(4, 3, 3, 3), (4, 4, 3, 3)], [(4, 4, 3, 3)]],
    }
    large = build_network("resnet50", 1 / 16, 10, 64)
    assert [len(square_kernels(layer)) for layer in large.layers] == [1] * 16  # a stem of 7x7 is none of them


def test_directions_that_have_nothing_to_do_with_each_other_give_cosines_near_zero():
    """A fresh head and the fresh layers above it draw gradients of their own."""
    found = []
    for seed in range(6):
        base = build_network("vgg11", 1 / 8, 10, 32, seed=seed)
        network = decouple(base, Decoupling(8, (4,), ("mlp-sr",)), 10, 1 / 8, seed=100 + seed).train()
        generator = torch.Generator().manual_seed(seed)
        images, labels = torch.randn(32, 3, 32, 32, generator=generator), torch.arange(32) % 10
        found.append(gradient_cosines(network, images, labels, LOSS)[:4])
    cosines = torch.stack(found)
    assert cosines.abs().max() < 0.4
    assert cosines.mean().abs() < 0.1


def test_a_gradient_of_zeros_has_the_cosine_zero():
    network = toy("vgg", "two blocks")
    with torch.no_grad():
        network.blocks[0].head[-1].weight.zero_()  # nothing comes down through this head
    found = gradient_cosines(network, *toy_batch(torch.Generator().manual_seed(1)), LOSS)
    assert found[:3].tolist() == [0.0] * 3
    assert found[3].item() == pytest.approx(1)


# -- looking changes nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_the_network_is_left_as_it_is(kind):
    network = toy(kind, "three blocks", dropout=0.5)
    network.blocks[1].eval()  # whatever mode a part is in
    batch = toy_batch(torch.Generator().manual_seed(4))
    network.backward(*batch, LOSS, 7)
    images, labels = (part.clone() for part in batch)
    before, random = copy.deepcopy(network), torch.random.get_rng_state()
    gradients = [p.grad for p in network.parameters()]
    kept = [None if g is None else g.clone() for g in gradients]
    gradient_cosines(network, *batch, LOSS, 8)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(batch, (images, labels), strict=True))
    assert [module.training for module in network.modules()] == [module.training for module in before.modules()]
    state = before.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    for parameter, gradient, copied in zip(network.parameters(), gradients, kept, strict=True):
        assert parameter.requires_grad
        assert parameter.grad is gradient
        assert (gradient is None and copied is None) or torch.equal(gradient, copied)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert {norm.track_running_stats for norm in norms} == {True}
    assert {norm.num_batches_tracked.item() for norm in norms} >= {1}


def test_statistics_are_tracked_again_after_an_error():
    network = toy("vgg", "two blocks")
    with pytest.raises(RuntimeError):
        gradient_cosines(network, torch.randn(4, 2, 8, 8), torch.zeros(4, dtype=torch.long), LOSS)
    norm = network.blocks[0].layers[0][1]
    assert norm.track_running_stats
    norm.track_running_stats = False
    with fixed_statistics(network):
        pass
    assert not norm.track_running_stats  # as it was


@pytest.fixture(scope="module")
def pictures():
    return data.load("digits")


def spec_of(pictures, method: str = "dgl", **changes):
    profile = replace(
        profiles.load("smoke"),
        network=NetworkConfig("vgg11", 1 / 16, dropout=0.3),
        train=replace(ALIGNED, **changes),
    )
    return methods.run_spec(method, profile, pictures, 8, seed=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_that_looks_gives_the_same_record(precision, pictures, tmp_path):
    store = RunStore(tmp_path)
    looking = find_or_train(spec_of(pictures, precision=precision), pictures, store)
    plain = find_or_train(spec_of(pictures, precision=precision, alignment_every=0), pictures, store)
    assert "alignment" not in plain.result
    assert {name: value for name, value in looking.result.items() if name != "alignment"} == plain.result
    rows = looking.result["alignment"]
    assert [step for step, _ in rows] == [0, 3, 6]
    assert all(len(cosines) == 8 and all(-1 <= c <= 1 + 1e-6 for c in cosines) for _, cosines in rows)
    assert all(cosines[6:] == pytest.approx([1, 1], abs=1e-5) for _, cosines in rows)


def test_the_rows_of_a_record_are_cosines_at_the_weights_and_masks_of_their_steps(pictures):
    spec = spec_of(pictures)
    outcome = training.train(runs.build(spec, pictures), pictures, spec.train, spec.seed)
    network, wanted = runs.build(spec, pictures), []
    run = training._Run(network, pictures, replace(spec.train, alignment_every=0), spec.seed, "cpu", None)
    for step in range(spec.train.steps):
        network.train()
        batch, seed = run.pictures.batch(step), dropout_seed(spec.seed, step)
        if step % 3 == 0:
            wanted.append((step, twin(network, *batch, seed), twin(network, *batch, seed + 1)))
        train_step(network, run.optimizers, batch, spec.train.rate(step), LOSS, seed)
    for (step, found), (same_step, cosines, other_masks) in zip(outcome.alignment, wanted, strict=True):
        assert step == same_step
        assert list(found) == pytest.approx(cosines, abs=2e-4)
        assert list(found) != pytest.approx(other_masks, abs=2e-3)


def test_weights_are_those_of_training_without_a_look_and_a_resumed_run_has_all_rows(pictures, tmp_path):
    spec, plain = spec_of(pictures), spec_of(pictures, alignment_every=0)
    networks = [runs.build(spec, pictures) for _ in range(3)]
    whole = training.train(networks[0], pictures, spec.train, spec.seed)
    training.train(networks[1], pictures, plain.train, spec.seed)

    class Killed(Exception):
        pass

    def on_step(step: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        training.train(networks[2], pictures, spec.train, spec.seed, folder=tmp_path, on_step=on_step)
    networks[2] = runs.build(spec, pictures)
    resumed = training.train(networks[2], pictures, spec.train, spec.seed, folder=tmp_path)
    assert resumed.alignment == whole.alignment
    for values in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


def test_it_is_refused_where_there_is_nothing_to_compare(pictures, tmp_path):
    def one_line(call: Callable, *arguments, **more) -> str:
        with pytest.raises(SedonaError) as caught:
            call(*arguments, **more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    found = runs.SearchResult(torch.zeros(7, 2), torch.zeros(7, 4), *[torch.zeros(0)] * 4, [], 0.0)
    profile = replace(profiles.load("smoke"), network=NetworkConfig("vgg11", 1 / 16), train=ALIGNED)
    continuous = methods.run_spec("continuous", profile, pictures, 8, found=found)
    message = one_line(training.train, runs.build(continuous, pictures), pictures, ALIGNED)
    assert message == "alignment_every compares blocks with backprop; allowed for this method: 0"
    message = one_line(pipeline.train, spec_of(pictures), "digits", tmp_path)
    assert message == "alignment_every needs gradients of the whole network; allowed with the serial trainer only"
    assert not list(tmp_path.iterdir())
    for value in (-1, 2.0, True, None):
        assert "allowed: whole numbers, or 0: none" in one_line(TrainConfig, alignment_every=value)
