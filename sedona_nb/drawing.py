"""How every figure looks and how it is kept: one style, one kind of figure, three files side by side.

matplotlib's global settings stay as they are: the style is in force only while a `Drawing` is built or painted.
One at a time: in JupyterLab a widget may call back in a thread of its own, and the settings are everybody's.
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sedona_nb.atomic import write_bytes, write_text
from sedona_nb.backgrounds import Backgrounds
from sedona_nb.captions import describe
from sedona_nb.errors import SedonaError

# The colours of Okabe and Ito, which people with any kind of colour vision tell apart.
INK, QUIET, FAINT = "#222222", "#6b6b6b", "#c9c9c9"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), ":")
MARKERS = "osD^vPX"
METHODS = ("backprop", "predsim", "dgl", "sedona", "features-replay", "block-local", "feedback-alignment")
GRADIENT = VERMILLION  # the backward direction, wherever one is drawn
# Heads from shallow to deep: from light to dark, so that order survives a black-and-white printer.
HEAD_COLOURS = {
    "aux1": "#c6dbef",
    "aux2": "#85b8dc",
    "aux3": "#3f8abf",
    "aux4": "#0b4f8a",
    "mlp-sr": "#f0c27b",
    "predsim": "#d9a3c4",
    "none": "#ffffff",  # Features Replay: no head
}
NAMES = {
    "transformer20": "Transformer",
    "vgg11": "VGG-11",
    "vgg19": "VGG-19",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "backprop": "Backprop",
    "dgl": "DGL",
    "sedona": "SEDONA",
    "features-replay": "Features Replay",
    "feedback-alignment": "FA",
    "block-local": "BLL",
    "continuous": "SEDONA (Cont.)",
    "aux1": "Aux 1",
    "aux2": "Aux 2",
    "aux3": "Aux 3",
    "aux4": "Aux 4",
    "mlp-sr": "MLP-SR",
    "predsim": "PredSim",
}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "sedona_nb",  # otherwise every SVG has new random ids
    "svg.fonttype": "path",
}
SCREEN_DPI, LIVE_DPI, FILE_DPI = 110, 165, 160
ONE_AT_A_TIME = threading.RLock()  # held while matplotlib's settings are ours


def label(name: str) -> str:
    """How a picture writes a network, a method or a head; other names stay as they are."""
    return NAMES.get(name, name)


def looks(names: Sequence[str]) -> list[tuple[str, str, str, Any]]:
    """Each name with its colour, marker and dash: those of `METHODS` look the same in every picture.

    Other names get what is left, in the order of the cycle, and share looks only where there are more than seven.
    """
    names = list(dict.fromkeys(names))
    cycle = list(zip(CYCLE, MARKERS, DASHES, strict=True))
    known = dict(zip(METHODS, cycle, strict=True))
    free = [look for method, look in known.items() if method not in names] or cycle
    others = iter(free + cycle * len(names))
    return [(name, *(known[name] if name in known else next(others))) for name in names]


def from_zero(*panels: Axes) -> None:
    """Let the vertical axes of panels that share them begin at 0, and end above all that they show.

    `Axes.set_ylim(bottom=0)` also fixes the upper end where it happens to be: below what a later panel shows,
    and in the middle of a marker where all values are much alike.
    """
    top = max(axes.dataLim.y1 for axes in panels)
    for axes in panels:
        axes.set_ylim(0, 1.06 * top if np.isfinite(top) and top > 0 else 1)


class Drawing(Figure):
    """A Figure that keeps its style when painted, and shows itself in Jupyter without pyplot's open figures."""

    def draw(self, renderer: Any) -> None:
        """Paint in our style: matplotlib makes ticks and their labels as late as here."""
        with in_style():
            super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture at twice the screen's resolution, to be shown at its size in the page."""
        width, height = self.get_size_inches() * SCREEN_DPI
        picture = _few_colours(_rendered(self, "png", dpi=2 * SCREEN_DPI))
        return picture, {"width": round(width), "height": round(height)}


