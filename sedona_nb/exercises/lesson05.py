"""Exercises of lesson 05: what a shift of alpha changes, a ranking by scores, and every K that is undecided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sedona_nb.discretization import rank_layers
from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise

PARTS = ("shares", "ranking", "decoupling")
TOY = ((-2.0, 1.0), (0.5, -0.5), (-0.2, 0.4), (1.2, 0.9))  # alpha of Section 5.1


def shifted_column(answer: Any) -> str | None:
    """Adding 3 to one column moves every difference by 3: a sigmoid is increasing."""
    order = "A sigmoid is increasing, and every difference grows by the same 3. Can two layers change places?"
    return answers.words(
        answer,
        PARTS,
        right={"shares"},
        slips=[
            (set(), "That is so if both columns grow. Here one does: what happens to the difference of the two?"),
            (PARTS, order),
            ({"shares", "ranking"}, order),
            ({"ranking", "decoupling"}, order),
            ({"ranking"}, order),
            ({"decoupling"}, "The decoupling follows from the ranking alone. Does the ranking change?"),
            ({"shares", "decoupling"}, "The decoupling follows from the ranking alone. Does the ranking change?"),
        ],
        otherwise="Compute the three before and after.",
    )


def ranking_by_scores(answer: Any) -> str | None:
    """Every K whose first K-1 layers are another set when the toy is ranked by its first column."""
    alpha = torch.tensor(TOY, dtype=torch.float64)
    by_share = rank_layers(alpha).order
    by_score = sorted(range(1, 5), key=lambda layer: -alpha[layer - 1, 0].item())
    right = {k for k in range(1, 6) if set(by_share[: k - 1]) != set(by_score[: k - 1])}
    both = "The same two layers are cut, in whatever order they were chosen. Compare sets of layers for each K."
    return answers.whole_numbers(
        answer,
        right,
        slips=[
            (
                set(),
                "One layer has the largest score and not the largest share. Is there a K that asks for one layer?",
            ),
            ({3}, both),
            ({*right, 3}, both),
            ({2, 4}, "Those layers change places. The question is for which numbers of blocks that shows."),
            ({4}, "Is that a layer or a number of blocks? For each K, compare the K - 1 layers that are cut."),
            ({1}, "With a single block nothing is cut: K blocks have K - 1 cuts."),
            ({1, 2}, "With a single block nothing is cut, whatever the ranking."),
            (
                range(1, 6),
                "The ends agree at least: no cut at all, and a cut behind every layer. Compare the rest.",
            ),
        ],
        otherwise="Write down both rankings, and for each K from 1 to 5 the set of the first K - 1 layers.",
    )


def undecided_numbers_of_blocks(answer: Any) -> str | None:
    """A function of alpha, tried on ties of every kind."""
    cases = [
        Case(
            "the tensor close",
            lambda: (torch.tensor([[1e-9, 0.0], [2e-9, 0.0], [1.0, 0.0]], dtype=torch.float64),),
            {3},
            "Two of its three layers are equal in float32, and they come last. Between which two ranks does the "
            "last cut have to fall?",
        ),
        Case(
            "four layers that learned nothing",
            lambda: (torch.zeros(4, 2),),
            {2, 3, 4},
            "All are equal. For which K would it not matter which of them comes first?",
        ),
        Case(
            "the toy of Section 5.1",
            lambda: (torch.tensor(TOY),),
            set(),
            "No two of its shares are equal, so nothing is undecided.",
        ),
        Case(
            "two groups of equal layers",
            lambda: (torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),),
            {2, 5, 6},
            "Ranks are what counts, not the layers' numbers, and each group has undecided cuts of its own.",
        ),
        Case(
            "two layers that are sure to be cut, with differences of 40 and 50",
            lambda: (torch.tensor([[40.0, 0.0], [0.0, 0.0], [50.0, 0.0]]),),
            {2},
            "Their scores differ, their shares do not: in float32 both are 1.",
        ),
    ]
    slips = [
        (
            lambda alpha: [rank + 1 for ranks in _tied_ranks(alpha) for rank in ranks],
            "Too many: when the last cut is the last of its group, the whole group is cut, and all is clear.",
        ),
        (
            lambda alpha: [rank for ranks in _tied_ranks(alpha) for rank in ranks[:-1]],
            "These are numbers of cuts. How many blocks do so many cuts make?",
        ),
        (
            lambda alpha: [layer for group in rank_layers(alpha).ties for layer in group],
            "These are the tied layers. The question is for which numbers of blocks the tie matters.",
        ),
        (
            lambda alpha: _in_double_precision(alpha),
            "Ties are missed that exist in float32 only: compare the shares, rounded to float32.",
        ),
    ]
    return tried(answer, "undecided(alpha)", cases, readings.whole_numbers, slips)


def _tied_ranks(alpha: Tensor) -> list[list[int]]:
    """The ranks, from 1, of each group of equal layers."""
    ranking = rank_layers(alpha)
    return [sorted(ranking.order.index(layer) + 1 for layer in group) for group in ranking.ties]


def _in_double_precision(alpha: Tensor) -> list[int]:
    shares = sorted(alpha.double().softmax(1)[:, 0].tolist(), reverse=True)
    return [rank + 1 for rank in range(1, len(shares)) if shares[rank - 1] == shares[rank]]


EXERCISES = (
    Exercise(
        "05.1",
        "predict",
        "the set of what changes, out of 'shares', 'ranking', 'decoupling'",
        shifted_column,
        "Every difference grows by 3, so all shares rise, but a sigmoid keeps their order, and the order decides.",
    ),
    Exercise(
        "05.2",
        "change",
        "the set of all such K, whole numbers from 1 to 5",
        ranking_by_scores,
        "Layer 4 has the larger score and layer 2 the larger share; that shows only where a single layer is cut.",
    ),
    Exercise(
        "05.3",
        "extend",
        "a function undecided(alpha) that returns a list or set of whole numbers K",
        undecided_numbers_of_blocks,
        "A K is undecided if its last cut, rank K - 1, is inside a group of equals but not its last member.",
    ),
)
