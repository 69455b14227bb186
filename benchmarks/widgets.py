"""How long a widget takes from a moved control to the new picture; bar: 150 ms.

    PYTHONPATH=. python benchmarks/widgets.py            # a line a widget
    PYTHONPATH=. python benchmarks/widgets.py --json     # every move

Each slider goes to its ends and its middle, each list through its entries, each tick off and on again. What is
measured is the kernel's part, with one thread: from the new value to a PNG that is ready to be sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator

import torch

import sedona_nb as sd
from sedona_nb.seeds import torch_generator

BAR, KINDS = 150.0, ("slider", "list")  # ms


def made() -> Iterator[tuple[str, object]]:
    """Every widget that has sliders, lists or ticks."""
    draw = torch_generator(0, "widgets")
    alpha, beta = torch.randn(49, 2, generator=draw), torch.randn(49, 4, generator=draw)
    yield "decoupling_explorer", sd.widgets.decoupling_explorer()
    yield "trajectory_scrubber", sd.widgets.trajectory_scrubber()
    yield "gradient_mix", sd.widgets.gradient_mix()
    yield "timeline_player", sd.widgets.timeline_player()
    yield "error_against_k", sd.widgets.error_against_k()
    yield "explore_decoupling", sd.widgets.explore_decoupling(alpha, beta)
    yield "explore_configurations", sd.widgets.explore_configurations()


def controls(box: object) -> Iterator[tuple[str, str, object]]:
    """Kind, label and widget of everything that can be moved."""
    kinds = {"IntSlider": "slider", "FloatSlider": "slider", "Dropdown": "list", "Checkbox": "tick"}
    if kind := kinds.get(type(box).__name__):
        yield kind, box.description, box
    for child in getattr(box, "children", ()):
        yield from controls(child)


def places(kind: str, control: object) -> list[object]:
    """Where a control goes; it ends where it began."""
    if kind == "slider":
        middle = (control.min + control.max) / 2
        middle = int(middle) if isinstance(control.value, int) else middle
        return [control.min, middle, control.max, control.value]
    if kind == "list":
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return [*values, control.value]
    return [not control.value, control.value]


def measure() -> dict[str, list[dict[str, object]]]:
    """Milliseconds of every move of every widget."""
    moves = {}
    for name, widget in made():
        moves[name] = []
        for kind, label, control in controls(widget):
            for place in places(kind, control):
                if control.value == place:
                    continue
                start = time.perf_counter()
                control.value = place
                took = round(1000 * (time.perf_counter() - start), 1)
                moves[name].append({"kind": kind, "control": label, "to": place, "ms": took})
    return moves


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print every move")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sd.progress.headless = lambda: False  # here nobody looks, but widgets shall be live
    moves = measure()
    if options.json:
        print(json.dumps(moves))
        return
    print(f"{'widget':<24}{'moves':>6}{'median ms':>11}{'slowest slider':>16}{'slowest list':>14}")
    for name, found in moves.items():
        median = statistics.median(move["ms"] for move in found)
        slider, listed = (max((m["ms"] for m in found if m["kind"] == kind), default=0.0) for kind in KINDS)
        print(f"{name:<24}{len(found):>6}{median:>11.0f}{slider:>16.0f}{listed:>14.0f}")
    print(f"bar: {BAR:.0f} ms; {sd.devices.describe(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
