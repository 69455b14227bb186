"""Features Replay: backprop where there is one block, else what a slow twin says that follows the definition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from toys import CLASSES, float64, relative, toy_batch, toy_network

from sedona_nb import data, methods, pipeline, precision, profiles, runs, training
from sedona_nb.blocks import LocalLoss, decouple
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.features_replay import ReplayNetwork
from sedona_nb.layered import LayeredNetwork
from sedona_nb.losses import cross_entropy
from sedona_nb.networks import NetworkConfig
from sedona_nb.precision import Arithmetic
from sedona_nb.runs import RunStore, find_or_train
from sedona_nb.seeds import mix
from sedona_nb.steps import dropout_seed, train_step
from sedona_nb.train_config import TrainConfig

LOSS = LocalLoss()
CONFIG = TrainConfig(lr=0.1, momentum=0.9, weight_decay=1e-2)
SMOKE = profiles.load("smoke")
PROFILE = replace(  # seven steps: a block of four waits for three of them
    SMOKE,
    network=NetworkConfig("vgg11", 1 / 16, dropout=0.3),
    train=TrainConfig(steps=7, batch_size=16, lr=0.05, warmup_steps=2, evaluate_every=3, train_pictures=50),
)


@pytest.fixture(scope="module")
def pictures():
    return data.load("digits")


def toy(kind: str) -> LayeredNetwork:
    """A toy of `toys`; "dropout": one that drops maps inside its layers, too."""
    network = toy_network("resnet" if kind == "resnet" else "vgg")
    if kind == "dropout":
        for layer in network.layers:
            layer.append(nn.Dropout(0.4))
    return network


def even(num_blocks: int, num_layers: int = 4) -> Decoupling:
    return Decoupling.uniform(num_layers, num_blocks, head="none")


def spec_of(method: str, pictures, num_blocks: int, **changes):
    profile = replace(PROFILE, num_blocks=num_blocks, train=replace(PROFILE.train, **changes))
    return methods.run_spec(method, profile, pictures, 8, seed=4)


def one_line(call: Callable, *arguments, **more) -> str:
    with pytest.raises(SedonaError) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the slow twin -----------------------------------------------------------------------------------------------


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass
class Definition:
    """The method as it is defined: all weights of all times are kept, and nothing else is carried on.

    Block k (from 1) of K has at time t the weights `weights[k][t]`; sample s is batch number s.
    """

    modules: list[nn.Module]  # the last one with the classifier
    firsts: list[int]  # first layer of each
    samples: list[tuple[Tensor, Tensor]]
    weights: list[list[dict[str, Tensor]]]
    statistics: list[dict[str, Tensor]]

    @classmethod
    def of(cls, network: LayeredNetwork, cut: Decoupling) -> Definition:
        network = copy.deepcopy(network).train()
        parts = [list(network.layers[first - 1 : last]) for first, last in cut.blocks]
        parts[-1].append(network.classifier)
        modules = [nn.Sequential(*part) for part in parts]
        weights = [[{n: p.detach().clone() for n, p in module.named_parameters()}] for module in modules]
        statistics = [{n: b.clone() for n, b in module.named_buffers()} for module in modules]
        return cls(modules, [first for first, _ in cut.blocks], [], weights, statistics)

    @property
    def count(self) -> int:
        return len(self.modules)

    def output(self, k: int, time: int, x: Tensor, sample: int, weights=None, statistics=None) -> Tensor:
        """Block k with its weights of `time` on x, with the masks of `sample`; its statistics are thrown away."""
        statistics = statistics or {name: value.clone() for name, value in self.statistics[k - 1].items()}
        weights = weights or self.weights[k - 1][time]
        with drawn_from(mix(dropout_seed(0, sample), "block", self.firsts[k - 1])):
            return functional_call(self.modules[k - 1], (weights, statistics), (x,))

    def fed(self, k: int, sample: int) -> Tensor:
        """Block k's input of a sample, by the weights that all blocks below had when it came."""
        if k == 1:
            return self.samples[sample][0]
        return self.output(k - 1, sample, self.fed(k - 1, sample), sample).detach()

    def step(self, k: int, time: int) -> tuple[dict[str, Tensor], Tensor] | None:
        """Gradients of block k's weights and of its input at `time`; None: nothing has come down so far."""
        late = self.count - k
        sample = time - late
        if sample < 0:
            return None
        weights = {n: w.detach().clone().requires_grad_() for n, w in self.weights[k - 1][time].items()}
        x = self.fed(k, sample).clone().requires_grad_()
        y = self.output(k, time, x, sample, weights)
        if late == 0:
            y, down = cross_entropy(y, self.samples[sample][1], LOSS.smoothing, LOSS.convention), None
        else:
            down = self.step(k + 1, time - 1)[1]  # what the block above worked out one step ago
        *found, below = torch.autograd.grad(y, [*weights.values(), x], down)
        return dict(zip(weights, found, strict=True)), below

    def advance(self, batch: tuple[Tensor, Tensor], momenta: list[dict[str, Tensor]]) -> list[dict | None]:
        """One step of SGD of all blocks; returns their gradients, before weight decay."""
        time = len(self.samples)
        self.samples.append(batch)
        gradients = []
        for k in range(1, self.count + 1):
            self.output(k, time, self.fed(k, time), time, statistics=self.statistics[k - 1])  # the one that counts
            found = self.step(k, time)
            gradients.append(found and found[0])
            after = dict(self.weights[k - 1][time])
            for name, gradient in (gradients[-1] or {}).items():
                slope = gradient + CONFIG.weight_decay * after[name]
                momenta[k - 1][name] = CONFIG.momentum * momenta[k - 1].get(name, 0) + slope
                after[name] = after[name] - CONFIG.lr * momenta[k - 1][name]
            self.weights[k - 1].append(after)
        return gradients


