"""Chart of the toy of Eq. 4: what every layer hears, from whom, and what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from sedona_nb.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILLION, drawing
from sedona_nb.errors import SedonaError
from sedona_nb.toy_chain import Mixture

# Of loss 1, 2, ...; none of them has another meaning in the same picture.
LOSS_COLOURS, HATCHES = (GREEN, PURPLE, ORANGE, INK), ("", "///", "...", "xxx")


def gradient_mixture(rows: Sequence[Mixture], ends: tuple[float, float]) -> Figure:
    """Left: each layer's local gradient, the one from above, and their mixture; right: which loss it came from.

    The outline of a bar is the whole gradient, its filling the part that the shares let through; the fillings of a
    layer add up to its mixture.

    Args:
        rows: of `toy_chain.mixtures`.
        ends: of the axis, `toy_chain.extremes`.

    Raises:
        SedonaError: no rows.
    """
    if not rows:
        raise SedonaError("no layers to draw; allowed: one or more")
    margin = 0.04 * (ends[1] - ends[0])
    with drawing(7.6, 1.1 + 0.75 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        for one in rows:
            heard = (
                (0.26, one.local, one.share, SKY, "own loss (local)"),
                (0.0, one.from_above, 1 - one.share, BLUE, "from above"),
            )
            for shift, whole, share, colour, name in heard:
                if one.from_above == 0 and name == "from above" and one.share == 1:
                    continue  # the top: there is nothing above
                place = one.layer + shift
                legend = name if one is rows[0] else None
                left.barh(place, share * whole, 0.22, color=colour, label=legend)
                left.barh(place, whole, 0.22, fill=False, edgecolor=QUIET, linewidth=0.8)
                text = f"{share:.2f} x {whole:.2f}"
                left.annotate(
                    text, (max(whole, 0), place), (3, 0), textcoords="offset points", va="center", fontsize=7
                )
            legend = r"mixture $\bar\delta$" if one is rows[0] else None
            left.barh(one.layer - 0.26, one.mixed, 0.22, color=VERMILLION, label=legend)
            place = (max(one.mixed, 0), one.layer - 0.26)
            left.annotate(f"{one.mixed:.2f}", place, (3, 0), textcoords="offset points", va="center", fontsize=7)
            foot = 0.0
            for number, (part, colour, hatch) in enumerate(
                zip(one.parts, LOSS_COLOURS * 9, HATCHES * 9, strict=False), 1
            ):
                legend = f"loss {number}" if one is rows[0] else None
                right.barh(
                    one.layer,
                    part,
                    0.5,
                    foot,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0,
                    label=legend,
                )
                foot += part
            right.plot([one.mixed] * 2, [one.layer - 0.32, one.layer + 0.32], color=VERMILLION, linewidth=2)
        left.set_yticks([one.layer for one in rows], [f"layer {one.layer}" for one in rows])
        left.set(title="What a layer hears", xlim=(ends[0] - margin, 1.15 * ends[1] + margin), xlabel="gradient")
        right.set(
            title="Whose loss the mixture is from", xlim=(ends[0] - margin, ends[1] + margin), xlabel="gradient"
        )
        for axes in (left, right):
            axes.grid(visible=False)
            axes.axvline(0, color=FAINT, linewidth=0.8)
            axes.tick_params(axis="y", length=0)
            axes.set_ylim(0.45, len(rows) + 0.55)
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.08), ncols=3, borderaxespad=0.0, handlelength=1.2)
    return figure
