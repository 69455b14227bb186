"""Exercises that answer back: right answers, typical wrong ones with their hints, and nonsense of every kind.

Right answers are worked out here, by hand or with code of their own, not with the code that judges them.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sedona_nb import exercises, layer_times, places, records, runs, timing_runs
from sedona_nb.decoupling import Decoupling, count_configurations
from sedona_nb.errors import SedonaError
from sedona_nb.exercises import readings
from sedona_nb.exercises.verdict import WrongKind
from sedona_nb.memory import WeightMemory
from sedona_nb.networks import NetworkConfig
from sedona_nb.wrapping import fold

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("0*.ipynb"))
pytestmark = pytest.mark.usefixtures("one_thread")
CHECK = re.compile(r'sd\.exercises\.check\("(\d\d\.\d)", (.+)\)')


# --- Lesson 00


def cuts(layers: int, *splits: int, head: str = "aux2") -> Decoupling:
    return Decoupling(layers, splits, (head,) * len(splits))


def contenders(num_layers):
    return {
        "backprop": cuts(num_layers),
        "halves": cuts(num_layers, num_layers // 2),
        "layerwise": cuts(num_layers, *range(1, num_layers)),
    }


# --- Lesson 01


def message_without_detach() -> str:
    """The mistake in small: two losses through one graph."""
    weight = torch.ones(1, requires_grad=True)
    hidden = torch.exp(weight)
    (hidden**2).sum().backward()
    with pytest.raises(RuntimeError) as caught:
        (3 * hidden**2).sum().backward()
    return str(caught.value)


def learn(block, optimizer, x, labels):
    activations = block.layers(x)
    loss = F.cross_entropy(block.head(activations), labels, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return activations.detach()


def train_queued(blocks, optimizers, batches):
    (lower, upper), waiting = blocks, deque()
    for images, labels in batches:
        waiting.append((learn(lower, optimizers[0], images, labels), labels))
        if len(waiting) > 1:
            learn(upper, optimizers[1], *waiting.popleft())
    while waiting:
        learn(upper, optimizers[1], *waiting.popleft())


def train_greedily(blocks, optimizers, batches):
    for images, labels in batches:
        learn(blocks[1], optimizers[1], learn(blocks[0], optimizers[0], images, labels), labels)


def never_drained(blocks, optimizers, batches):
    waiting = deque()
    for images, labels in batches:
        waiting.append((learn(blocks[0], optimizers[0], images, labels), labels))
        if len(waiting) > 1:
            learn(blocks[1], optimizers[1], *waiting.popleft())


def newer_labels(blocks, optimizers, batches):
    waiting = deque()
    for images, labels in batches:
        waiting.append(learn(blocks[0], optimizers[0], images, labels))
        if len(waiting) > 1:
            learn(blocks[1], optimizers[1], waiting.popleft(), labels)
    learn(blocks[1], optimizers[1], waiting.popleft(), batches[-1][1])


def stale_no_more(blocks, optimizers, batches):
    for images, labels in batches:
        learn(blocks[0], optimizers[0], images, labels)
        learn(blocks[1], optimizers[1], blocks[0].layers(images).detach(), labels)


def not_detached(blocks, optimizers, batches):
    for images, labels in batches:
        x = images
        for block, optimizer in zip(blocks, optimizers, strict=True):
            activations = block.layers(x)
            optimizer.zero_grad()
            F.cross_entropy(block.head(activations), labels, label_smoothing=0.1).backward()
            optimizer.step()
            x = activations


def eight_batches_only(blocks, optimizers, batches):
    train_queued(blocks, optimizers, [batches[i] for i in range(8)])


def without_smoothing(blocks, optimizers, batches):
    for images, labels in batches:
        for block, optimizer in zip(blocks, optimizers, strict=True):
            images = block.layers(images.detach())
            optimizer.zero_grad()
            F.cross_entropy(block.head(images), labels).backward()
            optimizer.step()


# --- Lesson 02


def aux4_parameters(inner: int) -> int:
    """64 maps in, 512 out, 10 classes; convolutions without bias, each with BatchNorm's two numbers a channel."""

    def inverted_residual(inputs, outputs):
        wide = 4 * inputs
        return inputs * wide + 2 * wide + 9 * wide + 2 * wide + wide * outputs + 2 * outputs

    more = 3 * inner // 2
    residuals = inverted_residual(inner, inner) + inverted_residual(inner, more) + inverted_residual(more, more)
    entry = 64 * inner + 2 * inner + 9 * inner + 2 * inner
    return entry + residuals + more * 512 + 2 * 512 + 512 * 10 + 10


def is_fair(draw, num_layers, num_blocks, heads, n=4000):
    counts = Counter((cut.splits, cut.heads) for cut in map(draw, range(n)))
    every = list(
        product(combinations(range(1, num_layers), num_blocks - 1), product(heads, repeat=num_blocks - 1))
    )
    chance = 1 / len(every)
    return all(abs(counts[one] - n * chance) < 4.5 * math.sqrt(n * chance * (1 - chance)) for one in every)