def screen_picture(figure: Figure, backgrounds: Backgrounds | None = None) -> bytes:
    """A PNG at one and a half times the screen's resolution, for pictures that follow a slider.

    `backgrounds`: of figures like this one, to be used again. The figure keeps its layout from now on.
    """
    with in_style():
        before = figure.dpi
        figure.set_dpi(LIVE_DPI)
        try:
            (backgrounds or Backgrounds()).paint(figure)
            return canvas_picture(figure.canvas)
        finally:
            figure.set_dpi(before)


def canvas_picture(canvas: FigureCanvasAgg) -> bytes:
    """What is painted on a canvas as PNG, packed as fast as it goes."""
    from PIL import Image

    width, height = canvas.get_width_height(physical=True)
    buffer = BytesIO()
    picture = Image.frombytes("RGBA", (width, height), bytes(canvas.buffer_rgba())).convert("RGB")
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _few_colours(picture: bytes) -> bytes:
    """A PNG with a palette of 128 colours, a third as large: notebooks are committed with their pictures."""
    from PIL import Image, PngImagePlugin

    buffer, words = BytesIO(), PngImagePlugin.PngInfo()
    image = Image.open(BytesIO(picture))
    for key, text in image.text.items():
        words.add_itxt(key, text)
    palette = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    palette.save(buffer, "png", optimize=True, pnginfo=words)
    return buffer.getvalue()


@contextmanager
def in_style() -> Iterator[None]:
    """The style in force, for one thread at a time."""
    with ONE_AT_A_TIME, matplotlib.rc_context(STYLE):
        yield


@contextmanager
def drawing(width: float, height: float, title: str = "", note: str = "") -> Iterator[Drawing]:
    """A new figure of that size in inches, with the style in force; title above it, note in small print below."""
    with in_style():
        figure = Drawing(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        if note:
            _small_print(figure, note)
        yield figure


def add_note(figure: Figure, note: str) -> None:
    """More small print below a figure, which grows by it."""
    with in_style():
        width, height = figure.get_size_inches()
        before = figure.get_supxlabel()
        added = _small_print(figure, f"{before}\n{note}" if before else note) - len(before.splitlines())
        figure.set_size_inches(width, height + 0.14 * added)


def _small_print(figure: Figure, note: str) -> int:
    """Replace the small print; the number of its lines."""
    letters = int(16 * figure.get_size_inches()[0])  # 16 an inch
    lines = [part for line in note.splitlines() for part in textwrap.wrap(line, letters)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7.5, color=QUIET)
    return len(lines)


def need(table: pd.DataFrame, columns: Sequence[str], what: str = "table", or_empty: bool = False) -> None:
    """Refuse a table that lacks a column, or has no row unless `or_empty`: never a plot of nothing.

    Raises:
        SedonaError: which.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        raise SedonaError(f"{what} has no column {', '.join(missing)}; it needs {', '.join(columns)}")
    if table.empty and not or_empty:
        raise SedonaError("no record: nothing to draw")


def save(
    figure: Figure,
    name: str,
    folder: Path | str,
    data: pd.DataFrame | Mapping[str, Sequence] | None = None,
) -> list[Path]:
    """Write name.svg, name.png and, with `data` (what the figure is drawn from), name.csv; returns their paths.

    Every file is replaced whole. The same figure gives the same bytes: no dates, no random ids, no versions. What
    `captions.describe` says of the figure is in both pictures.
    """
    folder = Path(folder)
    paths = [write_bytes(folder / f"{name}.{kind}", _rendered(figure, kind, FILE_DPI)) for kind in ("svg", "png")]
    if data is not None:
        table = pd.DataFrame(data).to_csv(index=False, lineterminator="\n")
        paths.append(write_text(folder / f"{name}.csv", table))
    return paths


def _rendered(figure: Figure, kind: str, dpi: int) -> bytes:
    silent = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    buffer = BytesIO()
    with in_style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=silent | {"Description": describe(figure)})
    return buffer.getvalue()
