"""What a figure says in words: title, panels with the names of their axes, small print.

    captions.describe(figure)   # "Test error ... | VGG-19: across blocks K, up test error (%) | Bars: ..., n = 3."

The words travel in the files of the figure, for screen readers, for searching, and for the test that no committed
figure lacks the name of an axis or its small print.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

NO_NAME = "(no name)"
NO_NOTE = "(no small print)"


def describe(figure: Figure) -> str:
    """Title, panels and small print of a figure, a line; what it lacks is `NO_NAME` or `NO_NOTE`.

    The title of a figure's legend counts as small print.

    An axis with numbers needs a name, its own or that of a panel that shares it; one with words speaks for itself.
    """
    title = figure.get_suptitle()
    panels = [_panel(axes) for axes in figure.axes if axes.get_visible() and axes.axison]
    notes = [*(legend.get_title().get_text() for legend in figure.legends), figure.get_supxlabel()]
    parts = filter(None, (title, *panels, *(notes if any(notes) else [NO_NOTE])))
    return " | ".join(" ".join(part.split()) for part in parts)


def _panel(axes: Axes) -> str:
    """A panel's title and its axes; empty for one without either."""
    ways = [("across", axes.xaxis, axes.get_shared_x_axes()), ("up", axes.yaxis, axes.get_shared_y_axes())]
    named = []
    for way, axis, shared in ways:
        others = [one.xaxis if way == "across" else one.yaxis for one in shared.get_siblings(axes)]
        name = next(filter(None, (one.get_label_text() for one in (axis, *others))), "")
        if name or _has_numbers(axis):
            named.append(f"{way} {name or NO_NAME}")
    title = axes.get_title("left") or axes.get_title()
    return ": ".join(filter(None, (title, ", ".join(named))))


def _has_numbers(axis: Axis) -> bool:
    """Whether ticks of the axis are labelled with numbers that can be seen."""
    return any(_is_number(tick.get_text()) for tick in axis.get_ticklabels() if tick.get_visible())


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\N{MINUS SIGN}", "-").replace(",", "").rstrip("%x "))
    except ValueError:
        return "mathdefault" in text  # powers of ten on logarithmic axes
    return True
