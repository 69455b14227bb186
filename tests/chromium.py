"""A headless Chromium, driven by the DevTools protocol through a pipe.

No driver and no open port: Chromium reads commands and writes answers on two pipes, and leaves when they close. So
it also leaves when the process that started it is killed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1280, 900  # of the window, in pixels
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have little shared memory
    "--disable-gpu",
    "--force-color-profile=srgb",
    f"--window-size={WIDTH},{HEIGHT}",
)
KEYS = {  # key: (code, number, text)
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "a": ("KeyA", 65, "a"),
}
MODIFIERS = {"": 0, "Control": 2, "Shift": 8}


class PageError(Exception):
    """JavaScript raised in the page, or the page is gone."""


def find() -> str | None:
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def wait_until(condition: Callable[[], T], what: str, seconds: float) -> T:
    """Ask ten times a second until `condition` gives something true, and return that.

    Raises:
        TimeoutError: it did not within `seconds`; the message has `what` was waited for and the last answer.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}; last: {found!r}")
        time.sleep(0.1)
    return found


class Chromium:
    """One browser process with one page; a profile of its own in `folder`.

    Raises:
        PageError: Chromium does not start.
    """

    def __init__(self, program: str, folder: Path) -> None:
        commands, self._commands = _high(os.pipe())
        self._answers, answers = _high(os.pipe())
        flags = [*FLAGS, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        # Chromium wants its pipes as descriptors 3 and 4; Python cannot promise numbers to a child, a shell can.
        shell = ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash"]
        self._log = folder.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*shell, program, *flags, "about:blank"],
                pass_fds=(commands, answers),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then end it
            )
        os.close(commands)
        os.close(answers)
        self._read, self._count, self._session = b"", 0, ""
        self._exceptions: list[str] = []
        try:
            pages = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
            page = (
                pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
            )
            self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Inspector"):
                self.call(f"{domain}.enable")
            self.resize(WIDTH, HEIGHT)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the browser's first process."""
        return self._process.pid

    def close(self) -> None:
        """End Chromium and all its processes."""
        with suppress(PageError, TimeoutError, OSError):
            self._session = ""
            self.call("Browser.close", seconds=5)
        for end in (self._commands, self._answers):
            with suppress(OSError):
                os.close(end)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, seconds: float = 60, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result.

        Raises:
            PageError: Chromium refuses it, or the page crashed.
            TimeoutError: no answer within `seconds`.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        end = time.monotonic() + seconds
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._count:
                break
            self._note(answer)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def run(self, function: str, *arguments: Any, seconds: float = 60) -> Any:
        """Call a JavaScript function, perhaps an async one, with plain values; the plain value it returns."""
        code = f"({function})(...{json.dumps(arguments)})"
        settings = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", seconds, expression=code, **settings)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def uncaught(self) -> list[str]:
        """Exceptions since the last call that nothing in the page caught."""
        found, self._exceptions = self._exceptions, []
        return found

    def go(self, address: str) -> None:
        """Load a page; returns when it has been asked for, not when it is there."""
        self.call("Page.navigate", url=address)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, in pixels."""
        self.size = width, height
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **sizes)

    def press(self, key: str, modifier: str = "") -> None:
        """A key down and up, as from a keyboard: one of `KEYS`, with one of `MODIFIERS`."""
        code, number, text = KEYS[key]
        common = {
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "nativeVirtualKeyCode": number,
            "modifiers": MODIFIERS[modifier],
        }
        shown = {"text": text} if text and not modifier else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if shown else "rawKeyDown", **common, **shown)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Text that goes where the keyboard's focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, clip: dict[str, float] | None = None) -> None:
        """The page, or a part of it (x, y, width, height in pixels), as PNG."""
        more = {} if clip is None else {"clip": clip | {"scale": 1}}
        picture = self.call("Page.captureScreenshot", format="png", **more)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture))

    def _note(self, event: dict[str, Any]) -> None:
        method, details = event.get("method"), event.get("params", {})
        if method == "Inspector.targetCrashed":
            raise PageError("the page crashed")
        if method == "Runtime.exceptionThrown":
            exception = details["exceptionDetails"]
            self._exceptions.append(exception.get("exception", {}).get("description") or exception["text"])

    def _next(self, end: float, method: str) -> dict[str, Any]:
        """The next message, waited for until the clock shows `end`."""
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium does not answer {method}")
            data = os.read(self._answers, 1 << 20)
            if not data:
                words = self._log.read_text(errors="replace").strip()[-500:]
                raise PageError(f"Chromium is gone; it said: {words or 'nothing'}")
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)


def _high(pipe: tuple[int, int]) -> tuple[int, int]:
    """The same pipe at descriptors above those that the shell hands on, closed in other children."""
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipe)
    for end in pipe:
        os.close(end)
    return moved[0], moved[1]
