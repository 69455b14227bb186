"""JupyterLab on a copy of this repository, and a notebook in it as a person at a browser has it.

Nothing of the user's own Jupyter is used or changed: settings, workspaces and data are folders of the copy's own.
The server ends when its standard input does, which is when the process that started it ends, however that ends.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from chromium import Chromium, wait_until

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (Path(__file__).resolve().parent / "notebook_page.js").read_text(encoding="utf-8")
COPIED = ("notebooks", "sedona_nb", "results", "figures", "benchmarks", "pyproject.toml")
START, RUN = 120, 300  # seconds to wait for JupyterLab, for all cells of a notebook
DRAW, ALLOW = 30, 60  # for a picture, for a button that waits for what another button began
HIGHEST = 16_000  # pixels of a screenshot
# These would make widgets static, or let a user's own Jupyter in.
FOREIGN = ("SEDONA_HEADLESS", "PYTEST_", "JUPYTER", "JPY_", "IPYTHON")
CONFIG = """
import os, signal, sys, threading


def end_with_the_tests():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=end_with_the_tests, daemon=True).start()
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True  # in a container
c.ServerApp.terminals_enabled = False
c.LabApp.expose_app_in_browser = True  # window.jupyterapp
c.LabApp.extension_manager = "readonly"  # asks no registry
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
"""
SETTINGS = {
    # Every cell is an element: what is out of sight is looked at, too.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """JupyterLab on a copy of the repository in `folder`; yields its address with the token.

    Raises:
        RuntimeError: it ends instead of starting.
        TimeoutError: it does not start.
        RuntimeError: at the end, a process that the notebooks started was still there; it is gone now.
    """
    home, copy = folder / "jupyter", folder / "repository"
    copy.mkdir(parents=True)
    for name in COPIED:
        part = REPOSITORY / name
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints", ".ipynb_checkpoints")
        (shutil.copytree(part, copy / name, ignore=ignored) if part.is_dir() else shutil.copy(part, copy / name))
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    (home / "config").mkdir()
    (home / "config" / "jupyter_server_config.py").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    environment |= {
        "PYTHONPATH": str(copy),
        "JUPYTER_TOKEN": secrets.token_hex(16),  # not an argument: those can be read by everybody
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    with (folder / "jupyterlab.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab"],
            **{"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "cwd": copy, "env": environment},
            start_new_session=True,  # Ctrl-C is for the tests, which then end it
        )
    try:
        yield wait_until(lambda: _address(process, folder), "JupyterLab", START)
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        left = end_what_is_left(folder)
    if left:
        raise RuntimeError(f"still running after JupyterLab had ended: {left}")


def _address(process: subprocess.Popen[bytes], folder: Path) -> str | None:
    """The address that the server writes down, with the port that it found free; None: not yet."""
    if process.poll() is not None:
        raise RuntimeError(f"JupyterLab ended: {(folder / 'jupyterlab.log').read_text(errors='replace')[-500:]}")
    with suppress(StopIteration, ValueError):  # no file yet, or one half written
        facts = json.loads(next((folder / "jupyter" / "runtime").glob("jpserver-*.json")).read_text())
        return f"http://127.0.0.1:{facts['port']}/lab?token={facts['token']}&reset"
    return None


def end_what_is_left(folder: Path, grace: float = 10) -> list[str]:
    """Kill the processes that were started from `folder` and do not end by themselves; their command lines."""
    end = time.monotonic() + grace
    while (left := _from(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    words = []
    for process in left:
        with suppress(psutil.Error):
            words.append(" ".join(process.cmdline())[:200])
            process.kill()
    return words


def _from(folder: Path) -> list[psutil.Process]:
    """Processes that have `folder` in their environment, command line or working folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            known = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.pid != os.getpid() and any(str(folder) in text for text in known):
                found.append(process)
    return found


