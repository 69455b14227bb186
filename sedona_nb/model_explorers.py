"""Explorers of models: Eq. 4 on a toy, and blocks that train at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sedona_nb import panels, playback, progress, schedule, views, viz
from sedona_nb.backgrounds import Backgrounds
from sedona_nb.errors import SedonaError
from sedona_nb.panels import View
from sedona_nb.schedule import BlockTimes

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

MOST_BLOCKS, MOST_SLOTS = 6, 8  # that the timeline player has sliders for
MIXTURE = (
    "Outlines are whole gradients, fillings what the shares let through; the fillings of a layer add up to its "
    "mixture, which is what the layer below hears, times the weight between them. Computed by hand (Eq. 4)."
)
SCHEDULE = (
    "A row a block, numbers are steps, orange ticks activations on their way; right, how many slots of each queue "
    "are taken at the cursor. A simulated schedule of given times."
)


def gradient_mix(shares: Sequence[float] = (0.5, 0.5)) -> Widget | Figure:
    """A slider a layer for alpha_1-bar: Eq. 4 on the three-layer chain of notebook 03, and whose loss speaks.

    Raises:
        SedonaError: not two shares, or one outside 0..1.
    """
    first = views.gradient_mix(shares)
    if progress.headless():
        return panels.static(first, MIXTURE)
    sliders = {
        f"layer_{layer}": panels.number(f"layer {layer}: share of own loss", 0.0, 1.0, share, 0.05)
        for layer, share in enumerate(shares, 1)
    }
    return panels.follow(lambda **values: views.gradient_mix(tuple(values.values())), sliders, MIXTURE)


def timeline_player(
    times: Sequence[BlockTimes] | None = None, num_blocks: int = 3, depth: int = 4, percent: int = 45
) -> Widget | Figure:
    """Blocks that train at the same time, played: costs of the blocks, K, slots of the queues, a cursor.

    Args:
        times: of the blocks, to begin with; default: `playback.BLOCK` for each.
        num_blocks: K, 1..6.
        depth: slots of a queue, 1..8.
        percent: where the cursor stands, of the length of the schedule.

    Raises:
        SedonaError: a number that is not allowed.
    """
    times = list(times or [playback.BLOCK])
    if not (1 <= num_blocks <= MOST_BLOCKS and 1 <= depth <= MOST_SLOTS and 0 <= percent <= 100):
        allowed = f"num_blocks 1..{MOST_BLOCKS}, depth 1..{MOST_SLOTS}, percent 0..100"
        raise SedonaError(f"num_blocks {num_blocks}, depth {depth}, percent {percent}; allowed: {allowed}")
    seconds = [times[min(k, len(times) - 1)].training for k in range(MOST_BLOCKS)]
    backgrounds = Backgrounds()
    painted: dict[tuple, tuple] = {}  # the last schedule, so that a move of the cursor paints the cursor alone

    def look(num_blocks: int, depth: int, percent: int, **costs: float) -> View:
        key = (num_blocks, depth, tuple(costs.values())[:num_blocks])
        if key not in painted:
            blocks = playback.blocks_of(times, [cost / 1000 for cost in key[2]])
            chart = viz.PlaybackChart(schedule.asynchronous(blocks, playback.STEPS, depth), depth, backgrounds)
            painted.clear()
            painted[key] = blocks, chart
        blocks, chart = painted[key]
        return views.pipeline(blocks, depth, percent / 100 * chart.end, chart)

    if progress.headless():
        blocks = playback.blocks_of(times, seconds[:num_blocks])
        end = max(span.end for span in schedule.asynchronous(blocks, playback.STEPS, depth))
        return panels.static(views.pipeline(blocks, depth, percent / 100 * end), SCHEDULE)
    from ipywidgets import HBox, Play, jslink

    for count in range(1, MOST_BLOCKS + 1):  # laid out now, so that no move has to wait for it
        look(count, depth, 0, **{f"cost_{k + 1}": 1000 * seconds[k] for k in range(MOST_BLOCKS)})
    costs = {
        f"cost_{k + 1}": panels.number(f"block {k + 1}: ms a step", 10.0, 300.0, round(1000 * seconds[k]), 1.0)
        for k in range(MOST_BLOCKS)
    }
    controls = {
        "num_blocks": panels.integer("blocks K", 1, MOST_BLOCKS, num_blocks),
        "depth": panels.integer("slots of a queue", 1, MOST_SLOTS, depth),
        "percent": panels.integer("time (% of the picture)", 0, 100, percent),
        **costs,
    }
    play = Play(value=percent, min=0, max=100, interval=250)
    jslink((play, "value"), (controls["percent"], "value"))

    def show_costs(_: object = None) -> None:
        for k, slider in enumerate(costs.values()):
            slider.layout.display = None if k < controls["num_blocks"].value else "none"

    controls["num_blocks"].observe(show_costs, "value")
    show_costs()
    rows = [controls["num_blocks"], controls["depth"], *costs.values(), HBox([controls["percent"], play])]
    return panels.follow(look, controls, f"{SCHEDULE} The play button moves the cursor.", rows)
