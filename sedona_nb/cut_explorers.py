"""Explorers of cuts: how many there are, what a search gives for each K and at each step, what a cut costs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor

from sedona_nb import block_costs, cut_sources, panels, progress, records, views, viz
from sedona_nb.decoupling import Decoupling, count_configurations, rank_layers
from sedona_nb.errors import SedonaError, TieWarning, choose
from sedona_nb.panels import View
from sedona_nb.places import home
from sedona_nb.protocols import NUM_LAYERS
from sedona_nb.runs import search_result
from sedona_nb.search_config import SearchResult
from sedona_nb.store import RunStore

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

COUNTS = "The dot is the K that is set; a step of the axis is a factor. Counted, not measured."
TO_SCALE = (
    "Boxes are layers, colours change from block to block, and the small boxes above are the heads, on the same "
    "scale. A device a block: the widest block in time, head included, sets the pace for all. "
    "Sizes are counted, times recorded."
)
AT_A_STEP = (
    "Left: each layer's share of the local gradient, up to this step in colour, layers that are cut thick. "
    "Middle: the same now, up or down from one half, where it starts. Right: how much each head counts."
)


def explore_decoupling(alpha: Tensor, beta: Tensor, num_blocks: int = 4) -> Widget | Figure:
    """A slider over K: the decoupling that a search's alpha (L-1, 2) and beta (L-1, 4) give, drawn and in words.

    Ties are said in words below the picture.

    Raises:
        SedonaError: wrong shape or type of alpha or beta, or `num_blocks` outside 1..L.
    """
    num_layers = len(rank_layers(alpha).order) + 1

    def look(num_blocks: int) -> View:
        with warnings.catch_warnings(record=True) as ties:
            warnings.simplefilter("always", TieWarning)
            cut = Decoupling.from_search(alpha, beta, num_blocks)
        return View(viz.decoupling_diagram(cut), (str(cut), *(f"Tie: {tie.message}" for tie in ties)))

    first = look(num_blocks)
    if progress.headless():
        return panels.static(first)
    controls = {"num_blocks": panels.integer("blocks K", 1, num_layers, num_blocks)}
    return panels.follow(look, controls, "Move K: cuts, once made, stay, and keep their heads.")


def explore_configurations(num_layers: int = 16, num_blocks: int = 4, num_heads: int = 4) -> Widget | Figure:
    """Sliders over L, K and M: how many configurations there are.

    Raises:
        SedonaError: K outside 1..L, or M below 1.
    """
    count_configurations(num_layers, num_blocks, num_heads)  # checks

    def look(num_layers: int, num_blocks: int, num_heads: int) -> View:
        num_blocks = min(num_blocks, num_layers)  # sliders move one by one: K may be left above a smaller L
        count = count_configurations(num_layers, num_blocks, num_heads)
        text = f"L = {num_layers}, K = {num_blocks}, M = {num_heads}: {count:,} configurations"
        return View(viz.configuration_counts(num_layers, num_heads, num_blocks), (text,))

    if progress.headless():
        return panels.static(look(num_layers, num_blocks, num_heads), COUNTS)
    longest = max(50, num_layers)
    controls = {
        "num_layers": panels.integer("layers L", 1, longest, num_layers),
        "num_blocks": panels.integer("blocks K", 1, longest, num_blocks),
        "num_heads": panels.integer("heads M", 1, max(8, num_heads), num_heads),
    }
    return panels.follow(look, controls, COUNTS)


def decoupling_explorer(
    network: str = "vgg19",
    num_blocks: int = 4,
    source: str = "published",
    quantity: str = "operations",
    store: RunStore | None = None,
) -> Widget | Figure:
    """Network, source, K: the blocks and heads to scale, what they cost, and the speed-up to be expected.

    Args:
        network: one of `cut_sources.NETWORKS`.
        num_blocks: K.
        source: one of `cut_sources.SOURCES`. What it does not have is said in words.
        quantity: what widths are proportional to, one of `block_costs.QUANTITIES`.
        store: of searches and layer times; default: the repository's results.

    Raises:
        SedonaError: another network, source or quantity, or a damaged record.
    """
    store = store or RunStore(home() / "results")
    choose(quantity, block_costs.QUANTITIES, "quantity")
    recorded = cut_sources.searches(store)

    def look(network: str, source: str, num_blocks: int, quantity: str) -> View:
        found = cut_sources.find(source, network, num_blocks, recorded)
        return views.decoupling(block_costs.of(network, store), found, quantity)

    first = look(network, source, num_blocks, quantity)
    if progress.headless():
        return panels.static(first, TO_SCALE)
    from ipywidgets import dlink

    for name in cut_sources.NETWORKS:  # counted now, so that no move has to wait for it
        block_costs.of(name, store)
        cut_sources.find("even cost", name, 2)
    named = {viz.label(name): name for name in cut_sources.NETWORKS}
    controls = {
        "network": panels.choice("network", named, network),
        "source": panels.choice("where cuts are from", cut_sources.SOURCES, source),
        "num_blocks": panels.integer("blocks K", 1, NUM_LAYERS[network], min(num_blocks, NUM_LAYERS[network])),
        "quantity": panels.choice("width of a block", block_costs.QUANTITIES, quantity),
    }
    dlink((controls["network"], "value"), (controls["num_blocks"], "max"), lambda name: NUM_LAYERS[name])
    return panels.follow(look, controls, TO_SCALE)


def trajectory_scrubber(
    result: SearchResult | None = None, num_blocks: int = 4, step: int | None = None
) -> Widget | Figure:
    """Outer step and K: alpha and beta of a search there, and the decoupling that they would give.

    Args:
        result: of a search, see `runs.search_result`; default: of the longest search of VGG-19 that the repository
            has a record of.
        num_blocks: K.
        step: to begin with; default: the end of the search.

    Raises:
        SedonaError: an empty result, one of a single layer, K outside 1..L, no such step, or no record of a search
            where one is asked for.
    """
    if result is None:
        record = cut_sources.search_of("vgg19", cut_sources.searches(RunStore(home() / "results")))
        if record is None:
            raise SedonaError("no record of a search of vgg19; give the result of one")
        result = search_result(record)
        basis = f"Searched once, seed {record.spec.seed}: {records.protocol(record.spec)}."
    else:
        basis = ""
    if 0 in result.alpha_history.shape:
        states, layers, _ = result.alpha_history.shape
        raise SedonaError(
            f"a search result of {states} states and {layers} decisions; allowed: at least 1 of each"
        )
    last, num_layers = len(result.outer_losses), len(result.alpha) + 1
    step = last if step is None else step
    if not 0 <= step <= last:
        raise SedonaError(f"step is {step}; allowed for {last} outer steps: 0..{last}")

    def look(step: int, num_blocks: int) -> View:
        return views.search_step(result, step, num_blocks, basis)

    first = look(step, num_blocks)
    if progress.headless():
        return panels.static(first, f"{AT_A_STEP} {basis}".strip())
    controls = {
        "step": panels.integer("outer step", 0, last, step),
        "num_blocks": panels.integer("blocks K", 1, num_layers, num_blocks),
    }
    return panels.follow(look, controls, AT_A_STEP)