def named(network: ReplayNetwork, k: int) -> dict[str, nn.Parameter]:
    """Parameters of block k (from 1), with the names of `Definition`."""
    found = dict(network.blocks[k - 1].named_parameters())
    if k == len(network.blocks):
        at = len(network.blocks[-1])
        found |= {f"{at}.{name}": value for name, value in network.classifier.named_parameters()}
    return found


@pytest.mark.parametrize("kind", ["vgg", "resnet", "dropout"])
@pytest.mark.parametrize("num_blocks", [2, 3, 4])
def test_every_gradient_weight_and_statistic_is_the_definitions(num_blocks, kind):
    with float64():
        base, cut = toy(kind), even(num_blocks)
        twin, momenta = Definition.of(base, cut), [{} for _ in range(num_blocks)]
        network = ReplayNetwork(base, cut).train()
        optimizers = training.make_optimizers(network, CONFIG)
        generator = torch.Generator().manual_seed(1)
        for time in range(num_blocks + 3):
            batch = toy_batch(generator)
            wanted = twin.advance(batch, momenta)
            loss = train_step(network, optimizers, batch, CONFIG.lr, LOSS, dropout_seed(0, time))
            assert loss.shape == (1,)
            for k, gradients in enumerate(wanted, 1):
                for name, parameter in named(network, k).items():
                    if gradients is None:
                        assert parameter.grad is None
                    else:
                        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)
                    wanted_weight = twin.weights[k - 1][-1][name]
                    torch.testing.assert_close(parameter.detach(), wanted_weight, rtol=1e-9, atol=1e-12)
        for k, module in enumerate(network.blocks, 1):
            for name, value in module.named_buffers():
                torch.testing.assert_close(value, twin.statistics[k - 1][name], rtol=1e-10, atol=1e-12)


def test_late_gradients_are_not_todays():
    """Else the twin above would have nothing to find out: a block's error is of an older batch."""
    with float64():
        network, plain = (ReplayNetwork(toy("vgg"), even(k)).train() for k in (2, 1))
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            batch = toy_batch(generator)
            network.zero_grad()
            plain.zero_grad()
            assert torch.equal(network.backward(*batch, LOSS), plain.backward(*batch, LOSS))
        late, now = (net.get_parameter("blocks.0.0.0.weight").grad for net in (network, plain))
        assert relative(late, now) > 0.1
        assert torch.equal(network.blocks[1][0][0].weight.grad, plain.blocks[0][2][0].weight.grad)