def all_occur(draw, num_layers, num_blocks, heads):
    drawn = {str(draw(seed)) for seed in range(2000)}
    return len(drawn) == count_configurations(num_layers, num_blocks, len(heads))


def only_what_was_drawn(draw, num_layers, num_blocks, heads):
    counts = Counter(str(draw(seed)) for seed in range(4000)).values()
    expected = 4000 / len(counts)
    return all(abs(count - expected) < 4.5 * math.sqrt(expected) for count in counts)


def six_decouplings(draw, num_layers, num_blocks, heads):
    counts = Counter(str(draw(seed)) for seed in range(3000))
    return len(counts) == 6 and all(abs(count - 500) < 100 for count in counts.values())


def too_strict(draw, num_layers, num_blocks, heads):
    return len(set(Counter(str(draw(seed)) for seed in range(600)).values())) == 1


# --- Lesson 03


def gate(inside: Callable, outside: Callable, to_share: Callable = lambda gradient: None):
    class Gate(torch.autograd.Function):
        inner = False

        @staticmethod
        def forward(ctx, x, share):
            ctx.save_for_backward(share)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            (share,) = ctx.saved_tensors
            return (inside if Gate.inner else outside)(gradient, share), to_share(gradient)

    return Gate


def scaled(gradient, share):
    return gradient * share


def passed(gradient, share):
    return gradient


# --- Lesson 04


class OneSet:
    def __init__(self):
        self.weights, self.step, self.error = None, None, math.inf

    def offer(self, weights, step, error):
        if error >= self.error:
            return False
        self.weights, self.step, self.error = weights, step, error
        return True

    def sample(self, generator):
        return self, self.weights

    def renew(self, entry, weights, step):
        self.weights, self.step, self.error = weights, step, None


class KeepsTheLast(OneSet):
    def offer(self, weights, step, error):
        self.weights = weights
        return True


class TakesEquals(OneSet):
    def offer(self, weights, step, error):
        better = error <= self.error
        if better:
            self.weights, self.error = weights, error
        return better


class ComparesWithTheLastOffer(OneSet):
    def offer(self, weights, step, error):
        better, self.error = error < self.error, error
        if better:
            self.weights = weights
        return better


class NeverRenewed(OneSet):
    def renew(self, entry, weights, step):
        pass


class KeepsTheFirst(OneSet):
    def offer(self, weights, step, error):
        if self.weights is not None:
            return False
        self.weights = weights
        return True


class SaysKeptOnly(OneSet):
    """Right answers, but the last snapshot is what is in the memory."""

    def offer(self, weights, step, error):
        better = super().offer(weights, step, error)
        self.weights = weights
        return better


class GivenAway(OneSet):
    def sample(self, generator):
        weights, self.weights = self.weights, None
        return self, weights


# --- Lesson 05


def undecided(alpha):
    shares = 1 / (1 + np.exp(-(alpha[:, 0] - alpha[:, 1]).double().numpy()))
    ranked = np.sort(shares.astype(np.float32))[::-1]
    return [cuts + 1 for cuts in range(1, len(ranked)) if ranked[cuts - 1] == ranked[cuts]]


def undecided_exactly(alpha):
    ranked = sorted((alpha[:, 0] - alpha[:, 1]).double().tolist())[::-1]
    return [cuts + 1 for cuts in range(1, len(ranked)) if ranked[cuts - 1] == ranked[cuts]]


def undecided_as_cuts(alpha):
    return [k - 1 for k in undecided(alpha)]


def undecided_with_the_end(alpha):
    return sorted({k + more for k in undecided(alpha) for more in (0, 1)})


def tied_layers(alpha):
    shares = torch.sigmoid(alpha[:, 0] - alpha[:, 1]).float()
    return [layer for layer in range(1, len(shares) + 1) if (shares == shares[layer - 1]).sum() > 1]


# --- Lesson 06


def vgg19_times() -> layer_times.LayerTimes:
    spec = records.TimingSpec(NetworkConfig("vgg19"), num_classes=10, image_size=32, batch_size=128)
    return timing_runs.layer_times_of(runs.RunStore(places.home() / "results").load(spec))


def seconds_of_blocks(times, splits, head):
    edges = (0, *splits, len(times.forward))
    found = []
    for before, last in zip(edges, edges[1:], strict=False):
        backward = times.backward_alone[before] + sum(times.backward[before + 1 : last])
        top = times.classifier if last == len(times.forward) else times.heads[head][last - 1]
        found.append(sum(times.forward[before:last]) + backward + sum(times.update[before:last]) + top)
    return found


def fastest(times, num_blocks, head):
    every = combinations(range(1, len(times.forward)), num_blocks - 1)
    return cuts(len(times.forward), *min(every, key=lambda s: max(seconds_of_blocks(times, s, head))), head=head)


def lightest_layers(times, num_blocks, head):
    without = replace(times, heads={name: (0.0,) * 99 for name in times.heads}, classifier=0.0)
    return fastest(without, num_blocks, head)


