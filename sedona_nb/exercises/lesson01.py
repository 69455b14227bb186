"""Exercises of lesson 01: two opinions about one weight, a missing detach, and a queue between two blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nb.blocks import BlockNetwork, decouple
from sedona_nb.decoupling import Decoupling
from sedona_nb.exercises import answers
from sedona_nb.exercises.readings import named
from sedona_nb.exercises.trials import called
from sedona_nb.exercises.verdict import Exercise, WrongKind
from sedona_nb.networks import build_vgg, initialize

SIGNATURE = "train_queued(blocks, optimizers, batches)"
Batches = Sequence[tuple[Tensor, Tensor]]


def two_opinions(answer: Any) -> str | None:
    """By hand with y = 4: local gradient (3 - 4) 0.5 2 = -1, backpropagated (-6 - 4) (-1) 2 = 20."""
    return answers.choice(
        answer,
        right="larger, smaller",
        slips={
            "smaller, smaller": "So it was for the old target. What does the head say now, v a_1, and is it "
            "still too much?",
            "larger, larger": "The final error reaches w_1 through w_2: what does the sign of w_2 do to it?",
            "smaller, larger": "These are the signs of the two gradients. Does a step go along the gradient or "
            "against it?",
        },
    )


def without_detach(answer: Any) -> str | None:
    """The exception of PyTorch, or its text."""
    if not isinstance(answer, str | BaseException):
        raise WrongKind(f"this is {named(answer)}")
    text = " ".join(str(answer).lower().split())
    if "backward through the graph a" in text and "time" in text:
        return None
    if "modified by an inplace operation" in text:
        return (
            "That is the next lock: with retain_graph=True the graph is kept, but the first block's weights have "
            "moved on. Change nothing but the detach."
        )
    if "does not require grad" in text:
        return (
            "Here too much is cut off: this loss no longer reaches any weight. Take the one detach out, add none."
        )
    if text in ("runtimeerror", "error") or text.startswith("<class"):
        return "That is the kind of the error. Its message names what cannot be done; str(error) gives the text."
    if not text or "no error" in text:
        return (
            "There is an error. If nothing was said, a detach is left: is x still cut off where a block hands on?"
        )
    return "This is another message. Take only the .detach() out of greedy_step, and call it on a fresh network."


def queue_of_one(answer: Any) -> str | None:
    """A training function, compared bit for bit with the greedy step; hooks note who worked when."""
    start = _two_blocks()
    for count, about in ((8, "eight batches"), (1, "a single batch"), (3, "three batches")):
        batches = _batches(count)
        wanted, found = (copy.deepcopy(start) for _ in range(2))
        _greedy(wanted, batches)
        visits, hooks = _watched(found)
        try:
            called(answer, SIGNATURE, (found.blocks, _optimizers(found), list(batches)), about)
        finally:
            for hook in hooks:
                hook.remove()
        if not _same(found, wanted):
            for slip, hint in SLIPS:
                wrong = copy.deepcopy(start)
                slip(wrong, batches)
                if _same(found, wrong):
                    return hint
            return (
                f"With {about}, the weights are not those of greedy_step. Follow one batch: which activations "
                "and which labels does block 2 see, and when is each optimizer's step?"
            )
        if visits == [1, 2] * count and count > 1:
            return (
                "The weights are right, but nothing ever waits: block 2 is through with a batch before block 1 "
                "turns to the next. Let block 1 go first in every step."
            )
        if visits != [1, *([1, 2] * (count - 1)), 2]:
            return (
                f"The weights are right, but with {about} the blocks work in another order than a queue of one "
                "has."
            )
    return None


def _two_blocks() -> BlockNetwork:
    base = build_vgg((8, "M", 8, "M"), 1.0, num_classes=3, image_size=8, hidden=8)
    initialize(base, 0)
    return decouple(base, Decoupling(2, (1,), ("aux1",)), 3, 1 / 64, seed=0).train()


def _batches(count: int) -> Batches:
    draw, dtype = torch.Generator().manual_seed(0), torch.get_default_dtype()
    return [
        (torch.randn(6, 3, 8, 8, generator=draw, dtype=dtype), torch.randint(3, (6,), generator=draw))
        for _ in range(count)
    ]


def _optimizers(network: BlockNetwork) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(block.parameters(), lr=0.05, momentum=0.9) for block in network.blocks]


def _learn(block: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor) -> Tensor:
    """The body of the lesson's greedy_step: what a block does with whatever arrives."""
    activations = block.layers(x.detach())
    loss = F.cross_entropy(block.head(activations), labels, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return activations.detach()


def _greedy(network: BlockNetwork, batches: Batches, upper_labels: Callable[[int], int] = lambda i: i) -> None:
    optimizers = _optimizers(network)
    for i, (images, labels) in enumerate(batches):
        handed_on = _learn(network.blocks[0], optimizers[0], images, labels)
        _learn(network.blocks[1], optimizers[1], handed_on, batches[upper_labels(i)][1])


def _not_drained(network: BlockNetwork, batches: Batches) -> None:
    optimizers = _optimizers(network)
    for i, (images, labels) in enumerate(batches):
        handed_on = _learn(network.blocks[0], optimizers[0], images, labels)
        if i < len(batches) - 1:
            _learn(network.blocks[1], optimizers[1], handed_on, labels)


def _labels_left_behind(network: BlockNetwork, batches: Batches) -> None:
    _greedy(network, batches, lambda i: min(i + 1, len(batches) - 1))


def _computed_after_the_update(network: BlockNetwork, batches: Batches) -> None:
    optimizers = _optimizers(network)
    for images, labels in batches:
        _learn(network.blocks[0], optimizers[0], images, labels)
        _learn(network.blocks[1], optimizers[1], network.blocks[0].layers(images), labels)


SLIPS = (
    (lambda network, batches: None, "No weight has moved. Each block takes a training step on each batch."),
    (_not_drained, "Block 2 has missed the last batch. What is still in the queue when the loop ends?"),
    (
        _labels_left_behind,
        "Block 2 learns old activations with the labels of a newer batch. What has to travel along?",
    ),
    (
        _computed_after_the_update,
        "The activations were computed anew, after block 1's step. Hand on what it computed before.",
    ),
)


def _watched(network: BlockNetwork) -> tuple[list[int], list]:
    """A list that fills with the number of each block at work, and the hooks that fill it."""
    visits: list[int] = []
    hooks = [
        block.layers[0].register_forward_pre_hook(lambda module, inputs, number=number: visits.append(number))
        for number, block in enumerate(network.blocks, 1)
    ]
    return visits, hooks


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Equal weights, bit for bit; BatchNorm's statistics count, too."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


EXERCISES = (
    Exercise(
        "01.1",
        "predict",
        "one of 'smaller, smaller', 'larger, larger', 'larger, smaller', 'smaller, larger'",
        two_opinions,
        "The local gradient is -1, backprop's is 20: a local loss is another opinion, not a cheap copy of the "
        "global one.",
    ),
    Exercise(
        "01.2",
        "change",
        "the error that PyTorch raises, or its message as a text",
        without_detach,
        "Block 1 has already let go of its activations and taken its step; to let loss 2 through it would have "
        "to keep them and wait.",
    ),
    Exercise(
        "01.3",
        "extend",
        f"a function {SIGNATURE} that changes the blocks in place",
        queue_of_one,
        "Block 2 sees the same inputs in the same order, only later; that is all a block's weights depend on.",
    ),
)