# -- one block ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vgg", "resnet", "dropout"])
@pytest.mark.parametrize("number", ["float32", "bfloat16"])
def test_one_block_has_the_gradients_of_backprop_bit_for_bit(number, kind):
    base = toy(kind)
    plain = decouple(copy.deepcopy(base), Decoupling.backprop(4), CLASSES, 1.0).train()
    network = ReplayNetwork(base, even(1)).train()
    generator = torch.Generator().manual_seed(2)
    for seed in range(3):
        batch = toy_batch(generator)
        for one in (plain, network):
            one.zero_grad()
        losses = [one.backward(*batch, LOSS, seed, [Arithmetic(number)]) for one in (plain, network)]
        assert torch.equal(*losses)
        for one, other in zip(plain.parameters(), network.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
        for one, other in zip(plain.buffers(), network.buffers(), strict=True):
            assert torch.equal(one, other)


def test_one_block_gives_the_record_of_backprop(pictures, tmp_path, device):
    """Dropout, running statistics, warm-up, momentum, selection and all tests included."""
    store = RunStore(tmp_path)
    specs = [spec_of(method, pictures, 1) for method in ("features-replay", "backprop")]
    records = [find_or_train(spec, pictures, store, device) for spec in specs]
    assert records[0].result == records[1].result
    assert records[0].result["last"]["train"]["count"] == 50
    networks = [runs.build(spec, pictures) for spec in specs]
    for network, spec in zip(networks, specs, strict=True):
        training.train(network, pictures, spec.train, spec.seed, device)
    ours, plain = ([*network.parameters(), *network.buffers()] for network in networks)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    other = find_or_train(spec_of("features-replay", pictures, 2), pictures, store, device)
    assert other.result["curve"] != records[0].result["curve"]


# -- several blocks ----------------------------------------------------------------------------------------------


def test_a_block_does_not_move_before_its_first_gradient_arrives():
    network = ReplayNetwork(toy("vgg"), even(4)).train()
    optimizers = training.make_optimizers(network, CONFIG)
    generator = torch.Generator().manual_seed(3)
    for time in range(5):
        before = [[p.detach().clone() for p in group] for group in network.groups()]
        train_step(network, optimizers, toy_batch(generator), CONFIG.lr, LOSS)
        moved = [
            any(not torch.equal(p, old) for p, old in zip(group, olds, strict=True))
            for group, olds in zip(network.groups(), before, strict=True)
        ]
        assert moved == [time >= 4 - k for k in (1, 2, 3, 4)]
        assert [bool(optimizer.state) for optimizer in optimizers] == moved


def test_running_statistics_see_a_batch_once_when_it_is_played():
    network, played = toy("vgg"), toy("vgg").train()
    replayed = ReplayNetwork(network, even(4)).train()
    generator = torch.Generator().manual_seed(4)
    for number in range(1, 7):  # no step of an optimiser: the same weights throughout
        batch = toy_batch(generator)
        replayed.backward(*batch, LOSS)
        played(batch[0])
        for name, value in network.named_buffers():
            assert torch.equal(value, played.get_buffer(name)), name
            if name.endswith("num_batches_tracked"):
                assert value == number
    tracked = {part.track_running_stats for part in network.modules() if isinstance(part, nn.BatchNorm2d)}
    assert tracked == {True}


def test_no_more_is_kept_than_will_be_replayed():
    network = ReplayNetwork(toy("vgg"), even(4)).train()
    generator = torch.Generator().manual_seed(5)
    for _ in range(7):
        network.backward(*toy_batch(generator), LOSS)
    assert [len(entries) for entries in network.kept] == [4, 3, 2]
    assert all(not x.requires_grad for entries in network.kept for x, _ in entries)


def test_random_numbers_outside_go_on_as_they_would():
    network = ReplayNetwork(toy("dropout"), even(3)).train()
    before = torch.random.get_rng_state()
    for seed in range(4):
        network.backward(*toy_batch(torch.Generator().manual_seed(6)), LOSS, seed)
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_learns_with_late_gradients(pictures, device):
    spec = spec_of("features-replay", pictures, 4, steps=80, batch_size=64, evaluate_every=40)
    outcome = training.train(runs.build(spec, pictures), pictures, spec.train, spec.seed, device)
    assert outcome.best.test.top1 < 60  # chance: 90
    assert outcome.best.test.heads == (outcome.best.test.top1,)


# -- pause, kill, resume -----------------------------------------------------------------------------------------


def test_paused_after_every_step_it_comes_to_the_same_record(pictures, tmp_path):
    spec = spec_of("features-replay", pictures, 4)
    wanted = find_or_train(spec, pictures, RunStore(tmp_path / "whole"))
    pauses, store = 0, RunStore(tmp_path / "paused")
    while True:
        try:
            found = find_or_train(spec, pictures, store, pause=lambda: True)
        except Paused:
            pauses += 1
        else:
            break
    assert pauses == PROFILE.train.steps - 1
    assert found.result == wanted.result


@pytest.mark.parametrize("way", ["paused", "killed"])
def test_interrupted_at_any_step_it_ends_with_the_same_weights(way, pictures, tmp_path):
    """Killed: what is behind the last checkpoint is lost, as after kill -9, and done again."""
    spec = spec_of("features-replay", pictures, 4)
    whole = runs.build(spec, pictures)
    wanted = training.train(whole, pictures, spec.train, spec.seed)

    class Killed(Exception):
        pass

    for last in range(1, spec.train.steps):
        done = []

        def on_step(step: int, last=last, done=done) -> None:
            done.append(step)
            if way == "killed" and step == last:
                raise Killed

        def pause(last=last, done=done) -> bool:
            return way == "paused" and done[-1] == last

        folder = tmp_path / str(last)
        given = {"folder": folder, "on_step": on_step, "pause": pause}
        with pytest.raises((Killed, Paused)):
            training.train(runs.build(spec, pictures), pictures, spec.train, spec.seed, **given)
        assert done[-1] == last
        again = runs.build(spec, pictures)
        found = training.train(again, pictures, spec.train, spec.seed, folder=folder)
        assert (found.best, found.last, found.curve) == (wanted.best, wanted.last, wanted.curve)
        for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_what_is_between_the_blocks_is_part_of_the_checkpoint(pictures, tmp_path):
    spec = spec_of("features-replay", pictures, 4)
    network = runs.build(spec, pictures)
    with pytest.raises(Paused):
        training.train(
            network, pictures, spec.train, spec.seed, folder=tmp_path, on_step=(seen := []).append,
            pause=lambda: seen[-1] == 5,
        )  # fmt: skip
    saved = torch.load(tmp_path / "training.pt", weights_only=True)["in_flight"]
    fresh = runs.build(spec, pictures)
    fresh.load_in_flight(saved)
    for entries, others in zip(fresh.kept, network.kept, strict=True):
        assert [seed for _, seed in entries] == [seed for _, seed in others]
        for (one, _), (other, _) in zip(entries, others, strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
    assert all(torch.equal(one, other) for one, other in zip(fresh.errors, network.errors, strict=True))


# -- precision ---------------------------------------------------------------------------------------------------


def test_bfloat16_is_near_float32_and_hands_16_bits_down(pictures):
    networks = [ReplayNetwork(toy("resnet"), even(3)).train() for _ in range(2)]
    generator = torch.Generator().manual_seed(7)
    for _ in range(4):
        batch = toy_batch(generator)
        for network, number in zip(networks, ("float32", "bfloat16"), strict=True):
            network.zero_grad()
            network.backward(*batch, LOSS, 0, [Arithmetic(number)] * 3)
    full, low = networks
    assert {error.dtype for error in low.errors} == {torch.bfloat16}
    assert {x.dtype for x, _ in low.kept[1]} == {torch.bfloat16}
    assert {parameter.grad.dtype for parameter in low.parameters()} == {torch.float32}
    ours = torch.cat([p.grad.flatten() for p in low.parameters()])
    wanted = torch.cat([p.grad.flatten() for p in full.parameters()])
    assert 0 < relative(ours, wanted) < 0.35  # six pictures of 8x8: backprop's are as far off
    spec = spec_of("features-replay", pictures, 4, precision="bfloat16")
    outcome = training.train(runs.build(spec, pictures), pictures, spec.train, spec.seed)
    assert outcome.curve[-1][1][0] < 3


def test_float16_is_refused_in_one_line(pictures, monkeypatch):
    spec = spec_of("features-replay", pictures, 4, precision="float16")
    network = runs.build(spec, pictures)
    assert "'float16' needs CUDA" in one_line(training.train, network, pictures, spec.train)
    monkeypatch.setattr(precision, "check", lambda *_: None)  # as on a GPU, which has it
    message = one_line(training.train, network, pictures, spec.train)
    assert message == "precision 'float16' is not for Features Replay; allowed: float32, bfloat16"


# -- specs -------------------------------------------------------------------------------------------------------


def test_its_blocks_have_no_heads_and_only_its_blocks(pictures):
    spec = spec_of("features-replay", pictures, 4)
    assert spec.decoupling == Decoupling(8, (2, 4, 6), ("none",) * 3)
    assert runs.build(spec, pictures).names == ["the classifier"]
    for heads in (("aux1",) * 3, ("none", "aux1", "none")):
        message = one_line(replace, spec, decoupling=Decoupling(8, (2, 4, 6), heads))
        assert 'allowed: all "none" with methods features-replay, block-local, and with no other' in message
        assert "aux1" in message
    for method in ("given", "sedona", "dgl"):
        for heads in (("none",) * 3, ("none", "aux1", "aux2")):
            message = one_line(replace, spec, method=method, decoupling=Decoupling(8, (2, 4, 6), heads))
            assert 'allowed: all "none" with methods features-replay, block-local' in message
    assert replace(spec, decoupling=Decoupling(8, (), ())).decoupling.num_blocks == 1


def test_mistakes_are_refused_in_one_line(pictures, tmp_path):
    with float64():
        message = one_line(ReplayNetwork, toy("vgg"), even(2, num_layers=8))
    assert message == "the decoupling is for 8 layers, toy vgg has 4"
    spec = spec_of("features-replay", pictures, 4)
    message = one_line(pipeline.train, spec, "digits", tmp_path)
    assert message == (
        "method 'features-replay' needs gradients of the whole network; allowed with the serial trainer only"
    )
    assert not list(tmp_path.iterdir())
    aligned = spec_of("features-replay", pictures, 4, alignment_every=2)
    assert "allowed for this method: 0" in one_line(
        training.train, runs.build(aligned, pictures), pictures, aligned.train
    )
    with pytest.raises(SedonaError, match="unknown head 'none'"):
        decouple(toy("vgg"), even(2), CLASSES, 1.0)
