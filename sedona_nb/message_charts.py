"""Charts of block-local learning: the bound along a path of messages, and errors of heads by split."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sedona_nb.drawing import CYCLE, DASHES, MARKERS, QUIET, drawing, from_zero, label, need
from sedona_nb.errors import SedonaError


def bound_along(table: pd.DataFrame, loss: float, note: str = "") -> Figure:
    """The bound of each latent variable over how loud its message is; the loss is a line across.

    Args:
        table: columns loudness (the exponent of the exact message), latent (a name), bound (nats).
        loss: -log p(y|x), in nats.
        note: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    need(table, ("loudness", "latent", "bound"))
    with drawing(6.0, 3.2, note=note) as figure:
        axes = figure.subplots()
        axes.axhline(loss, color=QUIET, linewidth=1.0, label="the loss, -log p(y|x)")
        latents = list(dict.fromkeys(table["latent"]))
        for latent, colour, dash in zip(latents, CYCLE * 9, DASHES * 9, strict=False):
            part = table[table["latent"] == latent]
            axes.plot(part["loudness"], part["bound"], color=colour, linestyle=dash, label=latent)
        axes.axvline(1, color=QUIET, linewidth=0.8, linestyle=":")
        axes.set(xlabel="exponent of the exact message (0: silent, 1: exact)", ylabel="bound (nats)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def head_errors(table: pd.DataFrame, note: str = "") -> Figure:
    """Test error of every block's scores, a line a run.

    Args:
        table: columns run (a name), block (1 is the lowest), error (%).
        note: for the small print.

    Raises:
        SedonaError: a column is missing, or there is no row.
    """
    need(table, ("run", "block", "error"))
    blocks = sorted(set(table["block"]))
    if not blocks:
        raise SedonaError("no errors: nothing to draw")
    with drawing(6.0, 3.2, note=note) as figure:
        axes = figure.subplots()
        runs = list(dict.fromkeys(table["run"]))
        for run, colour, dash, marker in zip(runs, CYCLE * 9, DASHES * 9, MARKERS * 9, strict=False):
            part = table[table["run"] == run]
            axes.plot(
                part["block"],
                part["error"],
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=4.5,
                label=label(run),
            )
        axes.set(xlabel="block (the last one is the classifier)", ylabel="test error (%)", xticks=blocks)
        from_zero(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
