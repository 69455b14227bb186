"""Exercises of lesson 06: the pace of two blocks, the best single cut, and the fastest of all cuts."""

from __future__ import annotations

import itertools
from typing import Any

from sedona_nb.decoupling import Decoupling
from sedona_nb.exercises import answers, readings
from sedona_nb.exercises.trials import Case, tried
from sedona_nb.exercises.verdict import Exercise, WrongKind
from sedona_nb.layer_times import LayerTimes

SIGNATURE = "fastest(times, num_blocks, head)"


def pace_of_two_blocks(answer: Any) -> str | None:
    """Milliseconds a step at three depths: every batch has to pass the slower block, whatever waits before it."""
    return answers.numbers(
        answer,
        (120.0, 120.0, 120.0),
        tolerance=0.5,
        slips=[
            (
                (200.0,) * 3,
                "That is how long a batch is on its way. But while block 2 works on it, block 1 goes on.",
            ),
            ((80.0,) * 3, "So fast is block 1 alone. Where do its batches go, and what if there is no free slot?"),
            ((100.0,) * 3, "A mean would hold if the faster block could help the slower one. What sets the pace?"),
            ((0.12,) * 3, "Is that in seconds? Milliseconds are asked for."),
            (
                (200.0, 120.0, 120.0),
                "With a single slot block 1 can work, too, while block 2 does. What do more slots add to that?",
            ),
            (
                (120.0, 120.0, 80.0),
                "A hundred slots take long to fill, but they do fill. How long is a step after that?",
            ),
            ((120.0, 100.0, 80.0), "A deeper queue takes longer to fill. How long is a step once it is full?"),
        ],
        otherwise="In the long run every batch has to pass both blocks. Which of them sets the pace?",
    )


def best_single_cut(answer: Any) -> str | None:
    """The layer of the highest limit by the timing record; as good as equal (1 %) counts."""
    times = _vgg19()
    value = readings.whole_number(answer)
    if not 1 <= value <= 15:
        raise WrongKind(f"behind layer {value} there is no cut")
    slowest = {layer: max(_training(times, _cut(times, (layer,), "aux1"))) for layer in range(1, 16)}
    best = min(slowest.values())
    if slowest[value] <= 1.01 * best:
        return None
    if value == 8:
        return (
            "That is half of the depth, not half of the time. Which block takes longer there, and where does the "
            "cut have to go?"
        )
    if value == 1:
        return "There the head alone takes longer than many layers: it works on the largest maps. Go further up."
    lower, upper = (1000 * seconds for seconds in _training(times, _cut(times, (value,), "aux1")))
    return (
        f"There block 1 takes {lower:.0f} ms and block 2 takes {upper:.0f} ms. The slower one sets the pace: in "
        "which direction does the cut have to move?"
    )


def fastest_cut(answer: Any) -> str | None:
    """A function of times, K and head, tried on VGG-19's times and on six layers; equally good cuts count."""
    valley, slope = _six_layers((9, 1, 3, 2, 3, 9)), _six_layers((9, 4, 3, 1, 1, 5))
    everything = "Do the number of layers, K and the head all come from the arguments?"
    tries = (
        ("VGG-19, K = 4, Aux 1", _vgg19(), 4, "aux1", "Compare the slowest blocks of all cuts, heads included."),
        ("a network of six layers, K = 3, Aux 4", valley, 3, "aux4", everything),
        ("a network of six layers, K = 2, Aux 1", slope, 2, "aux1", everything),
        ("six layers in one block", slope, 1, "aux2", "There is one way to cut nothing."),
    )
    cases = [
        Case(
            about,
            lambda times=times, k=k, head=head: (times, k, head),
            _pace(_fastest(times, k, head), times, k, head),
            hint,
            lambda returned, times=times, k=k, head=head: _pace(returned, times, k, head),
        )
        for about, times, k, head, hint in tries
    ]
    slips = [
        (_even, "These are blocks of equal depth. Are they of equal time?"),
        (
            lambda times, k, head: _fastest(times, k, head, heads_count=False),
            "Balanced without the heads. A head works after its block's layers and belongs to its block's time.",
        ),
        (
            _one_after_the_other,
            "Each cut was the best one beside those before it. But the best pair need not contain the best "
            "single cut: compare all.",
        ),
        (
            lambda times, k, head: max(_all_cuts(times, k, head), key=lambda cut: max(_training(times, cut))),
            "This is the slowest of all. The limit is highest where the slowest block takes least.",
        ),
    ]
    return tried(answer, SIGNATURE, cases, float, slips, lambda one, other: abs(one - other) <= 1e-9 * other)


