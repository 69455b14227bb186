"""What every widget is made of: controls, a picture that follows them, words; and its twin where nobody can slide.

    panel = panels.follow(look, {"num_blocks": slider}, caption)   # look(num_blocks=4) -> View
    panels.static(look(num_blocks=4), caption)                     # prints the words, returns the figure

The picture is one image whose bytes are replaced: nothing is cleared, so nothing flickers.
"""

from __future__ import annotations

import gc
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from sedona_nb.backgrounds import Backgrounds
from sedona_nb.drawing import ONE_AT_A_TIME, SCREEN_DPI, add_note, screen_picture
from sedona_nb.errors import SedonaError
from sedona_nb.wrapping import say

if TYPE_CHECKING:
    from ipywidgets import HTML, Image, VBox, Widget

DESCRIPTION = {"description_width": "15em"}
WIDE = "40em"


@dataclass(frozen=True)
class View:
    """What one setting of the controls shows.

    Attributes:
        figure: the drawing.
        words: sentences below it.
        table: below them, if there is one.
        picture: the figure as PNG, where there is a faster way than painting it anew.
    """

    figure: Figure
    words: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    picture: bytes | None = None

    def png(self, backgrounds: Backgrounds | None = None) -> bytes:
        """The picture to be shown; `backgrounds`: of the widget's figures so far."""
        return self.picture or screen_picture(self.figure, backgrounds)


Look = Callable[..., View]


def static(view: View, caption: str = "") -> Figure:
    """The twin of a widget: its words and its table are printed, its figure is returned with the caption in it."""
    say(*view.words)
    if view.table is not None:
        print(view.table.to_string(index=False))
    if caption:
        add_note(view.figure, caption)
    return view.figure


def follow(look: Look, controls: Mapping[str, Widget], caption: str, rows: Sequence[Widget] = ()) -> VBox:
    """Controls above, picture, words and table below, the caption at the end.

    Args:
        look: called with the controls' values by name whenever one of them changes. A `SedonaError` is shown as
            words, and the picture stays as it was.
        controls: by argument of `look`.
        caption: in words, what there is to see and to do.
        rows: the controls as they are laid out; default: one below the other.

    Returns:
        a box with the attributes that its parts have: children are rows, picture, words, table, caption.
    """
    from ipywidgets import VBox

    picture, words, table = image(), text(), text()
    backgrounds = Backgrounds()

    def draw() -> None:
        try:
            view = look(**{name: control.value for name, control in controls.items()})
        except SedonaError as error:
            words.value = paragraphs([str(error)])
            return
        show(view, picture, words, table, backgrounds)

    def redraw(_: object = None) -> None:
        with ONE_AT_A_TIME, own_garbage():  # two threads may call: whoever comes last sees all values as they are
            draw()

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    return VBox([*(rows or controls.values()), picture, words, table, text(paragraphs([caption], quiet=True))])


@contextmanager
def own_garbage() -> Iterator[None]:
    """Take away what was made inside and is no longer used, and nothing else.

    A figure is thousands of objects in circles. Python's collector would find them later, among millions that are
    PyTorch's, and every tenth move of a slider would wait for it a quarter of a second. Right away they are few.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        gc.enable()


def show(view: View, picture: Image, words: HTML, table: HTML, backgrounds: Backgrounds) -> None:
    """Put a view into its places, on the background of figures like it; what is as it was is not sent again."""
    width = round(view.figure.get_size_inches()[0] * SCREEN_DPI)
    picture.layout.width = f"{width}px"
    picture.value = view.png(backgrounds)
    words.value = paragraphs(view.words)
    rows = view.table
    table.value = "" if rows is None else aligned(rows)


def aligned(rows: pd.DataFrame) -> str:
    """A table as HTML, headers over their columns and room between them, whatever the page's own style is."""
    style = "text-align:left;padding:3px 24px 3px 0;white-space:nowrap"
    return re.sub(r"<(th|td)\b[^>]*>", rf'<\1 style="{style}">', rows.to_html(index=False, border=0))


def image() -> Image:
    """An empty picture, never wider than the page."""
    from ipywidgets import Image, Layout

    return Image(format="png", layout=Layout(max_width="100%", object_fit="contain"))


def text(value: str = "") -> HTML:
    """Words below a picture."""
    from ipywidgets import HTML

    return HTML(value)


def paragraphs(lines: Sequence[str], quiet: bool = False) -> str:
    """Sentences as HTML, a line each."""
    style = "line-height:1.4;max-width:60em" + (";color:var(--jp-ui-font-color2,#6b6b6b)" if quiet else "")
    return "".join(f'<div style="{style}">{html.escape(line)}</div>' for line in lines)


def integer(description: str, lowest: int, highest: int, first: int, **more: object) -> Widget:
    """A slider over whole numbers that waits until it is let go, with a box to type into."""
    from ipywidgets import IntSlider, Layout

    return IntSlider(
        first,
        lowest,
        highest,
        description=description,
        continuous_update=False,
        style=DESCRIPTION,
        layout=Layout(width=WIDE),
        **more,
    )


def number(description: str, lowest: float, highest: float, first: float, step: float) -> Widget:
    """The same over numbers with decimals."""
    from ipywidgets import FloatSlider, Layout

    return FloatSlider(
        first,
        min=lowest,
        max=highest,
        step=step,
        description=description,
        continuous_update=False,
        style=DESCRIPTION,
        layout=Layout(width=WIDE),
    )


def choice(description: str, options: Sequence[str] | Mapping[str, str], first: str) -> Widget:
    """One of several, from a list; a mapping shows its keys and has its values."""
    from ipywidgets import Dropdown, Layout

    shown = list(options.items()) if isinstance(options, Mapping) else list(options)
    layout = Layout(width=WIDE)
    return Dropdown(options=shown, value=first, description=description, style=DESCRIPTION, layout=layout)
