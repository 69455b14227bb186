"""Exercises of lesson 08: a louder message, a silent one, and an agreement found by drawing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, called, tried
from sedona_nb.exercises.verdict import Exercise
from sedona_nb.families import family

SIGNATURE = "agreement_by_sampling(a, b, n)"
DRAWS = 20_000
TOLERANCE = 0.05  # with so many draws and the messages below, at least eight standard deviations of the estimate
MESSAGES = (
    ((0.8, -0.5, 0.3, 1.0), (0.6, 0.9, -0.7, 0.4)),
    ((1.2,), (1.5,)),
    ((-0.4, 0.9, 0.2, -0.6, 0.5, 1.1), (0.7, 0.8, -0.3, 0.4, -0.9, 0.5)),
    ((0.9, -1.3), (0.0, 0.0)),
)


def louder_message(answer: Any) -> str | None:
    """A factor in front of beta_1 cancels in q_1, and everything else hears of beta_1 through q_1."""
    norm = "q_1 is made to sum to one. What becomes of the factor 7 there?"
    return answers.choice(
        answer,
        right="nothing",
        slips={
            "only the bound": "The bound is made of posteriors, not of the messages themselves. Does q_1 change?",
            "the bound and the gradients": "Both hear of the message through the posterior alone. " + norm,
            "everything": norm,
        },
    )


def links_that_still_learn(answer: Any) -> str | None:
    """Link k learns between alpha_{k-1}, from below, and beta_k: only link 1 hears beta_1."""
    below = "What comes from below is untouched: alpha_1 is computed from the first link, not from the message."
    return answers.whole_numbers(
        answer,
        {2, 3},
        slips=[
            (
                {3},
                "The last link learns from the label. But does the one before it hear the message that was "
                "changed?",
            ),
            ({1}, "Turned round? The question is which links keep the gradient of the loss."),
            ({1, 2, 3}, "One link hears nothing but the message that now says nothing. What does it learn?"),
            ({1, 3}, "Which messages does the middle link learn from, and was one of them changed?"),
            ({2}, "The last link learns from the label and from below. Was one of those changed?"),
            ({1, 2}, "The last link learns from the label and from below. Was one of those changed?"),
            (set(), "A changed message spoils the links that hear it, no others. " + below),
        ],
        otherwise="There are three links, counted from 1. Compare local_gradients with backprop, link by link.",
    )


def drawn_agreement(answer: Any) -> str | None:
    """A function that draws, compared with the closed form; a slip is known by its own exact value."""
    cases = [
        Case(
            f"messages of {len(a)} part{'s'[: len(a) > 1]}{' and a silent b' * (not any(b))}",
            lambda a=a, b=b: (*_tensors(a, b), DRAWS),
            _closed(a, b),
            "Draw z from alpha n times, take beta(z) / h(z) of each whole z, average, and take the logarithm.",
        )
        for a, b in MESSAGES
    ]
    slips = [
        (_without_base_measure, "What became of h(z)? There are 2^d values of z, all with the same h."),
        (_factor_of_four_parts, "Right for four parts only. The number of parts is the length of a."),
        (_mean_of_logs, "Too small: the logarithm belongs outside. Average first."),
        (_without_partition, "beta(z) has to be a probability: its norm, exp(A(b)), is missing."),
        (lambda a, b, n: math.exp(_value(a, b)), "This is the average itself. Its logarithm is asked for."),
        (_logits_as_probabilities, "z is drawn with the wrong chances: a are logits, not probabilities."),
    ]
    hint = tried(answer, SIGNATURE, cases, readings.number, slips, lambda x, y: abs(x - y) <= TOLERANCE)
    if hint is None:
        a, b = MESSAGES[0]
        few = readings.number(called(answer, SIGNATURE, (*_tensors(a, b), 5), "five draws"))
        if abs(few - _closed(a, b)) < 1e-9:
            return "Five draws cannot be so exact: this is the closed form. Draw z and average."
    return hint


def _tensors(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)


def _closed(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return _value(*_tensors(a, b))


def _value(a: Tensor, b: Tensor) -> float:
    return family("bernoulli").agreement(a[None, :, None], b[None, :, None]).item()


def _enumerated(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Probability under alpha, and log of beta(z) / h(z), of all 2^d states."""
    z = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(a))), dtype=torch.float64)
    log_alpha, log_beta = ((z * eta - torch.nn.functional.softplus(eta)).sum(1) for eta in (a, b))
    return log_alpha.exp(), log_beta + len(a) * math.log(2)


def _without_base_measure(a: Tensor, b: Tensor, n: int) -> float:
    return _value(a, b) - len(a) * math.log(2)


def _factor_of_four_parts(a: Tensor, b: Tensor, n: int) -> float:
    return _value(a, b) + (4 - len(a)) * math.log(2)


def _mean_of_logs(a: Tensor, b: Tensor, n: int) -> float:
    chances, logs = _enumerated(a, b)
    return (chances @ logs).item()


def _without_partition(a: Tensor, b: Tensor, n: int) -> float:
    return _value(a, b) + torch.nn.functional.softplus(b).sum().item()


def _logits_as_probabilities(a: Tensor, b: Tensor, n: int) -> float:
    chances = a.clamp(0, 1)
    return _value(torch.logit(chances, eps=1e-9), b)


EXERCISES = (
    Exercise(
        "08.1",
        "predict",
        "one of 'nothing', 'only the bound', 'the bound and the gradients', 'everything'",
        louder_message,
        "q_1 is normalised, and bound and gradients hear of beta_1 through q_1 alone.",
    ),
    Exercise(
        "08.2",
        "change",
        "the set of the links, counted from 1 to 3",
        links_that_still_learn,
        "Link 2 learns between alpha_1, which came from below, and beta_2; only link 1 hears beta_1, and it "
        "stops.",
    ),
    Exercise(
        "08.3",
        "extend",
        f"a function {SIGNATURE} that returns a number",
        drawn_agreement,
        "The error falls with the square root of the draws: two digits take some ten thousand, the closed form "
        "one line.",
    ),
)
