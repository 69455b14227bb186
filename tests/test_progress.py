"""Progress: lines for log files, bars for people, and the choice between the two."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from sedona_nb.progress import LineBar, bar, duration, headless

LOOP = """
from sedona_nb.progress import bar
with bar(3, "steps") as progress:
    for step in range(3):
        progress.update(loss=0.5 * step)
"""


class Clock:
    """Tells the time it was told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def without_pytest() -> dict[str, str]:
    """The environment of a person's shell: nothing asks for headless output."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTEST_VERSION", "SEDONA_HEADLESS")}


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def run_steps(total: int, seconds_a_step: float, stop_at: int | None = None) -> None:
    clock = Clock()
    with bar(total, "inner steps", clock=clock) as progress:
        for step in range(total):
            clock.now += seconds_a_step
            progress.update(loss=1.2345 + step, best=step)
            if step + 1 == stop_at:
                raise ZeroDivisionError


def test_here_it_is_headless() -> None:
    assert headless()
    assert isinstance(bar(1, "steps"), LineBar)


def test_a_line_every_ten_seconds_and_a_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    run_steps(6, seconds_a_step=5)
    assert lines(capsys) == [
        "inner steps 2/6 (33 %), loss 2.23, best 1, 10 s gone, 20 s to go",
        "inner steps 4/6 (66 %), loss 4.23, best 3, 20 s gone, 10 s to go",
        "inner steps 6/6 (100 %), loss 6.23, best 5, done in 30 s",
    ]


def test_a_short_loop_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run_steps(1000, seconds_a_step=0.005)
    assert lines(capsys) == ["inner steps 1000/1000 (100 %), loss 1e+03, best 999, done in 5.0 s"]


def test_an_exception_passes_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        run_steps(10, seconds_a_step=4, stop_at=2)
    assert lines(capsys) == ["inner steps 2/10 (20 %), loss 2.23, best 1, stopped after 8.0 s"]


def test_ending_early_on_purpose_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "steps", clock=Clock()) as progress:
        progress.update(4)
    assert lines(capsys) == ["steps 4/10 (40 %), done in 0.0 s"]


def test_no_steps_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(0, "steps", clock=Clock()):
        pass
    assert lines(capsys) == ["steps 0/0 (100 %), done in 0.0 s"]


def test_values_are_read_only_when_shown(capsys: pytest.CaptureFixture[str]) -> None:
    reads = []

    class Loss(float):
        def item(self) -> float:  # what would make a GPU wait
            reads.append(self)
            return float(self)

    with bar(50, "steps", clock=Clock()) as progress:
        for step in range(50):
            progress.update(loss=Loss(step), error=torch.tensor(0.25), phase="warm-up")
    assert reads == [49]
    assert lines(capsys) == ["steps 50/50 (100 %), loss 49, error 0.25, phase warm-up, done in 0.0 s"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (60, "60 s"), (121, "2 min"), (12_600, "3.5 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_pipe_gets_lines_and_no_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOP], env=without_pytest(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "steps 3/3 (100 %), loss 1, done in 0.0 s\n"
    assert done.stderr == ""


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a new terminal has no size
    child = subprocess.Popen(
        [sys.executable, "-c", LOOP], env=without_pytest(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = "".join(_read_terminal(ours))
    assert child.wait() == 0
    assert "100%" in shown
    assert "loss 1" in shown
    assert "done in" not in shown


def _read_terminal(handle: int) -> Iterator[str]:
    try:
        while chunk := os.read(handle, 4096):
            yield chunk.decode()
    except OSError:  # Linux: the other end is closed
        return


@pytest.mark.parametrize("asked", [False, True], ids=["widget", "headless"])
def test_in_a_kernel(asked: bool) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LOOP)])
    environment = without_pytest() | ({"SEDONA_HEADLESS": "1"} if asked else {})
    NotebookClient(notebook, kernel_name="python3").execute(env=environment)
    outputs = notebook.cells[0].outputs
    widgets = [out for out in outputs if "application/vnd.jupyter.widget-view+json" in out.get("data", {})]
    text = "".join(out.get("text", "") for out in outputs)
    assert bool(widgets) is not asked
    assert ("steps 3/3 (100 %), loss 1, done in" in text) is asked
    assert not [out for out in outputs if out.get("name") == "stderr"]
