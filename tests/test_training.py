"""Greedy training: isolation of blocks, equality with plain backpropagation, selection, resume, errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sedona_nb import data, evaluate, training
from sedona_nb.atomic import load_tensors, save_checkpoint
from sedona_nb.batches import BatchStream
from sedona_nb.blocks import LocalLoss, decouple, ensemble_scores
from sedona_nb.continuous import ContinuousNetwork
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.networks import NetworkConfig, build_network
from sedona_nb.relaxed import relax
from sedona_nb.seeds import mix
from sedona_nb.train_config import TrainConfig

WIDTH = 1 / 16
CONFIG = TrainConfig(steps=12, batch_size=32, lr=0.05, evaluate_every=4)


def digits_network(seed: int = 0):
    return build_network("vgg11", WIDTH, 10, 32, in_channels=1, seed=seed)


def greedy(decoupling: Decoupling, seed: int = 0):
    return decouple(digits_network(seed), decoupling, 10, WIDTH, seed=seed)


def first_batch():
    pictures = data.load("digits")
    return BatchStream(pictures.train_images, pictures.train_labels, None, 32, pictures.augmentation, 0).batch(0)


@pytest.mark.parametrize("head", ["aux1", "aux4", "mlp-sr", "predsim"])
def test_no_gradient_crosses_a_block_boundary(head):
    network = greedy(Decoupling.uniform(8, 4, head=head)).train()
    images, labels = first_batch()
    assert images.abs().min() > 0  # no input is zero, so no gradient is zero for that reason
    for last in range(4):  # the loss of one block alone
        network.zero_grad()
        x = images
        for number, block in enumerate(network.blocks):
            x, scores = block(x.detach())
            if number == last:
                block.loss(x, scores, labels, LocalLoss()).backward()
        touched = [
            any(p.grad is not None and p.grad.any() for p in block.parameters()) for block in network.blocks
        ]
        assert touched == [number == last for number in range(4)]


def test_each_block_gets_the_gradient_of_its_own_loss_alone():
    network = greedy(Decoupling.uniform(8, 3, head="aux2")).train()
    images, labels = first_batch()
    losses = network.backward(images, labels, LocalLoss())
    x = images
    for block, value in zip(network.blocks, losses, strict=True):
        x, scores = block(x.detach())
        loss = block.loss(x, scores, labels, LocalLoss())
        assert loss.item() == pytest.approx(value.item(), rel=1e-5)
        for parameter, wanted in zip(
            block.parameters(), torch.autograd.grad(loss, block.parameters()), strict=True
        ):
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)


def test_one_block_is_plain_backpropagation_bit_for_bit(device):
    pictures = data.load("digits")
    network = greedy(Decoupling.backprop(8))
    training.train(network, pictures, CONFIG, seed=5, device=device)

    plain = digits_network().to(device, memory_format=torch.channels_last).train()
    _, kept = data.split(len(pictures.train_labels), CONFIG.held_out, 5)
    stream = BatchStream(
        pictures.train_images, pictures.train_labels, kept, 32, pictures.augmentation, mix(5, "training"), device
    )
    optimizer = torch.optim.SGD(plain.parameters(), 0.05, 0.9, weight_decay=1e-4, fused=True)
    for step in range(CONFIG.steps):
        images, labels = stream.batch(step)
        rate = 0.001 + (0.05 - 0.001) * (1 + math.cos(math.pi * step / CONFIG.steps)) / 2
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels, label_smoothing=0.1).backward()
        optimizer.step()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_methods_of_one_seed_start_from_the_same_base_network():
    one, other = greedy(Decoupling.backprop(8)), greedy(Decoupling.uniform(8, 4))
    assert torch.equal(one.blocks[0].layers[0][0].weight, other.blocks[0].layers[0][0].weight)
    assert torch.equal(one.blocks[0].head[1].weight, other.blocks[3].head[1].weight)


def continuous(alpha: torch.Tensor, seed: int = 0) -> ContinuousNetwork:
    return ContinuousNetwork(relax(digits_network(seed), 10, WIDTH, seed=1), alpha, torch.zeros(7, 4))


def test_continuous_training_with_decided_alpha_is_backpropagation():
    """alpha that always keeps the backpropagated error trains the base network as K = 1 does."""
    pictures = data.load("digits")
    keep = continuous(torch.tensor([[-200.0, 200.0]] * 7))
    plain = greedy(Decoupling.backprop(8))
    for network in (keep, plain):
        training.train(network, pictures, replace(CONFIG, steps=3), seed=1)
    for index, layer in enumerate(keep.relaxed.layers):
        wanted = plain.blocks[0].layers[index][0].weight
        torch.testing.assert_close(layer[0].weight, wanted, rtol=1e-3, atol=1e-5)


def test_training_learns_with_every_kind_of_network(device):
    pictures = data.load("digits")
    config = replace(CONFIG, steps=60, batch_size=64, evaluate_every=20)
    for network in (
        greedy(Decoupling.backprop(8)),
        greedy(Decoupling.uniform(8, 2, head="predsim")),
        greedy(Decoupling(8, (4,), ("aux4",))),
        continuous(torch.zeros(7, 2)),
    ):
        outcome = training.train(network, pictures, config, device=device)
        assert outcome.best.test.top1 < 60  # chance: 90
        assert [row[0] for row in outcome.curve] == [20, 40, 60]


def test_best_and_last_are_selected_on_held_out_pictures_and_tested_on_others():
    pictures = data.load("digits")
    outcome = training.train(greedy(Decoupling.uniform(8, 2, head="aux1")), pictures, replace(CONFIG, steps=24))
    errors = {step: error for step, _, error in outcome.curve}
    assert outcome.best.step == min(errors, key=lambda step: (errors[step], step))
    assert outcome.last.step == 24
    assert outcome.best.validation.top1 == errors[outcome.best.step]
    held_out, kept = data.split(len(pictures.train_labels), CONFIG.held_out, 0)
    assert outcome.best.validation.count == len(held_out) == 144
    assert outcome.best.test.count == len(pictures.test_labels) == 360
    assert not set(held_out.tolist()) & set(kept.tolist())


def test_interrupted_training_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    pictures = data.load("digits")
    decoupling = Decoupling(8, (3,), ("aux3",))
    undisturbed = greedy(decoupling)
    wanted = training.train(undisturbed, pictures, CONFIG, seed=2)

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 6:  # two steps behind the checkpoint at 4
            raise Stop

    with pytest.raises(Stop):
        training.train(greedy(decoupling), pictures, CONFIG, seed=2, folder=tmp_path, on_step=stop)
    resumed = greedy(decoupling, seed=99)  # whatever it starts with, the checkpoint counts
    found = training.train(resumed, pictures, CONFIG, seed=2, folder=tmp_path)
    assert (found.best, found.last, found.curve) == (wanted.best, wanted.last, wanted.curve)
    for one, other in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(SedonaError, match="holds a run with other settings"):
        training.train(greedy(decoupling), pictures, replace(CONFIG, lr=0.1), seed=2, folder=tmp_path)
    saved = load_tensors(tmp_path / "training.pt")
    del saved["pending"]
    save_checkpoint(tmp_path / "training.pt", saved)
    with pytest.raises(SedonaError, match="holds a checkpoint of another version; remove it to start anew"):
        training.train(greedy(decoupling), pictures, CONFIG, seed=2, folder=tmp_path)


@pytest.mark.parametrize("make", ["blocks", "continuous"])
def test_paused_at_any_step_it_goes_on_to_the_same_weights_bit_for_bit(make, tmp_path):
    pictures = data.load("digits")

    def network(seed: int = 0):
        if make == "continuous":
            return continuous(torch.linspace(-1, 1, 14).reshape(7, 2), seed)
        return greedy(Decoupling(8, (3, 5), ("aux3", "predsim")), seed)

    whole = network()
    config = replace(CONFIG, steps=7, evaluate_every=3)
    wanted = training.train(whole, pictures, config, seed=2)
    for last in (2, 3, "every"):  # between two evaluations, and at one
        steps: list[int] = []

        def pause(last=last, steps=steps) -> bool:
            return last == "every" or (steps[-1] == last and len(steps) == last)

        pauses = []
        while True:
            again = network(seed=99)  # whatever it starts with, the checkpoint counts
            if not pauses:
                again.load_state_dict(network().state_dict())
            given = {"folder": tmp_path / str(last), "on_step": steps.append, "pause": pause}
            try:
                found = training.train(again, pictures, config, seed=2, **given)
            except Paused as stop:
                pauses.append(str(stop))
            else:
                break
        assert steps == [1, 2, 3, 4, 5, 6, 7]  # nothing is done twice
        stops = range(1, 7) if last == "every" else [last]
        assert pauses == [f"paused at step {step} of 7" for step in stops]
        assert (found.best, found.last, found.curve) == (wanted.best, wanted.last, wanted.curve)
        for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_a_run_that_nobody_stops_and_one_that_is_over_are_not_paused(tmp_path):
    pictures, config, asked = data.load("digits"), replace(CONFIG, steps=5), []

    def pause(answer: bool) -> bool:
        asked.append(answer)
        return answer

    once, again = (
        training.train(
            greedy(Decoupling.backprop(8)), pictures, config, folder=tmp_path, pause=lambda a=a: pause(a)
        )
        for a in (False, True)
    )
    assert asked == [False] * 4  # not after the last step, and not in a run that is over
    assert once.last.step == 5
    assert (again.best, again.last, again.curve) == (once.best, once.last, once.curve)
    with pytest.raises(SedonaError, match="^pause without a folder: there would be nothing to go on from$"):
        training.train(greedy(Decoupling.backprop(8)), pictures, CONFIG, pause=lambda: False)


@torch.no_grad()
def wrong_by_hand(network, pictures, items: torch.Tensor) -> float:
    """Error of the classifier on these training pictures, one after the other as they are."""
    network.eval()
    mean, std = (
        torch.tensor(part).view(-1, 1, 1) for part in (pictures.augmentation.mean, pictures.augmentation.std)
    )
    wrong = 0
    for item in items.tolist():
        picture = (pictures.train_images[item].float() / 255 - mean) / std
        wrong += int(network(picture[None])[-1].argmax() != pictures.train_labels[item])
    return 100 * wrong / len(items)


def test_errors_on_training_pictures_are_those_of_exactly_these_pictures(tmp_path):
    pictures = data.load("digits")
    config = replace(CONFIG, steps=24, train_pictures=300)
    network = greedy(Decoupling(8, (3,), ("aux3",)))
    outcome = training.train(network, pictures, config, seed=3, folder=tmp_path)
    _, kept = data.split(len(pictures.train_labels), config.held_out, 3)
    chosen = kept[:300]
    assert outcome.last.train.count == outcome.best.train.count == 300
    assert outcome.last.train.top1 == pytest.approx(wrong_by_hand(network, pictures, chosen))
    assert 0 < outcome.last.train.top1 < 90
    assert outcome.last.train.top1 != pytest.approx(wrong_by_hand(network, pictures, kept[300:600]))
    assert len(outcome.last.train.heads) == 2
    best = greedy(Decoupling(8, (3,), ("aux3",)))
    best.load_state_dict(torch.load(tmp_path / "training.pt", weights_only=True)["best"]["state"])
    assert outcome.best.train.top1 == pytest.approx(wrong_by_hand(best, pictures, chosen))


def test_without_training_pictures_there_are_no_errors_on_them_and_all_else_is_the_same():
    pictures = data.load("digits")
    outcomes = [
        training.train(greedy(Decoupling.backprop(8)), pictures, replace(CONFIG, train_pictures=count))
        for count in (0, 50, 10**6)
    ]
    none, some, all_of_them = outcomes
    assert none.best.train is none.last.train is None
    assert (some.last.train.count, all_of_them.last.train.count) == (50, 1437 - 144)
    for outcome in (some, all_of_them):
        assert outcome.curve == none.curve
        for one, other in ((outcome.best, none.best), (outcome.last, none.last)):
            assert replace(one, train=None) == other
    for value in (-1, 0.5, True):
        with pytest.raises(
            SedonaError, match="train_pictures .* is not allowed; allowed: whole numbers, or 0: none"
        ):
            replace(CONFIG, train_pictures=value)


def test_a_loss_that_is_not_finite_names_block_and_step():
    network = greedy(Decoupling.uniform(8, 2, head="aux1"))
    with torch.no_grad():
        network.blocks[1].head[-1].bias.fill_(float("nan"))
    with pytest.raises(SedonaError, match=r"the loss of block 2 \(layers 5-8\) is nan at step 0; lower"):
        training.train(network, data.load("digits"), CONFIG)


def test_errors_of_heads_and_ensembles_by_hand():
    scores = [torch.tensor([[2.0, 0], [0, 1], [0, 3]]), torch.tensor([[0, 1.0], [0, 1], [1, 0]])]
    labels = torch.tensor([0, 1, 1])

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return [part[images] for part in scores]

    batches = [(torch.tensor([0, 1]), labels[:2]), (torch.tensor([2]), labels[2:])]
    found = evaluate.errors(Fixed(), batches)
    assert found.heads == pytest.approx((0, 200 / 3))
    assert found.top1 == pytest.approx(200 / 3)
    assert found.ensembles == pytest.approx((200 / 3, 0))  # the first head is surer where it disagrees
    assert found.top5 is None
    assert found.count == 3
    wanted = F.log_softmax(scores[0], 1) + F.log_softmax(scores[1], 1)
    torch.testing.assert_close(ensemble_scores(scores, 2), wanted)


def test_top5_error():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 10, generator=generator), torch.randint(10, (200,), generator=generator)

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return [images]

    found = evaluate.errors(Fixed(), [(scores, labels)])
    wanted = sum(label not in row.argsort(descending=True)[:5] for row, label in zip(scores, labels, strict=True))
    assert found.top5 == pytest.approx(100 * wanted / 200)


def test_rates_warm_up_and_anneal():
    config = TrainConfig(steps=110, warmup_steps=10, lr=1.0, lr_min=0.2)
    assert config.rate(0) == pytest.approx(0.1)
    assert config.rate(9) == pytest.approx(1.0)
    assert config.rate(10) == pytest.approx(1.0)
    assert config.rate(60) == pytest.approx(0.6)
    assert config.rate(110) == pytest.approx(0.2)


def test_mistakes_are_refused_in_one_line():
    with pytest.raises(SedonaError, match="the decoupling is for 16 layers, vgg11 has 8"):
        greedy(Decoupling.published("vgg19", 4))
    with pytest.raises(SedonaError, match="unknown optimizer 'sdg'"):
        TrainConfig(optimizer="sdg")
    with pytest.raises(SedonaError, match="a warm-up shorter than the run"):
        TrainConfig(steps=10, warmup_steps=10)
    with pytest.raises(SedonaError, match=r"alpha has shape \(6, 2\)"):
        continuous(torch.zeros(6, 2))
    assert NetworkConfig("vgg11").name == "vgg11"
