"""Progress of a long loop: a bar where a person looks, plain lines where only a log file does."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any


def headless() -> bool:
    """Whether nobody looks at a bar: asked for by SEDONA_HEADLESS=1, under pytest, or in a pipe outside Jupyter.

    pytest exports PYTEST_VERSION, which the kernels that nbval starts inherit: there, a bar would be compared
    with the committed outputs and differ.
    """
    if os.environ.get("SEDONA_HEADLESS", "0") not in ("", "0") or "PYTEST_VERSION" in os.environ:
        return True
    return not _in_kernel() and not (sys.stdout is not None and sys.stdout.isatty())


def bar(
    total: int, label: str, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> ProgressBar:
    """The progress of `total` steps, for a `with` block; call `.update(n, loss=...)` after every `n` steps.

    Args:
        total: number of steps.
        label: what is counted, in a word or three.
        interval: seconds between two lines when headless; a bar is redrawn ten times a second.
        clock: tells the time in seconds.
    """
    return (LineBar if headless() else TqdmBar)(total, label, interval, clock)


def duration(seconds: float) -> str:
    """`seconds` for people: '0.4 s', '75 s', '12 min', '3.5 h'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class ProgressBar(ABC):
    """What both bars share: the count, the latest values, and closing in an orderly way."""

    def __init__(self, total: int, label: str, interval: float, clock: Callable[[], float]) -> None:
        self.total, self.label, self.count = total, label, 0
        self.values: dict[str, Any] = {}  # read only to be shown: a CUDA tensor costs a wait
        self._interval, self._clock = interval, clock
        self._start = self._shown_at = clock()

    @abstractmethod
    def update(self, n: int = 1, **values: Any) -> None:
        """Count `n` more steps; `values` (numbers, one-element tensors, text) replace those of the same name."""

    def resize(self, total: int) -> None:
        """Count up to `total` from now on: a loop may find out on its way that there is more to do."""
        self.total = total

    def write(self, line: str) -> None:
        """Print `line` where it does not run into a bar."""
        print(line, flush=True)

    @abstractmethod
    def close(self, failed: bool = False) -> None:
        """Show the last state; `failed` if an exception ended the loop."""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _count(self, n: int, values: dict[str, Any]) -> None:
        self.count += n
        self.values.update(values)

    def _due(self, interval: float) -> bool:
        """Whether `interval` seconds have passed since this last said yes."""
        now = self._clock()
        if now - self._shown_at < interval:
            return False
        self._shown_at = now
        return True

    def _shown_values(self) -> list[str]:
        return [f"{name} {_compact(value)}" for name, value in self.values.items()]


class LineBar(ProgressBar):
    """Plain lines on stdout: 'inner steps 120/600 (20 %), loss 1.23, 15 s gone, 60 s to go'."""

    def update(self, n: int = 1, **values: Any) -> None:
        """Count, and print a line if the last one is `interval` seconds old; the last step belongs to `close`."""
        self._count(n, values)
        if self.count < self.total and self._due(self._interval):
            gone = self._clock() - self._start
            left = gone * (self.total - self.count) / max(self.count, 1)
            times = [f"{duration(gone)} gone"] + ([f"{duration(left)} to go"] if self.count else [])
            self._print(times)

    def close(self, failed: bool = False) -> None:
        """Print the last line."""
        self._print([f"{'stopped after' if failed else 'done in'} {duration(self._clock() - self._start)}"])

    def _print(self, times: list[str]) -> None:
        percent = 100 * self.count // self.total if self.total else 100
        parts = [f"{self.label} {self.count}/{self.total} ({percent} %)", *self._shown_values(), *times]
        print(", ".join(parts), flush=True)


class TqdmBar(ProgressBar):
    """tqdm's bar: a widget in Jupyter, a drawn line in a terminal."""

    def __init__(self, total: int, label: str, interval: float, clock: Callable[[], float]) -> None:
        super().__init__(total, label, interval, clock)
        from tqdm.auto import tqdm  # here: importing it in Jupyter loads ipywidgets

        self._bar = tqdm(total=total, desc=label)

    def update(self, n: int = 1, **values: Any) -> None:
        """Count, and redraw at most ten times a second."""
        self._count(n, values)
        if self._due(0.1):
            self._bar.set_postfix_str(", ".join(self._shown_values()), refresh=False)
        self._bar.update(n)

    def resize(self, total: int) -> None:
        """Redraw the bar for `total`."""
        super().resize(total)
        self._bar.total = total
        self._bar.refresh()

    def write(self, line: str) -> None:
        """Print `line` above the bar."""
        self._bar.write(line)

    def close(self, failed: bool = False) -> None:
        """Leave the bar with the last values; tqdm colours one that is not full red."""
        if self.values:
            self._bar.set_postfix_str(", ".join(self._shown_values()))
        self._bar.close()


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")  # nobody is in a kernel before IPython is imported
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def _compact(value: Any) -> str:
    """Three digits of a number or a one-element tensor; anything else as it prints."""
    if hasattr(value, "item"):
        value = value.item()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
