"""Exercises of lesson 09: the layer above a cut, the constant of a trick, a reading that keeps all families."""

from __future__ import annotations

from typing import Any

from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise

# Section 9.2 with seed 0: alpha_1 after 2,000 steps of Adam, by the constant in s = 1 / (abar_1 + constant).
# The end is the same to one decimal for other losses, as the lesson shows.
RESTS = {1e-5: -7.8, 1e-4: -6.7, 1e-3: -5.7, 1e-2: -4.7}
WITHOUT_TRICK, BEND = -3.3, -3.45  # the bend is at half the logarithm of 1e-3
SIGNATURE = "outer_step(memory, position, capacity)"


def layer_above_a_cut(answer: Any) -> str | None:
    """In the toy -4.0 instead of -7.8; in the released files -4.5 to -4.9."""
    return answers.choice(
        answer,
        right="nearer to zero",
        slips={
            "near -7.8, as on its own": "Adam would not care about a constant factor. But this one arrives "
            "during the search: by which gradients does Adam still divide when it comes?",
            "exactly at zero": "The factor is small from the moment of the cut on. Where was the layer by then, "
            "and what does Adam do with a gradient that is small but steady?",
            "below -7.8": "The gradients get smaller, not larger. Which step of Adam grows from that?",
        },
    )


def another_constant(answer: Any) -> str | None:
    """Where settled(1.0, True) ends with 1e-3 in place of 1e-5."""
    size = "Some of the gradient is missing: is the trick on, and is the head the worse one?"
    return answers.number(
        answer,
        RESTS[1e-3],
        tolerance=0.15,
        slips=[
            (
                RESTS[1e-5],
                "That is the end with the code's own constant. Is the change in settled, where s is made?",
            ),
            (RESTS[1e-4], "That is the end with 1e-4. The exercise asks for a larger constant."),
            (RESTS[1e-2], "That is the end with 1e-2. The exercise asks for a smaller constant."),
            (WITHOUT_TRICK, size),
            (-WITHOUT_TRICK, "There the head is the better one. Take the case in which it is worse, above = 1."),
            (-RESTS[1e-3], "The size is right. Which of the two entries is alpha_1, and which way does it go?"),
            (BEND, "There the push begins to fade. But the steps do not end there: run it."),
        ],
        otherwise="Change the constant in settled, keep everything else, and print settled(1.0, True).",
    )


def keeps_all_families(answer: Any) -> str | None:
    """One step of the memory under the reading "to sample is to take out", on lists of family names."""
    full, some = list("abcde"), list("abc")
    lost = "Follow the names: which family has two sets now, and which has none?"
    cases = [
        Case("a full memory and its oldest set", lambda: (list(full), 0, 5), list("bcdea"), lost),
        Case("a full memory and its second set", lambda: (list(full), 1, 5), list("acdeb"), lost),
        Case("a full memory and its newest set", lambda: (list(full), 4, 5), list("abcde"), lost),
        Case(
            "three sets in a memory for five",
            lambda: (list(some), 1, 5),
            list("acb"),
            "A set that was taken out and comes back makes the memory no larger.",
        ),
        Case("a memory for one set", lambda: (["a"], 0, 1), ["a"], "The one set goes out and comes back."),
    ]
    slips = [
        (
            _copied,
            "Here the sampled set stays and its update comes besides, so the oldest family loses a set each "
            "time. Does the text say that a sampled set is still there when its update comes?",
        ),
        (
            lambda memory, position, capacity: memory,
            "All families are kept, but the list goes from the oldest to the newest set: where does the update "
            "belong?",
        ),
        (
            lambda memory, position, capacity: [memory[position], *memory[:position], *memory[position + 1 :]],
            "All families are kept, but the list goes from the oldest to the newest set: at which end is the "
            "update?",
        ),
        (
            lambda memory, position, capacity: [*memory[:position], *memory[position + 1 :]],
            "The set was taken out and never came back. Its update is stored at the end of the step.",
        ),
        (
            lambda memory, position, capacity: [*memory[1:], memory[position]],
            "The oldest set is evicted even when there is room. Is the memory full at the moment of storing?",
        ),
    ]
    return tried(
        answer, SIGNATURE, cases, lambda returned: [str(name) for name in readings.entries(returned)], slips
    )


def _copied(memory: list, position: int, capacity: int) -> list:
    """The paper's rule with a sampled set that stays in the memory."""
    kept = memory[1:] if len(memory) >= capacity else memory
    return [*kept, memory[position]]


EXERCISES = (
    Exercise(
        "09.1",
        "predict",
        "one of 'near -7.8, as on its own', 'nearer to zero', 'exactly at zero', 'below -7.8'",
        layer_above_a_cut,
        "A thousandth of the gradient comes through the cut, and Adam still divides by the size of earlier "
        "ones: the toy ends at -4.0, the released files at -4.5 to -4.9.",
    ),
    Exercise(
        "09.2",
        "change",
        "alpha_1 at rest, the number that settled(1.0, True) returns, to one decimal",
        another_constant,
        "The bend is at half the logarithm of the constant, so each factor of ten moves the end by about one.",
    ),
    Exercise(
        "09.3",
        "extend",
        f"a function {SIGNATURE} that returns a list",
        keeps_all_families,
        "To sample a set is to take it out; then the memory is never full when the update comes back, and "
        "nothing is evicted.",
    ),
)
