"""Block-local learning on small networks: who learns what, from what; serially and in processes."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from pipeline_runs import CONFIG, LAYERS, kill_one, same, serial, workers
from toys import CLASSES, float64, toy_network

from sedona_nb import data, methods, pipeline, profiles, runs, training
from sedona_nb.block_local import BlockLocalConfig, BlockLocalNetwork, LocalBlock, Readout, divide
from sedona_nb.blocks import LocalLoss, decouple
from sedona_nb.decoding import decode
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.families import FAMILIES
from sedona_nb.feedback import FeedbackBlock, Latent
from sedona_nb.heads import NO_HEAD
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec, spec_hash

PLAIN = LocalLoss(smoothing=0.0)


def toy(blocks: int, kind: str = "vgg", **config) -> BlockLocalNetwork:
    with float64():
        cut = Decoupling.uniform(4, blocks, NO_HEAD) if blocks > 1 else Decoupling.backprop(4)
        return divide(toy_network(kind), cut, CLASSES, BlockLocalConfig(hidden=8, **config), seed=1).train()


def batch(seed: int = 0, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (count,), generator=generator)


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_block_is_backpropagation(smoothing):
    images, labels = batch()
    config = LocalLoss(smoothing=smoothing)
    network = toy(1)
    losses = network.backward(images, labels, config)
    with float64():
        twin = decouple(toy_network("vgg"), Decoupling.backprop(4), CLASSES, 1.0).train()
    assert torch.equal(losses, twin.backward(images, labels, config))
    found, wanted = gradients(network), gradients(twin)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_gradient_leaves_a_block(name, kind):
    """The loss of each block, one at a time, through a graph that nobody has cut by hand."""
    network = toy(4, kind, family=name)
    images, labels = batch()
    for k, block in enumerate(network.blocks):
        network.zero_grad(set_to_none=True)
        x = images.clone().requires_grad_()
        seen = x
        for lower in network.blocks[:k]:
            seen = lower.layers(seen)
        above = network.blocks[k + 1].feedback(network.blocks[k + 1].heard) if k < 3 else None
        if above is not None:
            block.head.heard = above  # as it comes, with its graph
        block.local_step(seen, labels, PLAIN, seed=0)
        own = {id(parameter) for parameter in block.parameters()}
        for parameter in network.parameters():
            moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert moved == (id(parameter) in own and parameter.grad is not None)
            if id(parameter) not in own:
                assert parameter.grad is None
        assert x.grad is None
        assert all(p.grad is not None for p in block.layers.parameters())
        assert block.feedback is None or all(p.grad is not None for p in block.feedback.parameters())
        if above is not None:
            block.head.heard = above.detach()


def test_gaussian_messages_are_the_weights_of_local_linear_classifiers():
    """The slow twin: pool, classify with the weights that the feedback chain makes, cross-entropy, by hand."""
    network, (images, labels) = toy(3), batch()
    network.zero_grad(set_to_none=True)
    losses = network.backward(images, labels, PLAIN)
    found = gradients(network)
    network.zero_grad(set_to_none=True)
    blocks = network.blocks
    heard = [blocks[0].heard, blocks[1].heard]
    x, wanted = images, []
    for k, block in enumerate(blocks):
        x = block.layers(x.detach())
        if k == 2:
            wanted.append(F.cross_entropy(block.head(x), labels))
            continue
        side = block.head.readout.rows
        pooled = F.avg_pool2d(x, x.shape[2] // side).flatten(1)
        wanted.append(F.cross_entropy(pooled @ heard[k].flatten(1).T, labels))
        upper = blocks[k + 1]
        weights = upper.feedback(heard[k + 1] if k == 0 else upper.heard).flatten(1)
        F.cross_entropy(pooled.detach() @ weights.T, labels).backward()  # feedback of the block above
    for loss in wanted:
        loss.backward()
    torch.testing.assert_close(losses, torch.stack(wanted).detach())
    assert all(torch.allclose(found[name], p.grad, rtol=1e-9) for name, p in network.named_parameters())


@pytest.mark.parametrize("lag", [1, 3])
def test_messages_come_down_a_lag_a_block_late(lag):
    """Against a twin that keeps the feedback weights of every step and computes each message anew."""
    network = toy(3, lag=lag)
    optimizers = [torch.optim.SGD(group, 0.05) for group in network.groups()]
    first = [None, network.blocks[1].said[0].clone(), network.blocks[2].said[0].clone()]
    kept: list[list[dict]] = []
    target = network.blocks[2].heard

    def sent(k: int, step: int) -> torch.Tensor:
        """What block k (from 0) sent in `step`, or before the first one."""
        if step < 0:
            return first[k]
        got = target if k == 2 else sent(k + 1, step - lag)
        with torch.no_grad():
            return torch.func.functional_call(network.blocks[k].feedback, kept[step][k], (got,))

    for step in range(8):
        kept.append(
            [
                {n: p.detach().clone() for n, p in b.feedback.named_parameters()} if b.feedback else {}
                for b in network.blocks
            ]
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        network.backward(*batch(step), PLAIN)
        for k in (0, 1):
            torch.testing.assert_close(network.blocks[k].heard, sent(k + 1, step - lag), rtol=0, atol=0)
        for optimizer in optimizers:
            optimizer.step()
    assert not torch.equal(network.blocks[0].heard, first[1])


def test_sweep_sends_the_target_down_at_once():
    network = toy(3)
    message = network.blocks[2].heard
    assert torch.equal(message[:, :, 0], torch.eye(CLASSES, dtype=torch.float64))
    for k in (2, 1):
        message = network.blocks[k].feedback(message)
        assert torch.equal(network.blocks[k - 1].heard, message)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("split", ["evidence", "likelihood", "sites"])
def test_a_network_of_two_blocks_learns_the_digits(name, split, one_thread):
    pictures = data.load("digits")
    profile = profiles.load("smoke")
    train = replace(CONFIG, steps=60, lr=0.05, evaluate_every=60, train_pictures=0)
    profile = replace(profile, network=NetworkConfig("vgg11", 0.125), train=train, num_blocks=2)
    config = BlockLocalConfig(family=name, split=split, hidden=32)
    spec = methods.run_spec("block-local", profile, pictures, LAYERS, block_local=config)
    outcome = training.train(runs.build(spec, pictures), pictures, spec.train, seed=0)
    assert max(outcome.last.test.heads) < 70  # chance is 90 %; both blocks have got somewhere
    assert outcome.last.test.top1 < 60


# -- readout, messages and errors --------------------------------------------------------------------------------


def test_readout_takes_the_finest_grid_that_fits():
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)  # sums of 64 numbers: their order counts in float32
    for size, side in ((10_000, 8), (1024, 8), (1023, 4), (256, 4), (64, 2), (63, 1), (1, 1)):
        readout = Readout((16, 8, 8), size)
        assert (readout.rows, readout.columns, readout.latent) == (side, side, Latent(16, side * side))
        assert torch.allclose(readout(x), F.avg_pool2d(x, 8 // side).flatten(2))


def test_readout_of_sequences_has_a_row_for_each_position():
    x = torch.randn(2, 3, 1, 4)
    rows = Readout((3, 1, 4), 512, per_position=True)(x)
    assert rows.shape == (8, 3, 1)
    assert torch.equal(rows[5, :, 0], x[1, :, 0, 1])


def test_messages_of_another_size_are_refused():
    block = FeedbackBlock(Latent(4, 9), Latent(2, 16))
    with pytest.raises(SedonaError, match=r"a message of \(9, 4\) for a feedback block; allowed: \(4, 9\)"):
        block(torch.zeros(10, 9, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "poisson"}, "unknown family 'poisson'; allowed: gaussian, bernoulli, categorical"),
        ({"split": "elbo"}, "unknown split 'elbo'; allowed: evidence, likelihood, sites, kl"),
        ({"lag": 0}, "lag 0 is not allowed; allowed: whole numbers from 1 on"),
        ({"hidden": 2.5}, "hidden 2.5 is not allowed"),
        ({"message_size": -1}, "message_size -1 is not allowed"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(change, words):
    with pytest.raises(SedonaError) as caught:
        BlockLocalConfig(**change)
    assert str(caught.value).startswith(words)


def test_more_blocks_than_layers_are_refused():
    with pytest.raises(SedonaError, match=r"num_blocks is 5; allowed for 4 layers: 1\.\.4"):
        Decoupling.uniform(4, 5, NO_HEAD)


def test_a_decoupling_of_another_network_is_refused():
    with float64(), pytest.raises(SedonaError, match="the decoupling is for 8 layers, toy vgg has 4"):
        divide(toy_network("vgg"), Decoupling.uniform(8, 2, NO_HEAD), CLASSES)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.tensor([0, CLASSES, 1, 2, 0, 1]), f"a label outside the classes 0 .. {CLASSES - 1}"),
        (torch.tensor([0, -1, 1, 2, 0, 1]), "a label outside the classes"),
        (torch.zeros(6), r"labels \(6,\) of float32; allowed: \(6,\) of int64"),
        (torch.zeros(6, CLASSES), r"labels \(6, 5\) of float32"),
        (torch.zeros(5, dtype=torch.int64), r"labels \(5,\) of int64; allowed: \(6,\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(wrong, words, blocks):
    with pytest.raises(SedonaError, match=words):
        toy(blocks).backward(batch()[0], wrong, PLAIN)


def test_an_empty_batch_is_refused():
    images, labels = batch()
    with pytest.raises(SedonaError, match="allowed: .at least 1,. of int64"):
        toy(2).backward(images[:0], labels[:0], PLAIN)


def test_a_message_of_another_shape_or_to_the_last_block_is_refused():
    network = toy(2)
    heard = network.blocks[0].heard.clone()
    wanted = tuple(heard.shape)
    for message in (torch.tensor(3.0), heard[:, :, :1], heard[:2]):
        with pytest.raises(SedonaError) as caught:
            network.blocks[0].hear(message)
        assert str(caught.value) == f"a message of {tuple(message.shape)} for a block; allowed: {wanted}"
    assert torch.equal(network.blocks[0].heard, heard)
    with pytest.raises(SedonaError, match="the last block hears the target"):
        network.blocks[1].hear(heard)


def test_number_of_classes_is_the_classifiers():
    with pytest.raises(SedonaError, match="num_classes is 7; allowed: the classifier's 5"):
        divide(toy_network("vgg"), Decoupling.uniform(4, 2, NO_HEAD), 7)


def test_everything_that_is_added_has_the_networks_type():
    plain = toy_network("vgg")
    network = divide(plain.double(), Decoupling.uniform(4, 3, NO_HEAD), CLASSES, seed=1)
    assert {tensor.dtype for tensor in network.state_dict().values() if tensor.is_floating_point()} == {
        torch.float64
    }
    network.backward(*batch(), PLAIN)


# -- specs and the asynchronous trainer --------------------------------------------------------------------------


def spec_of(blocks: int, block_local: BlockLocalConfig | None = None, **changes) -> RunSpec:
    """VGG-11 on digits, as `pipeline_runs.spec_of`."""
    pictures, network = data.load("digits"), NetworkConfig("vgg11", 0.125, dropout=0.3)
    train, cut = replace(CONFIG, **changes), Decoupling.uniform(LAYERS, blocks, NO_HEAD)
    settings = block_local or BlockLocalConfig(hidden=16)
    name, print_ = pictures.name, pictures.fingerprint
    return RunSpec(name, print_, network, "block-local", train, cut, seed=3, block_local=settings)


def test_spec_survives_json_and_settings_count():
    spec = spec_of(3)
    again = decode(RunSpec, json.loads(json.dumps(asdict(spec))))
    assert again == spec
    assert spec_hash(spec_of(3, BlockLocalConfig(hidden=17))) != spec_hash(spec)


def test_settings_belong_to_the_method():
    spec = spec_of(2)
    with pytest.raises(SedonaError, match='method "block-local" needs block_local'):
        replace(spec, block_local=None)
    with pytest.raises(SedonaError, match="no other method has them"):
        replace(spec, method="features-replay")


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("blocks", [2, 4])
def test_processes_give_the_numbers_of_the_serial_trainer(blocks, lag, tmp_path, one_thread):
    spec = spec_of(blocks, BlockLocalConfig(hidden=16, lag=lag))
    wanted, network = serial(spec)
    assert same(pipeline.train(spec, "digits", tmp_path, threads=1), wanted)
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, LocalBlock)
        saved = torch.load(tmp_path / f"block-{number}" / "step-13.pt", weights_only=True)
        assert saved["block"].keys() == block.state_dict().keys()
        assert all(torch.equal(saved["block"][name], value) for name, value in block.state_dict().items())
    assert not workers(tmp_path)


def test_a_killed_run_goes_on_with_the_messages_that_were_under_way(tmp_path, one_thread):
    spec = spec_of(3, BlockLocalConfig(hidden=16, lag=2), steps=80, evaluate_every=6)
    wanted, _ = serial(spec)
    thread = threading.Thread(target=kill_one, args=(tmp_path, 3, 0.1, []))
    thread.start()
    with pytest.raises(SedonaError, match="was killed by signal SIGKILL"):
        pipeline.train(spec, "digits", tmp_path, threads=1)
    thread.join()
    assert same(pipeline.train(spec, "digits", tmp_path, threads=1), wanted)
