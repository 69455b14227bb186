"""The sequence task, and the transformer that solves it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sedona_nb import data, protocols, run_pictures, runs, training
from sedona_nb.errors import SedonaError
from sedona_nb.networks import build_network
from sedona_nb.protocols import Setting
from sedona_nb.run_sequences import RunSequences
from sedona_nb.sequences import example, orders, reversed_digits
from sedona_nb.train_config import TrainConfig
from sedona_nb.transformer import TransformerLayer, as_map, as_tokens

CONFIG = TrainConfig(steps=3, batch_size=8, held_out=1e-4, evaluate_every=1, train_pictures=20)


@pytest.mark.parametrize("symbols", [2, 3, 5])
def test_orders_are_all_of_them_in_lexical_order(symbols):
    found = orders(torch.arange(math.factorial(symbols)), symbols)
    assert found.tolist() == [list(row) for row in itertools.permutations(range(symbols))]


def test_ten_digits():
    task = reversed_digits()
    assert len(task.train_labels) + len(task.test_labels) == math.factorial(10)
    assert not set(task.test_labels.tolist()) & set(task.train_labels[:100_000].tolist())
    assert orders(torch.tensor([0, math.factorial(10) - 1]), 10).tolist() == [[*range(10)], [*range(9, -1, -1)]]
    assert data.load("reversed-digits").fingerprint == task.fingerprint != reversed_digits(10, 999).fingerprint
    assert task.describe().startswith("reversed-digits: 3,627,800 train and 1,000 test sequences of 10")


def test_target_is_the_reverse():
    inputs, labels = example(torch.tensor([0, 7, 119]), 5)
    assert inputs.shape == (3, 5, 1, 5)
    shown = inputs.argmax(1)[:, 0]
    assert torch.equal(inputs.sum(1), torch.ones(3, 1, 5))
    assert torch.equal(labels.view(3, 5), shown.flip(1))


def test_splits_share_nothing_and_batches_depend_on_seed_and_number():
    task = reversed_digits(6, tested=50)
    config = TrainConfig(steps=3, batch_size=8, held_out=0.1, evaluate_every=1, train_pictures=20)
    run = run_pictures.prepare(task, config, 5, torch.device("cpu"))
    assert isinstance(run, RunSequences)
    numbers = lambda batches: {tuple(x.argmax(0)[0].tolist()) for b in batches for x in b[0]}  # noqa: E731
    parts = [numbers(run.evaluation(split, 16)) for split in ("validation", "test", "train")]
    assert [len(part) for part in parts] == [67, 50, 20]
    trained = numbers(run.batch(step) for step in range(300))
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & (parts[2] | trained)
    assert len(trained) == 720 - 50 - 67
    again = run_pictures.prepare(task, config, 5, torch.device("cpu"))
    assert torch.equal(again.batch(2)[0], run.batch(2)[0])
    half = run.batch(2, slice(4, 8))
    assert torch.equal(half[0], run.batch(2)[0][4:])
    assert torch.equal(half[1], run.batch(2)[1].view(8, 6)[4:].reshape(-1))
    run.close()


@pytest.mark.parametrize(("symbols", "tested"), [(1, 1), (11, 5), (3, 6), (4, 0)])
def test_impossible_tasks_are_refused(symbols, tested):
    with pytest.raises(SedonaError, match="allowed: 2 to 10 symbols"):
        reversed_digits(symbols, tested)


def test_pictures_sizes_are_not_for_sequences():
    with pytest.raises(SedonaError, match="reversed-digits has no pictures"):
        data.load("reversed-digits", image_size=32)


def test_layer_is_attention_and_mlp_by_hand():
    torch.manual_seed(0)
    layer, x = TransformerLayer(6), torch.randn(2, 6, 1, 4)
    tokens = as_tokens(x)
    normed = F.layer_norm(tokens, (6,), layer.attention_norm.weight, layer.attention_norm.bias)
    q, k, v = layer.queries_keys_values(normed).split(6, dim=2)
    weights = torch.softmax(torch.einsum("bic,bjc->bij", q, k) / 6**0.5, dim=2)
    tokens = tokens + layer.attention_out(weights @ v)
    normed = F.layer_norm(tokens, (6,), layer.mlp_norm.weight, layer.mlp_norm.bias)
    tokens = tokens + layer.mlp_out(F.gelu(layer.mlp_in(normed)))
    torch.testing.assert_close(layer(x), as_map(tokens))


def test_transformer_is_made_of_layers_and_seeded():
    network = build_network("transformer20", 0.25, 10, 10, 10, seed=3)
    assert network.num_layers == 20
    assert network.per_position
    assert network.cut_shapes == ((64, 1, 10),) * 20
    inputs, labels = example(torch.arange(4), 10)
    assert network(inputs).shape == (40, 10)
    assert labels.shape == (40,)
    again = build_network("transformer20", 0.25, 10, 10, 10, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(network.parameters(), again.parameters(), strict=True))
    # At the beginning the sum over all layers has about the size of one addend.
    x = network.layers[0][0](inputs)
    before = x.std()
    for layer in (network.layers[0][1], *network.layers[1:]):
        x = layer(x)
    assert 0.9 * before < x.std() < 2 * before


@pytest.mark.slow
@pytest.mark.parametrize(("method", "blocks", "below"), [("backprop", 1, 1.0), ("block-local", 4, 10.0)])
def test_twenty_layers_reverse_ten_digits(method, blocks, below):
    """Backprop: above 99 % of the digits; four blocks with messages alone: far better than guessing, 10 %."""
    task, short = data.load("reversed-digits"), protocols.load("short", "transformer20")
    spec = short.spec(method, 0, Setting(1e-3, 10), blocks)
    config = replace(spec.train, steps=150, evaluate_every=150)
    outcome = training.train(runs.build(spec, task), task, config, seed=0)
    assert outcome.last.test.count == 10_000  # positions
    assert outcome.last.test.top1 < below
    assert len(outcome.last.test.heads) == blocks
