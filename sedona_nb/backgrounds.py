"""What stands around the drawing in a figure, found and painted once and used again.

    backgrounds = Backgrounds()
    backgrounds.paint(figure)   # all of it
    backgrounds.paint(another)  # with the same titles, axes and legends: only what is inside the axes

Figures that follow a slider differ inside their axes. Laying out and painting what stands around, above all the
small texts, is most of the work, and the same each time. So a slider redraws at once, and axes do not jump below.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

MOST = 12  # pictures that are kept, a few megabytes each


@dataclass(frozen=True)
class _Places:
    """Boxes of the axes, points of the title and the small print, in shares of the figure."""

    boxes: tuple[Bbox, ...]
    points: tuple[tuple[float, float], ...]


class Backgrounds:
    """The layouts and backgrounds that the figures of one widget have had."""

    def __init__(self) -> None:
        self._places: dict[Hashable, _Places] = {}
        self._painted: dict[Hashable, Any] = {}

    def arrange(self, figure: Figure) -> None:
        """Put axes, title and small print in their places, which the figure keeps from then on.

        Words inside axes have no say in it. A figure that was arranged before is left alone.
        """
        engine = figure.get_layout_engine()
        if not isinstance(engine, ConstrainedLayoutEngine):
            return
        for axes in figure.axes:
            for words in axes.texts:
                words.set_in_layout(False)
        around = _around(figure)
        if around not in self._places:
            engine.execute(figure)
            boxes = tuple(axes.get_position(original=True).frozen() for axes in figure.axes)
            self._places[around] = _Places(boxes, tuple(text.get_position() for text in _outer_texts(figure)))
        else:
            places = self._places[around]
            for axes, box in zip(figure.axes, places.boxes, strict=True):
                axes.set_position(box)
            for text, point in zip(_outer_texts(figure), places.points, strict=True):
                text.set_position(point)
        figure.set_layout_engine("none")

    def paint(self, figure: Figure) -> None:
        """Paint the figure on its canvas: the background, then what is inside the axes on top of it."""
        self.arrange(figure)
        canvas, inside = figure.canvas, [(axes, artist) for axes in figure.axes for artist in _inside(axes)]
        key = (figure.dpi, _around(figure), tuple(_ticks(axis) for axes in figure.axes for axis in _axis(axes)))
        if key in self._painted:
            canvas.restore_region(self._painted[key])
        else:
            for _, artist in inside:
                artist.set_animated(True)  # left out of what is painted
            canvas.draw()
            for _, artist in inside:
                artist.set_animated(False)
            while len(self._painted) >= MOST:
                self._painted.pop(next(iter(self._painted)))
            self._painted[key] = canvas.copy_from_bbox(figure.bbox)
        for axes in figure.axes:
            axes.apply_aspect()
        for axes, artist in inside:
            axes.draw_artist(artist)


def _outer_texts(figure: Figure) -> list[Text]:
    """Title and small print, as far as there are any."""
    return [text for text in (figure._suptitle, figure._supxlabel) if text is not None]


def _inside(axes: Axes) -> list[Artist]:
    """What is drawn inside the axes, from the lowest to the highest."""
    found = [*axes.images, *axes.patches, *axes.collections, *axes.lines, *axes.texts]
    return sorted((artist for artist in found if artist.get_visible()), key=Artist.get_zorder)


def _around(figure: Figure) -> Hashable:
    """All that takes room around the axes, but for the ticks across: those are as high whatever they say."""
    return (
        tuple(figure.get_size_inches()),
        tuple(text.get_text() for text in _outer_texts(figure)),
        tuple(_entries(legend) for legend in figure.legends),
        tuple(_around_axes(axes) for axes in figure.axes),
    )


def _around_axes(axes: Axes) -> Hashable:
    spec, legend = axes.get_subplotspec(), axes.get_legend()
    return (
        None if spec is None else spec.get_geometry(),
        axes.axison,
        axes.get_title("left"),
        axes.get_xlabel(),
        axes.get_ylabel(),
        _ticks(axes.yaxis),
        None if legend is None else _entries(legend),
    )


def _axis(axes: Axes) -> tuple[Axis, ...]:
    return (axes.xaxis, axes.yaxis) if axes.axison else ()


def _ticks(axis: Axis) -> Hashable:
    """What decides about the ticks of an axis and the words at them."""
    return (*axis.get_view_interval(), axis.get_scale(), tuple(getattr(axis.get_major_formatter(), "seq", ())))


def _entries(legend: Legend) -> Hashable:
    """What is written in a legend, and the colours that it explains."""
    patches = tuple(patch.get_facecolor() for patch in legend.get_patches())
    lines = tuple(str(line.get_color()) for line in legend.get_lines())
    return (legend.get_title().get_text(), tuple(text.get_text() for text in legend.get_texts()), patches, lines)