class Notebook:
    """A notebook open in JupyterLab; cells are counted from 0.

    Attributes:
        browser: with JupyterLab as its page.
        path: of the file, from the folder that JupyterLab shows.
        name: of the file, without suffix.
    """

    def __init__(self, browser: Chromium, path: str) -> None:
        self.browser, self.path, self.name = browser, path, Path(path).stem
        browser.run("window.openNotebook", path, seconds=START)

    def ask(self, name: str, *arguments: Any, seconds: float = 60) -> Any:
        """Call a function of notebook_page.js."""
        call = "(path, name, ...given) => window.notebooks[path][name](...given)"
        return self.browser.run(call, self.path, name, *arguments, seconds=seconds)

    def close(self) -> None:
        """Shut its kernel down and close it without saving."""
        self.ask("close")

    def start(self) -> None:
        """Forget all outputs and begin to run all cells; the notebook comes to the front."""
        self.ask("show")
        self.ask("runAll")

    def finish(self) -> list[int]:
        """Wait until all cells ran, bring it to the front; the code cells that have no execution count."""
        wait_until(self._is_idle, f"all cells of {self.name}", RUN)
        self.ask("show")
        return self.ask("notRun")

    def run_cell(self, cell: int, source: str) -> str:
        """Put the cursor into a cell, type over what is there, press Shift-Enter; what it prints."""
        self.ask("edit", cell)
        self.browser.press("a", "Control")
        self.browser.type(source)
        wait_until(lambda: self.ask("source", cell) == source, f"{source!r} in cell {cell}", DRAW)
        self.browser.press("Enter", "Shift")
        wait_until(lambda: self.ask("count", cell) and self._is_idle(), f"cell {cell} of {self.name}", RUN)
        return self.ask("printed", cell)

    def errors(self) -> list[tuple[int, str]]:
        """Cells with a traceback or a broken widget, and what it says; cell -1: a callback of a widget raised."""
        return [(cell, text) for cell, text in self.ask("errors")]

    def controls(self) -> list[Control]:
        """All sliders, lists, ticks and buttons that can be seen, cell by cell."""
        return [Control(self, one["cell"], one["kind"], one["nth"], one["label"]) for one in self.ask("controls")]

    def set_theme(self, name: str) -> None:
        """Have JupyterLab in another theme, all of it drawn."""
        self.ask("setTheme", name)
        wait_until(lambda: self.ask("theme") == name, f"the theme {name}", DRAW)

    def screenshot(self, folder: Path, what: str, cell: int | None = None) -> None:
        """`<notebook>-<what>.png` in `folder`: a cell with its output, or by default the whole notebook."""
        path = folder / (re.sub(r"[^\w-]+", "_", f"{self.name}-{what}") + ".png")
        width, height = self.browser.size
        self.browser.resize(width, min(int(self.ask("height")), HIGHEST))
        self.ask("settle")
        self.ask("top")
        self.browser.screenshot(path, None if cell is None else self.ask("place", cell))
        self.browser.resize(width, height)
        self.ask("settle")

    def _is_idle(self) -> bool:
        status = self.ask("kernel")
        if status in ("dead", "autorestarting"):
            raise RuntimeError(f"{self.name}: the kernel is {status}")
        return self.ask("idle")


@dataclass(frozen=True)
class Moved:
    """A control that was moved: what was to be seen before, and the key that leads back."""

    before: dict[str, Any]
    back: str


@dataclass(frozen=True)
class Control:
    """A slider, list, tick or button in the output of a cell.

    Attributes:
        notebook: where it is.
        cell: of the notebook.
        kind: slider, list, tick, button, or play.
        nth: of its kind in the cell, from 0.
        label: what is written beside it.
    """

    notebook: Notebook
    cell: int
    kind: str
    nth: int
    label: str

    def move(self, seconds: float = DRAW) -> Moved:
        """Move it by a key and see another picture; what leads back. A list or a tick may change the words alone.

        Raises:
            TimeoutError: the picture stays as it is for `seconds`.
        """
        keys = {"slider": ("ArrowRight", "ArrowLeft"), "list": ("ArrowDown", "ArrowUp")}.get(self.kind, (" ", " "))
        there, back = keys[::-1] if self._now()["atEnd"] else keys
        before = self.look()
        self.press(there)
        wait_until(lambda: self._differs(before), f"another picture after {self}: {there!r}", seconds)
        return Moved(before, back)

    def move_back(self, moved: Moved, seconds: float = DRAW) -> None:
        """Undo a move and see the first picture again. A button has no way back; what plays is only stopped.

        Raises:
            TimeoutError: the first picture does not come back within `seconds`.
        """
        if self.kind != "button":
            self.press(moved.back)
        if self.kind not in ("button", "play"):
            what = f"the first picture after {self}: {moved.back!r}"
            wait_until(lambda: self.look() == moved.before, what, seconds)

    def look(self) -> dict[str, Any]:
        """The cell's "pictures", a digest of the pixels of each, and "words"."""
        return self.notebook.ask("look", self.cell)

    def _differs(self, before: dict[str, Any]) -> bool:
        now = self.look()
        if len(now["pictures"]) < len(before["pictures"]):  # between two pictures there is none for a moment
            return False
        return now["pictures"] != before["pictures"] or (self.kind != "slider" and now["words"] != before["words"])

    def _now(self) -> dict[str, Any]:
        return self.notebook.ask("control", self.cell, self.kind, self.nth)

    def press(self, key: str) -> None:
        """A key while it has the keyboard's focus."""
        if self.kind == "button":  # one button may allow the next
            wait_until(lambda: self._now()["value"], f"{self} to be allowed", ALLOW)
        self._focus()
        if self.kind == "list":  # a folded one leaves arrows to JupyterLab, which goes to another cell
            wait_until(self._unfold, f"{self} to unfold", DRAW)
        self.notebook.browser.press(key)
        if self.kind == "list":
            self.notebook.browser.press("Enter")

    def _focus(self) -> None:
        if not self.notebook.ask("focus", self.cell, self.kind, self.nth):
            raise RuntimeError(f"{self} does not take the keyboard's focus")

    def _unfold(self) -> bool:
        self._focus()
        self.notebook.browser.press(" ")
        with suppress(TimeoutError):
            return wait_until(lambda: self.notebook.ask("unfolded", self.cell, self.kind, self.nth), "it", 2)
        return False

    def __str__(self) -> str:
        return f"{self.kind} {self.label!r} of cell {self.cell} in {self.notebook.name}"


def enter(browser: Chromium, address: str) -> None:
    """Load JupyterLab, wait until it is there, and fold its side bar away."""
    browser.go(address)
    wait_until(lambda: browser.run("() => Boolean(window.jupyterapp)"), "the page of JupyterLab", START)
    browser.run("() => window.jupyterapp.restored", seconds=START)
    browser.run("() => window.jupyterapp.shell.collapseLeft()")
    browser.run(f"() => {{ {PAGE} }}")
