"""Exercises of lesson 02: the commonest number of blocks, the size of a head, and a test of a random drawer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from sedona_nb.costs import build_on_meta, parameter_count
from sedona_nb.decoupling import Decoupling, count_configurations
from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise
from sedona_nb.heads import HeadConfig, build_head

SIGNATURE = "is_fair(draw, num_layers, num_blocks, heads)"
TWO = ("aux1", "aux2")


def commonest_number_of_blocks(answer: Any) -> str | None:
    """The largest of the counts; K - 1 is the mode of a binomial distribution, 15 trials with chance 4/5."""
    counts = {k: count_configurations(16, k) for k in range(1, 17)}
    most = max(counts, key=counts.get)
    middle = (
        "That is the middle, where there are most sets of cut points. But each cut also brings a choice of heads."
    )
    return answers.whole_number(
        answer,
        most,
        slips=[
            (most - 1, "Is that a number of cuts or of blocks? One cut makes two blocks."),
            (8, middle),
            (9, middle),
            (16, "M^(K-1) is largest there, but every layer being cut leaves only one set of cut points."),
            (15, "That is the number of layers that may be cut. How many of them does a typical decoupling cut?"),
        ],
        otherwise="Print count_configurations(16, k) for every k and look for the largest; mind blocks and cuts.",
    )


def growth_of_the_head(answer: Any) -> str | None:
    """Parameters of Aux 4 with the full inner width over those with a quarter, counted without numbers in them."""
    quarter, full = (_size("aux4", inner_width) for inner_width in ("quarter", "full"))
    sizes = "That is a size. Divide it by the size of the other one."
    return answers.number(
        answer,
        full / quarter,
        tolerance=0.05,
        slips=[
            (
                16,
                "So much grow only the convolutions between inner channels. How much do the first, the last and "
                "the linear map grow?",
            ),
            (4, "So much grow the channels. A convolution from inner to inner channels grows with both its ends."),
            (quarter / full, "That is the factor by which it shrinks: the other way round."),
            (
                1,
                "Nothing has grown: does the configuration reach build_head? Its argument is called config.",
            ),
            (_size("aux1", "full") / _size("aux1", "quarter"), "That is Aux 1, which has no inverted residuals."),
            (full, sizes),
            (quarter, sizes),
        ],
        otherwise="Count parameters of build_head('aux4', 64, 8, 10, 0.25, HeadConfig(...)) with either inner "
        "width.",
    )


def _size(head: str, inner_width: str) -> int:
    config = HeadConfig(inner_width=inner_width)
    return parameter_count(build_on_meta(lambda: build_head(head, 64, 8, 10, 0.25, config)))


def fairness(answer: Any) -> str | None:
    """A statistical test, tried on fair and on loaded drawers."""
    chance = "Counts stray by chance: by how many standard deviations, sqrt(n p (1 - p)), is this one off?"
    cases = [
        Case(
            "Decoupling.random with L = 4, K = 2 and two heads", lambda: (_honest(4, 2), 4, 2, TWO), True, chance
        ),
        Case(
            "a drawer that takes one head three times as often",
            lambda: (_favourite_head, 4, 2, TWO),
            False,
            "All six decouplings occur, and yet they are not equally likely: compare how often each of them "
            "comes, cut and head together.",
        ),
        Case(
            "a drawer that leaves one decoupling out",
            lambda: (_one_left_out, 4, 2, TWO),
            False,
            "A list of what was drawn does not show what was not. How many decouplings should there be?",
        ),
        Case(
            "Decoupling.random with L = 4, K = 3 and three heads",
            lambda: (_honest(4, 3, heads=(*TWO, "aux3")), 4, 3, (*TWO, "aux3")),
            True,
            "Here are more than six decouplings. Do the expected count and the spread come from the arguments? "
            "And of many deviations the largest is larger.",
        ),
        Case(
            "a drawer that chooses the lower cut first",
            lambda: (_lower_cut_first, 5, 3, TWO),
            False,
            "Each layer may come as a cut, but high cuts come together too often. Count whole decouplings.",
        ),
    ]
    always = "Every drawer is called fair, loaded ones as well. What would a loaded one do to the counts?"
    never = "Every drawer is called unfair, Decoupling.random as well. " + chance
    return tried(
        answer, SIGNATURE, cases, readings.truth, slips=[(lambda *_: True, always), (lambda *_: False, never)]
    )


def _honest(layers: int, blocks: int, heads: Sequence[str] = TWO) -> Callable[[int], Decoupling]:
    return lambda seed: Decoupling.random(layers, blocks, seed, heads=heads)


def _favourite_head(seed: int) -> Decoupling:
    draw = random.Random(seed)
    return Decoupling(4, (draw.randint(1, 3),), (draw.choice(("aux1", "aux1", "aux1", "aux2")),))


def _one_left_out(seed: int) -> Decoupling:
    draw = random.Random(seed)
    split, head = draw.choice([(split, head) for split in (1, 2, 3) for head in TWO][:-1])
    return Decoupling(4, (split,), (head,))


def _lower_cut_first(seed: int) -> Decoupling:
    draw = random.Random(seed)
    lower = draw.randint(1, 3)
    return Decoupling(5, (lower, draw.randint(lower + 1, 4)), (draw.choice(TWO), draw.choice(TWO)))


EXERCISES = (
    Exercise(
        "02.1",
        "predict",
        "K, a whole number of blocks from 1 to 16",
        commonest_number_of_blocks,
        "Cutting each of 15 layers with chance 4/5 gives about 12 cuts: most decouplings have many blocks, "
        "because every cut brings a choice of heads.",
    ),
    Exercise(
        "02.2",
        "change",
        "the factor as a number, to one decimal: parameters with 'full' over parameters with 'quarter'",
        growth_of_the_head,
        "The convolutions between inner channels grow 16 times, the first, the last and the linear map less.",
    ),
    Exercise(
        "02.3",
        "extend",
        f"a function {SIGNATURE} that returns True or False",
        fairness,
        "It compares the count of every decoupling, also of one that never came, with what chance allows.",
    ),
)
