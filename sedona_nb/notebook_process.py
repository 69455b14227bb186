"""One notebook in a process of its own: measured, limited in time, and never left running behind our back.

`run` starts `python -m sedona_nb.notebook_process`, which calls papermill, which starts the kernel. The process
watches its standard input: when the other end closes, because `run` gave up or because its caller was killed, it
interrupts the kernel and leaves.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE = 20.0  # seconds that a notebook told to stop has for saving its copy and ending its kernel
KERNEL_DIED = 3  # the child's exit code


@dataclass(frozen=True)
class Outcome:
    """How one notebook fared."""

    ok: bool
    seconds: float
    peak_memory: int  # bytes; largest resident size of the kernel, of what it started, or of the caller of `run`
    reason: tuple[str, ...] = ()  # why it failed, a few lines


def run(notebook: Path, copy: Path, parameters: dict[str, Any], timeout: float | None = None) -> Outcome:
    """Execute `notebook` into `copy`, its printed output going to a .log beside the copy as it comes.

    Args:
        parameters: values for the names that the notebook's `parameters` cell defines; others are left out.
        timeout: seconds, None for no limit.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)  # an older run's copy must not be taken for this one's
    command = [sys.executable, "-m", "sedona_nb.notebook_process", notebook, copy, json.dumps(parameters)]
    code = str(Path(__file__).resolve().parent.parent)  # the kernel has to import the very package that runs here
    path = os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"SEDONA_HEADLESS": "1", "PYTHONPATH": path}
    start = time.monotonic()
    with copy.with_suffix(".log").open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            memory = _wait(child, timeout)
        finally:
            late = child.returncode is None
            if late:
                memory = _stop(child)
            child.stdin.close()
    reason: tuple[str, ...] = ()
    if late:
        reason = (f"stopped: not done after {timeout / 60:g} minutes",)
    elif child.returncode == KERNEL_DIED:
        reason = ("the kernel died (out of memory?)",)
    elif child.returncode:
        reason = _why(copy)
    return Outcome(not reason, time.monotonic() - start, memory, reason)


def _wait(child: subprocess.Popen[bytes], timeout: float | None) -> int:
    """Wait for the child, at most `timeout` seconds; its peak memory in bytes, 0 if it still runs.

    wait4 counts the child together with the processes for which the child waited, so also the kernel.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while end is None or time.monotonic() < end:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)  # Popen cannot ask again
            return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
        time.sleep(0.05)
    return 0


def _stop(child: subprocess.Popen[bytes]) -> int:
    """End the child and its kernel; the child's peak memory in bytes."""
    child.stdin.close()
    memory = _wait(child, GRACE)
    if child.returncode is None:  # it hangs; its kernel ends by itself when it loses its parent
        child.kill()
        memory = _wait(child, None)
    return memory


def _why(copy: Path) -> tuple[str, ...]:
    """The error in an executed copy: a SedonaError's one line, else a trace's last lines; else the log's."""
    with suppress(OSError, ValueError, KeyError):
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
        errors = [out for cell in cells for out in cell.get("outputs", ()) if out["output_type"] == "error"]
        if errors:
            return _last_lines("\n".join(errors[-1]["traceback"]))
    return _last_lines(copy.with_suffix(".log").read_text(errors="replace")) or ("it ended without a word",)


def _last_lines(text: str, count: int = 5) -> tuple[str, ...]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # IPython colours its traces
    return tuple(line.rstrip() for line in plain.splitlines() if line.strip())[-count:]


def _run_here(notebook: Path, copy: Path, parameters: dict[str, Any]) -> int:
    """What the child does: papermill, with a kernel of this very interpreter; returns the exit code."""
    import logging  # all of these here: `run` and its callers stay small and quick to start
    import threading

    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    class ThisInterpreter(AsyncKernelManager):
        """Starts sys.executable, whatever "python3" kernel a user has installed elsewhere."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the log follows what the notebook prints
    defined = papermill.inspect_notebook(notebook)
    try:
        papermill.execute_notebook(
            notebook,
            copy,
            {key: value for key, value in parameters.items() if key in defined},
            kernel_name="python3",
            language="python",
            kernel_manager_class=ThisInterpreter,
            cwd=notebook.parent,  # as in JupyterLab
            progress_bar=False,
            log_output=True,
            start_timeout=180,
        )
    except papermill.PapermillExecutionError:
        return 1  # the copy holds the error
    except DeadKernelError:
        return KERNEL_DIED
    return 0


def _end_with_the_caller() -> None:
    """Wait until the other end of standard input closes, then end the kernel and this process."""
    import psutil

    while os.read(0, 1):
        pass
    kernels = psutil.Process().children(recursive=True)
    for process in kernels:  # KeyboardInterrupt in the running cell, so that files and checkpoints get closed
        with suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    _, stubborn = psutil.wait_procs(kernels, timeout=GRACE / 2)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    time.sleep(1)  # the main thread saves the copy and leaves by itself
    os._exit(130)


if __name__ == "__main__":
    sys.exit(_run_here(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
