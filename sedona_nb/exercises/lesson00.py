"""Exercises of lesson 00: a deeper head, a head for every layer, backpropagation as one decoupling of three."""

from __future__ import annotations

from typing import Any

from sedona_nb.decoupling import Decoupling
from sedona_nb.exercises import answers
from sedona_nb.exercises.readings import named
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise, WrongKind

HEAD = "aux2"  # of the lesson's lower block
NAMES = ("backprop", "halves", "layerwise")


def deeper_head(answer: Any) -> str | None:
    """A choice. Measured with seeds 0 to 14: from Aux 1 to Aux 4 the head's error rises in 14 of them."""
    return answers.choice(
        answer,
        right="higher",
        slips={
            "lower": "A deep head can express more once it is trained. But how far do forty steps bring it, "
            "compared with one that has almost no layers of its own?",
            "the same": "The lower half is the same, its teacher is not. How many untrained layers lie between "
            "the activations and the scores, and how long is the training?",
            "that of guessing": "A guess is wrong nine times out of ten. The deep head does learn; look at its "
            "curve again and at the scale of the axis.",
        },
    )


def layerwise_cut(answer: Any) -> str | None:
    """The lesson's `cut` after the change, for any number of layers: one block a layer, the heads unchanged."""
    if not isinstance(answer, Decoupling):
        raise WrongKind(f"this is {named(answer)}")
    layers = answer.num_layers
    if layers < 3:
        return "The lesson's network has more layers. Take num_layers and num_blocks both from the network."
    if answer.num_blocks == 1:
        return "This is one block for all layers, the other extreme: here nothing is cut at all."
    if answer.num_blocks == 2:
        return "This is still a cut in halves. Change the argument that says how many blocks there are."
    if answer.num_blocks < layers:
        return "Some block still holds more than one layer. How many blocks are there if each has a single one?"
    if set(answer.heads) != {HEAD}:
        return "The blocks are as asked, but their heads have changed, too. Change only the number of blocks."
    return None


def three_contenders(answer: Any) -> str | None:
    """A function of the number of layers, tried on networks of even and odd depth."""
    hints = {
        8: "Print the three decouplings and compare: which layers make up each block, and which head has it?",
        16: "This network is deeper than the lesson's. Does every decoupling take its number of layers from the "
        "argument?",
        5: "Five layers have no middle: cut where Decoupling.uniform cuts.",
        2: "With so few layers two of the three may well be the same decoupling.",
    }
    cases = [
        Case(f"{layers} layers", lambda layers=layers: (layers,), _contenders(layers), hint)
        for layers, hint in hints.items()
    ]
    slips = [
        (lambda layers: _contenders(8), "The function gives the lesson's network whatever its argument is."),
        (
            lambda layers: _contenders(layers) | {"backprop": _cut(layers, 2)},
            "One of the three still has a cut in it. How many blocks does backpropagation have?",
        ),
        (
            lambda layers: _contenders(layers, "mlp-sr"),
            "The cuts are right, the heads are not: without a word, Decoupling.uniform takes DGL's head.",
        ),
    ]
    return tried(answer, "contenders(num_layers)", cases, _three_decouplings, slips)


def _contenders(layers: int, head: str = HEAD) -> dict[str, Decoupling]:
    return {"backprop": _cut(layers, 1), "halves": _cut(layers, 2, head), "layerwise": _cut(layers, layers, head)}


def _cut(layers: int, blocks: int, head: str = HEAD) -> Decoupling:
    return Decoupling.uniform(layers, blocks, head=head)


def _three_decouplings(returned: Any) -> dict[str, Decoupling]:
    if not isinstance(returned, dict):
        raise WrongKind(f"{named(returned)}, no dict")
    if set(returned) != set(NAMES):
        raise WrongKind(f"a dict whose keys are not {', '.join(map(repr, NAMES))}")
    for value in returned.values():
        if not isinstance(value, Decoupling):
            raise WrongKind(f"{named(value)} in the dict, no Decoupling")
    return returned


EXERCISES = (
    Exercise(
        "00.1",
        "predict",
        "one of 'higher', 'lower', 'the same', 'that of guessing'",
        deeper_head,
        "The head has more to learn itself, and forty steps are short: so it was with 14 of 15 seeds. What the "
        "classifier makes of it differs from seed to seed.",
    ),
    Exercise(
        "00.2",
        "change",
        "the Decoupling that is now called cut",
        layerwise_cut,
        "Every layer is a block with a head of its own, and no layer ever hears of another one's error.",
    ),
    Exercise(
        "00.3",
        "extend",
        "a function contenders(num_layers) that returns a dict of three Decouplings",
        three_contenders,
        "Backpropagation is the decoupling with one block; the same trainer takes all three.",
    ),
)
