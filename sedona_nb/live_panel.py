"""The panel of a live search: buttons that send wishes, and a picture that is looked after once a second.

The search does not depend on it. Close the tab, restart the kernel, run the cell again: the new panel finds what
is there. A thread of the kernel asks the folder how things stand, until the panel is closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sedona_nb import live_search as steering
from sedona_nb import panels, progress, views
from sedona_nb.backgrounds import Backgrounds
from sedona_nb.drawing import ONE_AT_A_TIME
from sedona_nb.errors import SedonaError
from sedona_nb.live_folder import AT_REST, Status
from sedona_nb.records import SearchSpec

if TYPE_CHECKING:
    from ipywidgets import Button, VBox, Widget
    from matplotlib.figure import Figure

EVERY = 1.0  # seconds between two looks
CAPTION = (
    "A search in a process of its own. Left: error on held-out pictures while all heads pretrain. Middle: "
    "validation loss of each outer step. Right: each layer's share of the local gradient now, from one half, "
    "where it starts. Pause waits at a step, stop ends the process; both keep what was done, and continue goes on "
    "from there, also after the process was killed. Drawn from what it has recorded so far."
)


def live_search(
    folder: Path | str, spec: SearchSpec | None = None, data: str = "digits", device: str = "cpu"
) -> Widget | Figure:
    """A panel for the search in `folder`: start, pause, continue, stop, and how far it is.

    The search is a process of its own (`sedona_nb.live_search`); run the cell again to see it again, also from
    another kernel. Headless nothing is started: the state of the folder is drawn.

    Args:
        folder: of this search and no other.
        spec: what "start" searches; None: only watch and steer what is there.
        data: name or path of the pictures, for "start".
        device: where to compute, for "start".

    Raises:
        SedonaError: a damaged folder.
    """
    if progress.headless():
        return panels.static(views.live(steering.status(folder)), CAPTION)
    return _panel(Path(folder).absolute(), spec, str(data), str(device))


def _panel(folder: Path, spec: SearchSpec | None, data: str, device: str) -> VBox:
    """Buttons, picture and words of the search in `folder`; `spec`, `data`, `device`: for its start."""
    from ipywidgets import HBox, VBox

    picture, words, table = panels.image(), panels.text(), panels.text()
    backgrounds = Backgrounds()
    seen: list[Status] = []

    def refresh() -> None:
        with ONE_AT_A_TIME:
            now = steering.status(folder)
            if seen and seen[-1] == now:
                return
            seen[:] = [now]
            panels.show(views.live(now), picture, words, table, backgrounds)
            for name, button in buttons.items():
                button.disabled = not allowed(name, now, spec is not None)

    def press(act: Callable[[], Status]) -> None:
        try:
            act()
        except SedonaError as error:
            refresh()
            words.value = panels.paragraphs([str(error)])
            return
        refresh()

    acts = {
        "start": lambda: steering.start(folder, spec, data, device),
        "pause": lambda: steering.pause(folder),
        "continue": lambda: steering.resume(folder),
        "stop": lambda: steering.stop(folder),
    }
    buttons = {name: _button(name) for name in acts}
    for name, button in buttons.items():
        button.on_click(lambda _, act=acts[name]: press(act))
    refresh()
    caption = panels.text(panels.paragraphs([CAPTION], quiet=True))
    box = VBox([HBox([*buttons.values()]), picture, words, table, caption])
    threading.Thread(target=_look_after, args=(box, refresh), daemon=True).start()
    return box


def _look_after(box: VBox, refresh: Callable[[], None]) -> None:
    """Refresh once a second until the box is closed; a folder that cannot be read for once is asked again."""
    while box.comm is not None:
        with suppress(SedonaError, OSError):
            refresh()
        time.sleep(EVERY)


def allowed(name: str, status: Status, has_spec: bool = True) -> bool:
    """Whether a button can be pressed in this state of affairs."""
    if name == "start":
        return has_spec and status.state == "none"
    if name == "continue":
        return status.state in AT_REST
    if name == "pause":
        return status.at_work and status.wish == "run"
    return status.at_work or status.state == "paused"


def _button(name: str) -> Button:
    from ipywidgets import Button

    icons = {"start": "play", "pause": "pause", "continue": "forward", "stop": "stop"}
    words = {
        "start": "Begin the search in a process of its own",
        "pause": "Rest after the step that it is at; the process stays",
        "continue": "Go on from the last checkpoint",
        "stop": "End the process after the step that it is at; what was done is kept",
    }
    return Button(description=name, icon=icons[name], tooltip=words[name])
