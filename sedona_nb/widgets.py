"""Sliders on top of `viz`: no drawing and no arithmetic of their own; the static figure where nobody can slide."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from sedona_nb.decoupling import Decoupling, count_configurations, rank_layers
from sedona_nb.errors import TieWarning

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure


def explore_decoupling(alpha: Tensor, beta: Tensor, num_blocks: int = 4) -> Widget | Figure:
    """A slider over K: the decoupling that a search's alpha (L-1, 2) and beta (L-1, 4) give, drawn and in words.

    Headless: the figure at `num_blocks`. Ties are said in words below the picture.

    Raises:
        SedonaError: wrong shape or type of alpha or beta, or `num_blocks` outside 1..L.
    """
    from sedona_nb import viz

    num_layers = len(rank_layers(alpha).order) + 1

    def figure(num_blocks: int) -> tuple[Figure, list[str]]:
        with warnings.catch_warnings(record=True) as ties:
            warnings.simplefilter("always", TieWarning)
            cut = Decoupling.from_search(alpha, beta, num_blocks)
        return viz.decoupling_diagram(cut), [str(cut), *(f"Tie: {tie.message}" for tie in ties)]

    return _explore(figure, num_blocks=(1, num_layers, num_blocks))


def explore_configurations(num_layers: int = 16, num_blocks: int = 4, num_heads: int = 4) -> Widget | Figure:
    """Sliders over L, K and M: how many configurations there are. Headless: the figure at the values given.

    Raises:
        SedonaError: K outside 1..L, or M below 1.
    """
    from sedona_nb import viz

    count_configurations(num_layers, num_blocks, num_heads)  # checks

    def figure(num_layers: int, num_blocks: int, num_heads: int) -> tuple[Figure, list[str]]:
        num_blocks = min(num_blocks, num_layers)  # sliders move one by one: K may be left above a smaller L
        count = count_configurations(num_layers, num_blocks, num_heads)
        text = f"L = {num_layers}, K = {num_blocks}, M = {num_heads}: {count:,} configurations"
        return viz.configuration_counts(num_layers, num_heads, num_blocks), [text]

    longest = max(50, num_layers)
    return _explore(
        figure,
        num_layers=(1, longest, num_layers),
        num_blocks=(1, longest, num_blocks),
        num_heads=(1, max(8, num_heads), num_heads),
    )


def _explore(figure: Callable[..., tuple[Figure, list[str]]], **ranges: tuple[int, int, int]) -> Widget | Figure:
    """One integer slider (lowest, highest, first) an argument of `figure`, or its figure at the first values."""
    from sedona_nb.progress import headless

    if headless():
        return figure(**{name: first for name, (_, _, first) in ranges.items()})[0]
    from IPython.display import display
    from ipywidgets import IntSlider, interactive

    def show(**values: int) -> None:
        picture, lines = figure(**values)
        display(picture)
        print(*lines, sep="\n")

    sliders = {
        # Drawing takes a moment: wait until the slider is let go.
        name: IntSlider(first, lowest, highest, description=name.replace("num_", ""), continuous_update=False)
        for name, (lowest, highest, first) in ranges.items()
    }
    return interactive(show, **sliders)
