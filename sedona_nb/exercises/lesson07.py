"""Exercises of lesson 07: pictures and the processes that read them, bytes over a boundary, a rate in stairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sedona_nb import imagenet
from sedona_nb.decoupling import Decoupling
from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise
from sedona_nb.train_config import TrainConfig

SECONDS = 0.4  # a step of exercise 2
SIGNATURE = "changes(schedule)"


def pictures_of_a_step(answer: Any) -> str | None:
    """A batch is a function of the seed and its number."""
    return answers.choice(
        answer,
        right="the same",
        slips={
            "another order": "Whoever is first through with a picture could hand it over first. But who decides "
            "on a picture's place in the batch: the reader or the batch's number?",
            "other crops": "Eight processes could draw from eight random streams. On what do the random numbers "
            "of a picture depend here, on who reads it or on its place?",
            "other pictures": "The processes read files, they do not choose them. What is a batch a function of "
            "(Section 7.1)?",
        },
    )


def busiest_boundary(answer: Any) -> str | None:
    """Bytes a second behind the lowest cut: 512 maps of 28x28 for each of 256 pictures, 2 bytes each."""
    shapes = _resnet152_cut_shapes()
    sent = [256 * 2 * channels * height * width for channels, height, width in shapes]
    right = max(sent) / SECONDS / 1e9
    return answers.number(
        answer,
        right,
        tolerance=0.006,
        slips=[
            (
                2 * right,
                "How many bytes are 16 bits? And only the busiest of the boundaries counts, not their sum.",
            ),
            (0.5 * right, "Is this the busiest boundary, and how many bytes are 16 bits?"),
            (8 * right, "Are these bits? Bytes are asked for."),
            (max(sent) * SECONDS / 1e9, "Multiplied by the seconds. A rate is bytes divided by seconds."),
            (max(sent) / 1e9, "That is what one step sends. How much is it in a second?"),
            (max(sent) / 1e6, "That is a step's megabytes. How many gigabytes go over in a second?"),
            (1e3 * right, "Is that in megabytes a second? Gigabytes are asked for."),
            (1e9 * right, "Is that in bytes a second? Gigabytes are asked for, 1e9 bytes each."),
            (right / 256, "That is one picture. A step has a batch of 256."),
        ],
        otherwise="Take the largest entry of ResNet-152, K = 4, in the last column of 7.6 and divide it by the "
        "seconds of a step; mind the unit.",
    )


def _resnet152_cut_shapes() -> list[tuple[int, int, int]]:
    """(C, H, W) behind the cuts of Table 11, at 224 pixels, for full width: read off from the network's plan."""
    stages = ((3, 256, 56), (8, 512, 28), (36, 1024, 14), (3, 2048, 7))  # blocks, channels, size
    shapes = [(channels, size, size) for blocks, channels, size in stages for _ in range(blocks)]
    return [shapes[split - 1] for split in Decoupling.published("resnet152", 4).splits]


def epochs_of_change(answer: Any) -> str | None:
    """A function of a schedule, tried on stairs of several widths and on a cosine."""
    dgl = imagenet.dgl_schedule()
    epoch = _epoch(dgl)
    half_batch = replace(dgl, batch_size=128, steps=12 * _epoch(replace(dgl, batch_size=128)))
    schedules = (
        (
            "DGL's schedule",
            dgl,
            "Count epochs from 0, and compare the rate at the beginning of each with that of the epoch before.",
        ),
        (
            "stairs of 15 epochs, 50 epochs long",
            replace(dgl, decay_every=15 * epoch),
            "Do the epochs come from the schedule, or are they DGL's?",
        ),
        (
            "batches of 128, a tenth every three epochs",
            replace(half_batch, decay_every=3 * _epoch(half_batch)),
            "How many steps has an epoch there? Take it from the schedule's batch_size.",
        ),
        (
            "a cosine of six epochs",
            imagenet.schedule("resnet101", steps=6 * epoch),
            "A cosine changes from each epoch to the next.",
        ),
        ("a run of one epoch", replace(dgl, steps=epoch), "One epoch has no epoch before it."),
    )
    cases = [Case(about, lambda one=one: (one,), set(_changes(one)), hint) for about, one, hint in schedules]
    slips = [
        (lambda one: [number + 1 for number in _changes(one)], "Shifted by one: the first epoch is number 0."),
        (
            lambda one: [number - 1 for number in _changes(one)],
            "Shifted by one: name the first epoch at the new rate.",
        ),
        (lambda one: [0, *_changes(one)], "The first epoch has none before it, so nothing changes there."),
        (
            lambda one: [*_changes(one), one.steps // _epoch(one)],
            "The last of them is behind the end of the run. How many epochs have begun?",
        ),
    ]
    return tried(answer, SIGNATURE, cases, readings.whole_numbers, slips)


def _epoch(schedule: TrainConfig) -> int:
    """Steps; the last short batch is dropped."""
    return imagenet.TRAIN_PICTURES // schedule.batch_size


def _changes(schedule: TrainConfig) -> list[int]:
    rates = [schedule.rate(number * _epoch(schedule)) for number in range(schedule.steps // _epoch(schedule))]
    return [number for number in range(1, len(rates)) if rates[number] != rates[number - 1]]


EXERCISES = (
    Exercise(
        "07.1",
        "predict",
        "one of 'the same', 'another order', 'other crops', 'other pictures'",
        pictures_of_a_step,
        "Random numbers depend on the seed, the batch's number and the place in the batch, not on who draws them.",
    ),
    Exercise(
        "07.2",
        "change",
        "gigabytes a second (1e9 bytes) over the busiest boundary, a number with two decimals",
        busiest_boundary,
        "206 MB go over the boundary behind layer 11 in each step: less than a gigabyte a second, so sending is "
        "not what limits the speed-up.",
    ),
    Exercise(
        "07.3",
        "extend",
        f"a function {SIGNATURE} that returns a list of epochs, counted from 0",
        epochs_of_change,
        "DGL's rate changes four times, each time to a tenth; a cosine changes all the time.",
    ),
)
