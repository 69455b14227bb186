"""Where and with what a record was made."""

from __future__ import annotations

import functools
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sedona_nb.devices import describe
from sedona_nb.search_config import LATER


@dataclass(frozen=True)
class Provenance:
    """Where and with what a record was made."""

    device: str
    threads: int
    seconds: float
    peak_memory: int  # bytes, of the process on a CPU, of the device otherwise
    python: str
    torch: str
    torchvision: str
    package: str
    commit: str | None  # of this repository; "+" behind it: with changes that were not committed
    profile: str  # which sizes were asked for; the spec has the sizes themselves
    # Of all threads; unlike `seconds`, the same whatever else the machine was busy with.
    processor_seconds: float | None = field(default=None, metadata=LATER)


def here(
    device: torch.device, seconds: float, peak_memory: int, profile: str, processor_seconds: float | None = None
) -> Provenance:
    """The provenance of something that just ran here."""
    return Provenance(
        device=describe(device),
        threads=torch.get_num_threads(),
        seconds=round(seconds, 2),
        peak_memory=peak_memory,
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=_version("torchvision"),
        package=_version("sedona-nb"),
        commit=_commit(),
        profile=profile,
        processor_seconds=None if processor_seconds is None else round(processor_seconds, 2),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def _commit() -> str | None:
    """The commit of the folder that this file lies in, if it is a git checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