def one_cut_after_another(times, num_blocks, head):
    splits = ()
    for _ in range(num_blocks - 1):
        more = [sorted((*splits, s)) for s in range(1, len(times.forward)) if s not in splits]
        splits = min(more, key=lambda s: max(seconds_of_blocks(times, s, head)))
    return cuts(len(times.forward), *splits, head=head)


def pace(depth: int, steps: int = 400) -> float:
    """Milliseconds a step of two blocks, 80 and 120, with `depth` slots between them."""
    sent, done = [], []
    for step in range(steps):
        begin = sent[-1] if sent else 0  # block 1 goes on when its last batch has left
        sent.append(max(begin + 80, done[step - depth] if step >= depth else 0))
        done.append(max(sent[-1], done[-1] if done else 0) + 120)
    return (done[-1] - done[steps // 2]) / (steps - 1 - steps // 2)


# --- Lesson 07


def changes(schedule):
    epoch = 1_281_167 // schedule.batch_size
    found, before = [], None
    for number in range(schedule.steps // epoch):
        rate = schedule.rate(number * epoch)
        if before is not None and rate != before:
            found.append(number)
        before = rate
    return found


def epochs_of_5004_steps(schedule):
    rates = [schedule.rate(5004 * number) for number in range(schedule.steps // 5004)]
    return [number for number in range(1, len(rates)) if rates[number] != rates[number - 1]]


# --- Lesson 08


def agreement_by_sampling(a, b, n):
    draw = np.random.default_rng(7)
    a, b = a.numpy(), b.numpy()
    z = draw.random((n, len(a))) < 1 / (1 + np.exp(-a))
    beta = np.where(z, 1 / (1 + np.exp(-b)), 1 / (1 + np.exp(b)))
    return np.log((2 * beta).prod(1).mean())


def log_of_each(a, b, n):
    draw = np.random.default_rng(7)
    z = draw.random((n, len(a))) < 1 / (1 + np.exp(-a.numpy()))
    beta = np.where(z, torch.sigmoid(b).numpy(), torch.sigmoid(-b).numpy())
    return np.log(2 * beta).sum(1).mean()


def closed_form(a, b, n):
    both = torch.sigmoid(a) * torch.sigmoid(b) + torch.sigmoid(-a) * torch.sigmoid(-b)
    return torch.log(2 * both).sum()


# --- Lesson 09


def rest_of_alpha(constant: float) -> float:
    """Adam by hand on the toy of Section 9.2: local loss 2.5 + 1.1 (s - 1), loss from above 1."""
    alpha, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    for step in range(1, 2001):
        local = 1 / (1 + np.exp(alpha[1] - alpha[0]))
        slope = local * (1 - local) * (2.5 + 1.1 * (1 / (local + constant) - 1) - 1.0)
        gradient = np.array([slope, -slope]) + 1e-6 * alpha
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        alpha -= 0.01 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return alpha[0]


def outer_step(memory, position, capacity):
    taken = memory.pop(position)
    if len(memory) == capacity:
        memory.pop(0)
    return [*memory, taken]


def stays_in_the_memory(memory, position, capacity):
    memory.append(memory[position])
    return memory[-capacity:]


# --- The tables

ALPHA = [(-2.0, 1.0), (0.5, -0.5), (-0.2, 0.4), (1.2, 0.9)]
SPEED = 256 * 2 * 512 * 28 * 28 / 0.4 / 1e9  # layer 11 of ResNet-152 ends on 512 maps of 28x28

RIGHT: dict[str, list[Any]] = {
    "00.1": ["higher", " Higher "],
    "00.2": [cuts(8, *range(1, 8)), cuts(16, *range(1, 16))],
    "00.3": [contenders],
    "01.1": ["larger, smaller"],
    "01.2": [message_without_detach(), RuntimeError(message_without_detach())],
    "01.3": [train_queued],
    "02.1": [max(range(1, 17), key=lambda k: math.comb(15, k - 1) * 4 ** (k - 1)), 13.0, np.int64(13)],
    "02.2": [aux4_parameters(64) / aux4_parameters(16), 6.9, torch.tensor(6.9)],
    "02.3": [is_fair],
    "03.1": ["w1", "W1"],
    "03.2": [0.035, 0.0346],
    "03.3": [gate(scaled, passed)],
    "04.1": [2, 2.0],
    "04.2": [1e-5, 1e-6],
    "04.3": [OneSet, lambda: WeightMemory(capacity=1)],
    "05.1": ["shares", {"shares"}, ["shares"]],
    "05.2": [{2}, [2], (2,), torch.tensor([2]), 2],
    "05.3": [undecided],
    "06.1": [tuple(pace(depth) for depth in (1, 2, 100)), np.array([120, 120, 120])],
    "06.2": [min(range(1, 16), key=lambda split: max(seconds_of_blocks(vgg19_times(), (split,), "aux1")))],
    "06.3": [fastest],
    "07.1": ["the same"],
    "07.2": [SPEED, 0.51],
    "07.3": [changes],
    "08.1": ["nothing"],
    "08.2": [{2, 3}, [3, 2]],
    "08.3": [agreement_by_sampling],
    "09.1": ["nearer to zero"],
    "09.2": [rest_of_alpha(1e-3), -5.7],
    "09.3": [outer_step],
}

WRONG: dict[str, list[tuple[Any, str]]] = {
    "00.1": [("lower", "express"), ("the same", "untrained"), ("that of guessing", "scale of the axis")],
    "00.2": [
        (cuts(8, 4), "halves"),
        (cuts(8), "one block for all"),
        (cuts(8, *range(1, 7)), "more than one layer"),
        (cuts(8, *range(1, 8), head="mlp-sr"), "heads have changed"),
    ],
    "00.3": [
        (lambda num_layers: contenders(8), "lesson's network whatever"),
        (lambda n: contenders(n) | {"backprop": cuts(n, n // 2)}, "does backpropagation have"),
        (lambda n: contenders(n) | {"halves": cuts(n, -(-n // 2))}, "no middle"),
        (
            lambda n: {
                name: Decoupling(n, cut.splits, ("mlp-sr",) * len(cut.splits))
                for name, cut in contenders(n).items()
            },
            "DGL's head",
        ),
        (lambda n: list(contenders(n).values()), "no dict"),
    ],
    "01.1": [
        ("smaller, smaller", "old target"),
        ("larger, larger", "sign of w_2"),
        ("smaller, larger", "against it"),
    ],
    "01.2": [
        ("RuntimeError", "kind of the error"),
        ("no error", "a detach is left"),
        (
            "one of the variables needed for gradient computation has been modified by an inplace operation",
            "next lock",
        ),
        ("element 0 of tensors does not require grad and does not have a grad_fn", "too much is cut off"),
        (AttributeError("'builtin_function_or_method' object has no attribute 'dim'"), "another message"),
    ],
    "01.3": [
        (train_greedily, "nothing ever waits"),
        (never_drained, "missed the last batch"),
        (newer_labels, "travel along"),
        (stale_no_more, "computed anew"),
        (not_detached, "backward through the graph"),
        (eight_batches_only, "for a single batch it stopped with IndexError"),
        (without_smoothing, "not those of greedy_step"),
        (lambda blocks, optimizers, batches: None, "No weight has moved"),
    ],
    "02.1": [(12, "One cut makes two"), (8, "the middle"), (9, "the middle"), (16, "M^(K-1)"), (3, "every k")],
    "02.2": [
        (16, "between inner channels"),
        (4.0, "both its ends"),
        (1, "reach build_head"),
        (aux4_parameters(16) / aux4_parameters(64), "other way round"),
        (219_850, "That is a size"),
        (2.5, "either inner width"),
    ],
    "02.3": [
        (all_occur, "not equally likely"),
        (only_what_was_drawn, "does not show what was not"),
        (six_decouplings, "more than six"),
        (too_strict, "by chance"),
        (lambda *_: True, "loaded ones as well"),
    ],
    "03.1": [("w2", "mixes half"), ("w3", "right below"), ("none", "second numbers")],
    "03.2": [
        (0.476, "lesson's own"),
        (0.005, "fewer inner steps"),
        (0.0, "nothing is crossed"),
        (2.945, "pitfall 2"),
        (3.5, "percent"),
        (0.2, "parameters cell"),
    ],
    "03.3": [
        (gate(scaled, scaled), "Right for one inner step"),
        (gate(passed, passed), "unscaled"),
        (gate(passed, scaled), "unscaled"),
        (gate(scaled, passed, lambda gradient: gradient.sum()), "the only factor"),
        (gate(lambda gradient, share: gradient * share.item(), passed), "plain number"),
        (gate(lambda gradient, share: 0.5 * gradient, passed), "plain number"),
        (gate(lambda gradient, share: 2 * share * share * gradient, passed), "share"),
    ],
    "04.1": [
        (1, "the rate itself"),
        (3, "half is passed"),
        (4, "lesson takes"),
        (1.94, "steps are whole"),
        (9, "arrived"),
    ],
    "04.2": [
        (1e-2, "kinks"),
        (1e-7, "lesson's own h"),
        (1e-11, "rounding"),
        (-5, "exponent"),
        (3e-6, "powers of ten"),
    ],
    "04.3": [
        (KeepsTheLast, "larger error"),
        (TakesEquals, "equal errors"),
        (ComparesWithTheLastOffer, "larger error"),
        (KeepsTheFirst, "was refused"),
        (SaysKeptOnly, "last one offered"),
        (NeverRenewed, "take the set's place"),
        (GivenAway, "entry and the weights"),
    ],
    "05.1": [
        (set(), "both columns"),
        ({"shares", "ranking"}, "increasing"),
        (["shares", "ranking", "decoupling"], "increasing"),
        ("decoupling", "ranking alone"),
    ],
    "05.2": [
        (set(), "asks for one layer"),
        ({3}, "in whatever order"),
        ({2, 3}, "in whatever order"),
        ({4}, "a layer or"),
    ],
    "05.3": [
        (undecided_with_the_end, "last of its group"),
        (undecided_as_cuts, "numbers of cuts"),
        (tied_layers, "tied layers"),
        (undecided_exactly, "float32"),
        (lambda alpha: [3], "All are equal"),
        (lambda alpha: [], "last cut have to fall"),
    ],
    "06.1": [
        ((200, 200, 200), "on its way"),
        ((80, 80, 80), "no free slot"),
        ((100, 100, 100), "help the slower"),
        ((0.12, 0.12, 0.12), "seconds"),
        ((200, 120, 120), "single slot"),
        ((120, 120, 80), "take long to fill"),
        ((1, 2, 100), "sets the pace"),
    ],
    "06.2": [(8, "half of the depth"), (1, "largest maps"), (4, "block 1 takes"), (12, "block 1 takes")],
    "06.3": [
        (lambda times, k, head: Decoupling.uniform(len(times.forward), k, head=head), "equal depth"),
        (lightest_layers, "without the heads"),
        (one_cut_after_another, "best pair"),
        (lambda times, k, head: fastest(vgg19_times(), 4, "aux1"), "from the arguments"),
    ],
    "07.1": [
        ("another order", "place in the batch"),
        ("other crops", "eight random"),
        ("other pictures", "function of"),
    ],
    "07.2": [
        (2 * SPEED, "not their sum"),
        (SPEED / 2, "the busiest boundary"),
        (8 * SPEED, "bits"),
        (0.16 * SPEED, "Multiplied"),
        (514, "megabytes"),
        (5.1e8, "1e9 bytes each"),
        (0.7, "mind the unit"),
    ],
    "07.3": [
        (lambda schedule: [k + 1 for k in changes(schedule)], "number 0"),
        (lambda schedule: [k - 1 for k in changes(schedule)], "first epoch at the new rate"),
        (lambda schedule: [0, *changes(schedule)], "has none before it"),
        (lambda schedule: [10, 20, 30, 40], "or are they DGL's"),
        (
            lambda schedule: [*changes(schedule), schedule.steps * schedule.batch_size // 1_281_000],
            "behind the end",
        ),
        (epochs_of_5004_steps, "batch_size"),
    ],
    "08.1": [
        ("only the bound", "made of posteriors"),
        ("the bound and the gradients", "alone"),
        ("everything", "sum to one"),
    ],
    "08.2": [
        ({3}, "the one before it"),
        ({1}, "Turned round"),
        ({1, 2, 3}, "says nothing"),
        ({1, 3}, "middle link"),
    ],
    "08.3": [
        (lambda a, b, n: agreement_by_sampling(a, b, n) - len(a) * math.log(2), "What became of h"),
        (lambda a, b, n: agreement_by_sampling(a, b, n) + (4 - len(a)) * math.log(2), "four parts only"),
        (log_of_each, "Average first"),
        (closed_form, "closed form"),
        (lambda a, b, n: math.exp(agreement_by_sampling(a, b, n)), "logarithm is asked for"),
        (lambda a, b, n: agreement_by_sampling(a, b, n) + F.softplus(b).sum().item(), "its norm"),
        (lambda a, b, n: 1.5, "Draw z from alpha"),
    ],
    "09.1": [
        ("near -7.8, as on its own", "still divide"),
        ("exactly at zero", "steady"),
        ("below -7.8", "smaller"),
    ],
    "09.2": [
        (-7.8, "code's own"),
        (-3.3, "is the trick on"),
        (3.3, "the better one"),
        (5.7, "which way"),
        (-3.45, "begins to fade"),
        (-6.7, "1e-4"),
        (-4.7, "1e-2"),
        (0.0, "settled(1.0, True)"),
    ],
    "09.3": [
        (stays_in_the_memory, "the sampled set stays"),
        (lambda memory, position, capacity: memory, "from the oldest to the newest"),
        (lambda memory, position, capacity: [*memory[1:], memory[position]], "when there is room"),
        (lambda memory, position, capacity: [m for i, m in enumerate(memory) if i != position], "never came back"),
        (lambda memory, position, capacity: [memory.pop(position), *memory], "at which end"),
        (lambda memory, position, capacity: [*memory[1:], memory[0]], "Follow the names"),
    ],
}

SECRETS: dict[str, tuple[str, ...]] = {  # what a hint must not say, as regular expressions
    "00.1": ("higher",),
    "00.2": ("num_layers=", r"\b8\b"),
    "00.3": (r"uniform\(",),
    "01.1": ("larger, smaller", r"\b20\b", "-1"),
    "01.2": ("second time",),
    "01.3": ("popleft", r"\.pop"),
    "02.1": (r"\b13\b", "thirteen"),
    "02.2": (r"6\.[89]",),
    "02.3": ("return",),
    "03.1": (r"\bw1\b", r"w_1"),
    "03.2": (r"0?\.03[45]",),
    "03.3": ("if LevelGate.inner",),
    "04.1": (r"\b2\b", r"\btwo\b"),
    "04.2": ("1e-0?[56]",),
    "04.3": ("WeightMemory",),
    "05.1": ("shares",),
    "05.2": (r"\b2\b",),
    "05.3": (r"ranks\[",),
    "06.1": (r"\b120\b",),
    "06.2": (r"\b[56]\b",),
    "06.3": ("min\\(",),
    "07.1": ("the same",),
    "07.2": (r"0?\.51",),
    "07.3": (r"\b10\b", r"\b40\b"),
    "08.1": ("nothing",),
    "08.2": (r"2, 3", "2 and 3"),
    "08.3": ("softplus", r"a \+ b"),
    "09.1": ("nearer",),
    "09.2": (r"5\.7",),
    "09.3": (r"\.pop", r"memory\["),
}


ONLY_THE_LESSONS_CASE: dict[str, tuple[Any, str]] = {  # right there, and the case or the words that find them out
    "00.3": (lambda num_layers: contenders(8), "whatever its argument"),
    "01.3": (eight_batches_only, "for a single batch"),
    "02.3": (six_decouplings, "L = 4, K = 3"),
    "03.3": (gate(scaled, scaled), "Right for one inner step"),
    "04.3": (TakesEquals, "two snapshots with equal errors"),
    "05.3": (lambda alpha: {3}, "learned nothing"),
    "06.3": (lambda times, num_blocks, head: fastest(vgg19_times(), 4, "aux1"), "six layers, K = 3"),
    "07.3": (lambda schedule: [10, 20, 30, 40], "stairs of 15 epochs"),
    "08.3": (lambda a, b, n: agreement_by_sampling(a, b, n) + (4 - len(a)) * math.log(2), "for four parts only"),
    "09.3": (lambda memory, position, capacity: [*memory[1:], memory[0]], "its second set"),
}


class Awkward:
    """Raises whatever one asks it."""

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None

    def __float__(self):
        raise KeyError("float")

    def __iter__(self):
        raise ArithmeticError("iter")

    def __getattr__(self, name):
        raise LookupError(name)


def endless():
    while True:
        yield 1


def leaves(*arguments):
    sys.exit("gone")


NONSENSE = {
    "None": None,
    "an empty text": "",
    "a long text\nof two lines": "x\n" * 1000,
    "a truth value": True,
    "NaN": float("nan"),
    "infinity": float("-inf"),
    "a complex number": 1 + 2j,
    "a huge number": 10**400,
    "a list of anything": [None, "x", float("nan")],
    "a dict": {"a": 1},
    "a generator without end": endless(),
    "a tensor of a wrong shape": torch.zeros(3, 1, 4),
    "a tensor of NaN": torch.full((3,), float("nan")),
    "a tensor without numbers": torch.zeros(3, device="meta"),
    "an array of objects": np.array([None, "x"], dtype=object),
    "a function without parameters": lambda: None,
    "a function that returns None": lambda *arguments: None,
    "a function that returns a text": lambda *arguments: "x",
    "a function that returns NaN": lambda *arguments: float("nan"),
    "a function that raises": lambda *arguments: 1 / 0,
    "a function that leaves": leaves,
    "a class": SimpleNamespace,
    "an exception class": ValueError,
    "a module": math,
    "NotImplemented": NotImplemented,
    "an awkward object": Awkward(),
    "an awkward class": Awkward,
}
every_exercise = pytest.mark.parametrize("name", exercises.names())


def has_one_short_line(message: str) -> bool:
    return "\n" not in message and len(message) < 300


@every_exercise
def test_right_answers_are_accepted_with_a_reason(name: str) -> None:
    for answer in RIGHT[name]:
        verdict = exercises.judge(name, answer)
        assert verdict.right, verdict.message
        assert verdict.message == f"Exercise {name}: right. {exercises.exercise(name).because}"
        assert has_one_short_line(verdict.message)


@every_exercise
def test_each_typical_mistake_gets_its_own_hint(name: str) -> None:
    hints = []
    for answer, word in WRONG[name]:
        verdict = exercises.judge(name, answer)
        assert not verdict.right, answer
        assert verdict.message.startswith(f"Exercise {name}: not yet. ")
        assert word in verdict.message, verdict.message
        assert has_one_short_line(verdict.message)
        hints.append(verdict.message)
    assert len(set(hints)) >= 3


@pytest.mark.parametrize("name", ONLY_THE_LESSONS_CASE)
def test_a_function_has_to_be_right_elsewhere_too(name: str) -> None:
    answer, word = ONLY_THE_LESSONS_CASE[name]
    verdict = exercises.judge(name, answer)
    assert not verdict.right
    assert word in verdict.message, verdict.message


@every_exercise
def test_no_hint_gives_the_answer_away(name: str) -> None:
    """What is left of a message without the description of what is expected, which lists the choices."""
    for answer in (*(wrong for wrong, _ in WRONG[name]), *NONSENSE.values()):
        message = exercises.judge(name, answer).message
        message = message.replace(f"Exercise {name}:", "").replace(exercises.exercise(name).expected, "")
        for secret in SECRETS[name]:
            assert not re.search(secret, message), (secret, message)


@every_exercise
def test_nonsense_is_answered_politely(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, answer in NONSENSE.items():
        verdict = exercises.judge(name, answer)
        assert not verdict.right, kind
        assert has_one_short_line(verdict.message), kind
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in exercises.names() if name.endswith("3")])
@pytest.mark.parametrize("error", [ValueError("one\nline"), KeyError("x"), SystemExit("gone"), RecursionError()])
def test_an_error_in_a_function_is_named(name: str, error: BaseException) -> None:
    def raises(*arguments):
        raise error

    answer = gate(raises, raises) if name == "03.3" else raises
    message = exercises.judge(name, answer).message
    assert f"stopped with {type(error).__name__}" in message
    assert has_one_short_line(message)


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (readings.number, True),
        (readings.number, "3"),
        (readings.number, torch.tensor(True)),
        (readings.number, np.bool_(True)),
        (readings.number, torch.tensor([1.0, 2.0])),
        (readings.number, 1j),
        (readings.whole_number, 2.5),
        (readings.whole_numbers, "23"),
        (readings.whole_numbers, True),
        (readings.whole_numbers, float("nan")),
        (readings.whole_numbers, {2: 3}),
        (readings.whole_numbers, [2, 2.5]),
        (readings.truth, 1),
        (readings.truth, None),
        (readings.truth, np.array([True])),
    ],
)
def test_what_is_not_taken_for_an_answer(read: Callable[[Any], Any], answer: Any) -> None:
    with pytest.raises(WrongKind):
        read(answer)


@pytest.mark.parametrize(
    ("read", "answer", "value"),
    [
        (readings.number, np.float32(2.5), 2.5),
        (readings.number, torch.tensor([[2.5]]), 2.5),
        (readings.number, Fraction(5, 2), 2.5),
        (readings.whole_number, 3.0, 3),
        (readings.whole_numbers, torch.tensor([2, 3]), {2, 3}),
        (readings.whole_numbers, range(2, 4), {2, 3}),
        (readings.whole_numbers, {}, set()),
        (readings.truth, np.bool_(False), False),
        (readings.truth, torch.tensor(True), True),
    ],
)
def test_what_is_taken_for_an_answer(read: Callable[[Any], Any], answer: Any, value: Any) -> None:
    assert read(answer) == value


@every_exercise
def test_the_dots_ask_for_an_answer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exercises.check(name, ...) is None
    expected = exercises.exercise(name).expected
    wanted = f"Exercise {name}: your turn. Put your answer in place of the dots: {expected}."
    assert capsys.readouterr().out == fold(wanted) + "\n"
    assert has_one_short_line(wanted)


def test_an_unknown_exercise_is_one_line_that_lists_all() -> None:
    for name in ("01.4", "10.1", "", 1.1, None):
        with pytest.raises(SedonaError) as caught:
            exercises.check(name, 3)
        assert "\n" not in str(caught.value)
        assert all(known in str(caught.value) for known in exercises.names())


def test_there_are_thirty_of_three_kinds() -> None:
    assert len(exercises.names()) == 30
    kinds = [exercises.exercise(name).kind for name in exercises.names()]
    assert kinds == ["predict", "change", "extend"] * 10
    assert all(exercises.exercise(name).name == name for name in exercises.names())


def test_a_verdict_is_a_value() -> None:
    verdict = exercises.judge("04.1", 3)
    assert verdict == exercises.judge("04.1", 3)
    with pytest.raises(AttributeError):
        verdict.right = True


def test_a_function_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints, sets and draws stays inside; its arguments are new for every call."""

    def noisy(memory, position, capacity):
        print("at work")
        print("trouble", file=sys.stderr)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(1)
        torch.set_grad_enabled(False)
        return outer_step(memory, position, capacity)

    before = torch.get_rng_state()
    assert exercises.judge("09.3", noisy).right
    assert capsys.readouterr() == ("", "")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["01.3", "02.3", "03.3", "05.3", "08.3"])
def test_verdicts_do_not_depend_on_the_default_type(name: str) -> None:
    """Lessons 03 and 04 compute in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        assert exercises.judge(name, RIGHT[name][0]).right
        assert not exercises.judge(name, WRONG[name][0][0]).right
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_interrupt_gets_through() -> None:
    """Who waits for a function without end must be able to stop it."""

    def interrupted(alpha):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercises.judge("05.3", interrupted)


def test_judging_is_quick() -> None:
    """Processor time on one thread, the function tried included."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent = {}
    for name in exercises.names():
        began = time.process_time()
        exercises.judge(name, RIGHT[name][0])
        spent[name] = time.process_time() - began
    torch.set_num_threads(threads)
    assert max(spent.values()) < 2, spent
    assert sum(spent.values()) < 20, spent


def test_a_lesson_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys; from sedona_nb import exercises; exercises.names(); print('torch' in sys.modules); "
        "exercises.judge('05.1', 3); print([name for name in sys.modules if 'exercises.lesson' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "['sedona_nb.exercises.lesson05']"]


def test_exercises_do_without_plotting_and_tables_until_they_need_them() -> None:
    code = (
        "import sys; from sedona_nb import exercises; [exercises.exercise(name) for name in exercises.names()]; "
        "print([name for name in ('pandas', 'matplotlib', 'seaborn', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- In the notebooks


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def checks(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """(exercise, what is checked, cell) of every check in a notebook, in order."""
    found = [(CHECK.search("".join(cell["source"])), cell) for cell in code_cells(path)]
    return [(match[1], match[2], cell) for match, cell in found if match]


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_asks_three_times(path: Path) -> None:
    lesson = path.name[:2]
    found = checks(path)
    assert [name for name, _, _ in found] == [f"{lesson}.{number}" for number in (1, 2, 3)]
    for name, _, cell in found:
        expected = exercises.exercise(name).expected
        assert "".join(cell["source"]) == f'answer = ...  # {expected}\nsd.exercises.check("{name}", answer)'
        assert printed(cell) == fold(exercises.judge(name, ...).message) + "\n"
        assert cell["metadata"].get("tags", []) == []  # compared strictly


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_question_stands_above_its_cell_and_names_what_is_asked(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    titles = {"predict": "Predict", "change": "Change one line", "extend": "Extend"}
    for name, _, cell in checks(path):
        above = cells[cells.index(cell) - 1]
        exercise, text = exercises.exercise(name), " ".join("".join(above["source"]).split())
        assert above["cell_type"] == "markdown"
        assert text.startswith(f"**{name[-1]}. {titles[exercise.kind]}.**")
        signature = re.search(r"\w+\([\w, ]*\)", exercise.expected) if exercise.kind == "extend" else None
        if signature and not signature[0].startswith(("LevelGate", "apply")):
            assert f"`{signature[0]}`" in text
        for choice in re.findall(r"'([^']+)'", exercise.expected):
            assert choice in text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_solutions_end_with_the_same_checks(path: Path) -> None:
    found = checks(path.parent / "solutions" / path.name)
    assert [name for name, _, _ in found] == [name for name, _, _ in checks(path)]
    for name, _, cell in found:
        assert printed(cell).endswith(fold(f"Exercise {name}: right. {exercises.exercise(name).because}") + "\n")


# --- Constants that take too long to compute while a person waits


@pytest.mark.slow
def test_the_constant_of_03_2_is_what_the_lesson_computes() -> None:
    from sedona_nb import bilevel, networks, pitfalls, relaxed

    torch.set_default_dtype(torch.float64)
    try:
        network = networks.build_resnet((1, 2, 1), width=1 / 8, num_classes=3, image_size=8)
        networks.initialize(network, 0)
        network = relaxed.relax(network, num_classes=3, width=1 / 64, seed=0).train()
        draw = torch.Generator().manual_seed(1)
        batches = [
            (torch.randn(16, 3, 8, 8, generator=draw), torch.randint(3, (16,), generator=draw)) for _ in range(5)
        ]
        alpha, beta = 6 * torch.randn(3, 2, generator=draw), 6 * torch.randn(3, 4, generator=draw)
        inner, weights = bilevel.InnerConfig(steps=4), bilevel.initial_weights(network)
        problem = bilevel.Problem(network, weights, alpha, beta, batches[:4], batches[4], 0.05, inner)
        right = bilevel.hypergradient(problem, backend="functional").alpha
        wrong = pitfalls.gated_hypergradient(problem, "scaled_backward").alpha
    finally:
        torch.set_default_dtype(torch.float32)
    error = ((wrong - right).norm() / right.norm()).item()
    assert error == pytest.approx(0.03455, abs=1e-4)
    assert exercises.judge("03.2", round(error, 3)).right


@pytest.mark.slow
def test_the_valley_of_04_2_lies_where_it_is_said_to_lie() -> None:
    from sedona_nb import bilevel, networks, relaxed, unroll

    torch.set_default_dtype(torch.float64)
    try:
        network = networks.build_vgg((8, "M", 8, 12, "M", 12), 1.0, num_classes=5, image_size=8, hidden=8)
        networks.initialize(network, 0)
        network = relaxed.relax(network, num_classes=5, width=1 / 64, seed=0).train()
        draw = torch.Generator().manual_seed(0)
        alpha, beta = 0.5 * torch.randn(3, 2, generator=draw), 0.5 * torch.randn(3, 4, generator=draw)
        *batches, validation = [
            (torch.randn(16, 3, 8, 8, generator=draw), torch.randint(5, (16,), generator=draw)) for _ in range(6)
        ]
        start, inner = bilevel.initial_weights(network), bilevel.InnerConfig(steps=5)
        problem = bilevel.Problem(network, start, alpha, beta, batches, validation, 0.05, inner)
        direction = torch.randn(3, 2, generator=draw)
        slope = (bilevel.hypergradient(problem).alpha * direction).sum().item()

        def error(h):
            ends = [
                unroll.outer_loss(replace(problem, alpha=alpha + t * direction), create_graph=False).item()
                for t in (h, -h)
            ]
            return abs((ends[0] - ends[1]) / (2 * h) - slope) / abs(slope)

        errors = {h: error(h) for h in (1e-2, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 1e-11)}
    finally:
        torch.set_default_dtype(torch.float32)
    assert exercises.judge("04.2", min(errors, key=errors.get)).right
    assert all(exercises.judge("04.2", h).right == (h in (1e-5, 1e-6)) for h in errors)
    assert max(errors[1e-5], errors[1e-6]) < errors[1e-7]