def _pace(returned: Any, times: LayerTimes, num_blocks: int, head: str) -> float:
    """Seconds of the slowest block; 1e9 for another number of layers or blocks, or other heads, than asked for."""
    if not isinstance(returned, Decoupling):
        raise WrongKind(f"{readings.named(returned)}, no Decoupling")
    asked = (len(times.forward), num_blocks, {head} if num_blocks > 1 else set())
    if (returned.num_layers, returned.num_blocks, set(returned.heads)) != asked:
        return 1e9
    return max(_training(times, returned))


def _vgg19() -> LayerTimes:
    """The times of Section 6.6, from the record that it uses or leaves."""
    from sedona_nb import places, records, runs, timing_runs
    from sedona_nb.networks import NetworkConfig

    spec = records.TimingSpec(NetworkConfig("vgg19"), num_classes=10, image_size=32, batch_size=128)
    record = runs.RunStore(places.home() / "results").load(spec)
    if record is None:
        raise WrongKind("the check needs the times of layers, so run Section 6.6 first")
    return timing_runs.layer_times_of(record)


def _six_layers(seconds: tuple[int, ...]) -> LayerTimes:
    heads = {"aux1": (4, 3, 2, 1, 1), "aux2": (3, 3, 3, 3, 3), "aux3": (1, 1, 1, 1, 1), "aux4": (5, 1, 3, 1, 2)}
    return _times(seconds, heads, 1)


def _times(seconds: tuple[int, ...], heads: dict[str, tuple[int, ...]], classifier: float) -> LayerTimes:
    third = tuple(float(value) / 3 for value in seconds)
    twice = tuple(2 * value for value in third)
    zeros = (0.0,) * len(seconds)
    outputs = (1,) * (len(seconds) - 1)
    behind = {name: tuple(map(float, values)) for name, values in heads.items()}
    return LayerTimes(1, third, twice, twice, zeros, behind, classifier, outputs)


def _cut(times: LayerTimes, splits: tuple[int, ...], head: str) -> Decoupling:
    return Decoupling(len(times.forward), splits, (head,) * len(splits))


def _all_cuts(times: LayerTimes, num_blocks: int, head: str) -> list[Decoupling]:
    layers = range(1, len(times.forward))
    return [_cut(times, splits, head) for splits in itertools.combinations(layers, num_blocks - 1)]


def _training(times: LayerTimes, cut: Decoupling, heads_count: bool = True) -> list[float]:
    """Seconds a greedy step of each block."""
    return [block.training - (0 if heads_count else block.head) for block in times.of(cut)]


def _fastest(times: LayerTimes, num_blocks: int, head: str, heads_count: bool = True) -> Decoupling:
    # Backpropagation takes the same time for every cut: the limit is highest where the slowest block takes least.
    cuts = _all_cuts(times, num_blocks, head)
    return min(cuts, key=lambda cut: max(_training(times, cut, heads_count)))


def _even(times: LayerTimes, num_blocks: int, head: str) -> Decoupling:
    return Decoupling.uniform(len(times.forward), num_blocks, head=head)


def _one_after_the_other(times: LayerTimes, num_blocks: int, head: str) -> Decoupling:
    splits: tuple[int, ...] = ()
    for _ in range(num_blocks - 1):
        left = [layer for layer in range(1, len(times.forward)) if layer not in splits]
        more = [tuple(sorted((*splits, layer))) for layer in left]
        splits = min(more, key=lambda tried: max(_training(times, _cut(times, tried, head))))
    return _cut(times, splits, head)


EXERCISES = (
    Exercise(
        "06.1",
        "predict",
        "three numbers, milliseconds a step with 1, 2 and 100 slots",
        pace_of_two_blocks,
        "In the long run every batch must pass block 2; block 1 fills the queue and then waits 40 ms a step.",
    ),
    Exercise(
        "06.2",
        "change",
        "the layer behind which the cut lies, a whole number from 1 to 15",
        best_single_cut,
        "The two blocks take nearly the same time there, although the lower one has fewer layers: they are the "
        "dear ones.",
    ),
    Exercise(
        "06.3",
        "extend",
        f"a function {SIGNATURE} that returns a Decoupling",
        fastest_cut,
        "The slowest block, its head included, sets the pace, and only a comparison of all cuts finds the best.",
    ),
)
