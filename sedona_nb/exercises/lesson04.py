"""Exercises of lesson 04: how far a decision reaches, the step of a difference quotient, a memory for one set."""

from __future__ import annotations

import math
from typing import Any

import torch

from sedona_nb.bilevel import Weights
from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.readings import named
from sedona_nb.exercises.trials import called
from sedona_nb.exercises.verdict import Exercise, WrongKind

# Relative errors in Section 4.3 with seed 0, along three directions: 5e-9, 2e-9, 2e-8 at h = 1e-5, and 2e-8, 1e-7,
# 9e-9 at 1e-6; from 1e-4 on at least 9e-2 (kinks), at 1e-7 at least 3e-8, at 1e-9 at least 2e-6 (rounding).
VALLEY = (1e-5, 1e-6)


def half_of_the_decision(answer: Any) -> str | None:
    """The smallest T with 1 - (1 - 0.3)^T of one half or more."""
    right = next(steps for steps in range(1, 20) if 1 - 0.7**steps >= 0.5)
    later = "By then half is passed. Is there a smaller T at which it is, too?"
    value = readings.number(answer)
    if not value.is_integer() and abs(value - math.log(0.5) / math.log(0.7)) < 0.06:
        return "There the curve passes one half; steps are whole, so which is the first at or above it?"
    return answers.whole_number(
        answer,
        right,
        slips=[
            (0, "Without a step nothing of the decision has arrived."),
            (1, "After one step the share is the rate itself, 0.3. Is that one half?"),
            (3, later),
            (4, "That is how many steps the lesson takes. " + later),
            (5, later),
        ],
        otherwise="The share that has arrived after T steps is 1 - (1 - rate)^T, with a rate of 0.3.",
    )


def best_difference(answer: Any) -> str | None:
    """The h of the smallest error, to a decade."""
    h = readings.number(answer)
    if any(abs(h / best - 1) < 1e-6 for best in VALLEY):
        return None
    if h == round(h) and h < 0:
        return "That is an exponent; the answer is h itself, like 1e-3."
    if h <= 0:
        return "A step is positive."
    if abs(h / 1e-7 - 1) < 1e-6:
        return "That is the lesson's own h, a good one. Is the error still smaller at one of its neighbours?"
    if h >= 0.9e-4:
        return (
            "So far apart the two points lie on other sides of some kinks of the ReLUs, and curvature counts. "
            "Print the relative error and go on to smaller h."
        )
    if h < 1e-7:
        return (
            "So close together the two losses agree in most of their digits, and rounding, divided by h, is what "
            "is left. Print the relative error and try larger h."
        )
    return "Try whole powers of ten, print the relative error for each, and give the best of them."


def memory_for_one_set(answer: Any) -> str | None:
    """A class with offer, sample and renew, played through several scripts of what a search asks of it."""
    if not callable(answer):
        raise WrongKind(f"this is {named(answer)}")
    for about, script in SCRIPTS:
        memory = called(answer, "OneSet()", (), "a new memory")
        for method in ("offer", "sample", "renew"):
            if not callable(getattr(memory, method, None)):
                raise WrongKind(f"what it makes has no method {method}")
        sampled = None
        for what, value, error, right, hint in script:
            if what == "offer":
                kept = called(memory.offer, "offer(weights, step, error)", (_weights(value), value, error), about)
                if readings.truth(kept) != right:
                    return hint
            elif what == "renew":
                called(memory.renew, "renew(entry, weights, step)", (sampled, _weights(value), value), about)
            else:
                generator = torch.Generator().manual_seed(0)
                pair = readings.entries(called(memory.sample, "sample(generator)", (generator,), about))
                if len(pair) != 2 or not isinstance(pair[1], Weights):
                    raise WrongKind("sample should return an entry and the weights")
                if pair[1].parameters["w"].item() != right:
                    return hint
                sampled = pair[0]
    return None


def _weights(value: float) -> Weights:
    """A weight set that is easy to tell from others, as in Section 4.7."""
    return Weights({"w": torch.tensor([float(value)])}, {"w": torch.zeros(1)}, {})


WORSE = "A snapshot with a larger error than the kept one was taken in. Against which error do you compare?"
BETTER = "A snapshot with a smaller error was refused. Against which error do you compare?"
LAST = "The set in the memory is not the best snapshot. Is it perhaps the last one offered?"
EQUAL = "Of two snapshots with equal errors the first one stays: only a smaller error is better."
GONE = "A set that is sampled stays in the memory: it can be sampled again."
RENEWED = "After an outer step the updated weights take the set's place, whatever its error was."
Step = tuple[str, float, float, Any, str]  # what, the set's number (and step), its error, the right result, hint


def _offers(errors: list[float], kept: list[bool]) -> list[Step]:
    """Snapshots with these errors, of which those in `kept` are taken in; then a look at what is in the memory."""
    script: list[Step] = []
    for i, (error, taken) in enumerate(zip(errors, kept, strict=True)):
        hint = BETTER if taken else EQUAL if error in errors[:i] else WORSE
        script.append(("offer", i, error, taken, hint))
    best = max(i for i, taken in enumerate(kept) if taken)
    return [*script, ("sample", 0, 0, best, LAST)]


SCRIPTS: tuple[tuple[str, list[Step]], ...] = (
    ("the lesson's six snapshots", _offers([50, 40, 45, 30, 60, 35], [True, True, False, True, False, False])),
    ("two equal errors", _offers([30, 40, 30], [True, False, False])),
    ("errors that fall", _offers([50, 40, 30], [True, True, True])),
    (
        "a search of three outer steps",
        [
            *_offers([20, 50], [True, False]),
            ("sample", 0, 0, 0, GONE),
            ("renew", 7, 0, None, ""),
            ("sample", 0, 0, 7, RENEWED),
            ("renew", 8, 0, None, ""),
            ("sample", 0, 0, 8, RENEWED),
            ("renew", 9, 0, None, ""),
            ("sample", 0, 0, 9, RENEWED),
        ],
    ),
)


EXERCISES = (
    Exercise(
        "04.1",
        "predict",
        "the smallest such T, a whole number of steps",
        half_of_the_decision,
        "The share is 1 - (1 - rate)^T: 0.3 after one step, 0.51 after the next.",
    ),
    Exercise(
        "04.2",
        "change",
        "the h with the smallest relative error, a power of ten from 1e-1 to 1e-12",
        best_difference,
        "Larger steps cross kinks of the ReLUs, smaller ones divide rounding errors by themselves; in between "
        "lies a valley.",
    ),
    Exercise(
        "04.3",
        "extend",
        "a class OneSet with the methods offer, sample and renew",
        memory_for_one_set,
        "The best snapshot goes in, and from then on the search follows one trajectory: a WeightMemory with "
        "capacity=1, the row '- weight sampling' of Table 8.",
    ),
)
