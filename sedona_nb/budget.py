"""What a search needs, said before it starts: memory, room on disk, time; and whether this machine has it.

    estimate = budget.estimate(pictures, network, config, device=device, folder=folder)   # as for `search.run`
    print(estimate)      # about 1.4 GB of memory, 0.2 GB on disk, about 12 min on this machine (2 threads)
    estimate.check()     # one line if it does not fit, with what would; `search.run` asks this by itself

    python -m sedona_nb.budget --profile paper --network resnet50 --time

Memory and disk are counted on shapes (`footprint`) and come out the same every time; time is measured on a few
small steps (`pace`), which takes some 10 seconds and can be left out: `time=False`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sedona_nb import data, devices, footprint, pace, profiles
from sedona_nb.atomic import existing_folder
from sedona_nb.bilevel import BACKENDS
from sedona_nb.data import ImageData
from sedona_nb.errors import SedonaError
from sedona_nb.footprint import SIZES, Memory, PictureSizes
from sedona_nb.heads import HeadConfig
from sedona_nb.lean.program import Program
from sedona_nb.networks import NetworkConfig
from sedona_nb.pace import Seconds
from sedona_nb.profiles import Profile
from sedona_nb.progress import duration
from sedona_nb.search_config import SearchConfig

SMALLEST_BATCH = 16  # BatchNorm needs some; nothing smaller is proposed


class _Change(NamedTuple):
    """Another search that could be run instead."""

    name: str
    config: SearchConfig
    filed: bool  # whether the weight memory lies in a folder


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a search needs.

    Attributes:
        memory: peak above what the process has before, in bytes, by what takes it.
        disk: most that the search's folder holds at once, in bytes; 0 without one.
        seconds: from the first step to the last, measured on this machine; None: not asked for.
        config, device, folder: the search that is meant.
    """

    memory: Memory
    disk: int
    seconds: Seconds | None
    config: SearchConfig
    device: torch.device
    folder: Path | None
    _sizes: PictureSizes = field(repr=False)
    _program: Program = field(repr=False)

    def __str__(self) -> str:
        parts = [f"about {_amount(self.memory.total)} of memory"]
        if self.folder is not None:
            parts.append(f"{_amount(self.disk)} on disk")
        if self.seconds is not None:
            threads = torch.get_num_threads()
            place = f"{threads} thread{'s'[: threads > 1]}" if self.device.type == "cpu" else str(self.device)
            parts.append(f"about {duration(self.seconds.total)} on this machine ({place})")
        return ", ".join(parts)

    def check(self, free: int | None = None) -> None:
        """Refuse a search that does not fit; nothing is allocated or written.

        Args:
            free: bytes that the device has for it; None asks the device now.

        Raises:
            SedonaError: too little memory, or too little room in the folder: what there is, what would fit.
        """
        free = devices.free_memory(self.device) if free is None else free
        needed = self._needs(_Change("", self.config, self.folder is not None))
        if needed > free:
            raise SedonaError(
                f"this search needs about {_amount(needed)} of memory with backend {self.config.backend!r}, "
                f"{self.device} has {_amount(free)} free; {self._advice(free)}"
            )
        if self.device.type == "cuda" and self.memory.sets > devices.free_memory(torch.device("cpu")):
            raise SedonaError(
                f"the weight memory needs about {_amount(self.memory.sets)} of RAM, more than is free; "
                "with a folder it lies on disk"
            )
        if self.folder is not None:
            self._check_disk(self.folder)

    def _check_disk(self, folder: Path) -> None:
        names = "search.pt", "memory/set-*.pt"  # of a search that goes on where it was
        present = sum(path.stat().st_size for name in names for path in folder.glob(name))
        free = shutil.disk_usage(existing_folder(folder / "search.pt")).free + present
        if self.disk > free:
            files = footprint.file_count(self.config)
            size = self.disk / files
            fitting = int(free // size) - (files - footprint.stored_sets(self.config))
            advice = f"memory_size {fitting} would fit" if fitting > 0 else "make room, or choose another folder"
            raise SedonaError(
                f"this search needs about {_amount(self.disk)} in {folder} ({files} sets of weights of "
                f"{_amount(size)}), {_amount(free)} are free there; {advice}"
            )

    def _needs(self, change: _Change) -> int:
        """Bytes on the device."""
        memory = footprint.count(self._program, self._sizes, change.config, self.device.type, change.filed)
        return memory.on_device if self.device.type == "cuda" else memory.total

    def _advice(self, free: int) -> str:
        """What fits into `free` bytes: each change alone, or all of them together where none is enough."""
        config, filed = self.config, self.folder is not None
        lean = replace(config, backend="adjoint")
        above, below = _halves(config.outer_batch_size), _halves(config.inner.batch_size)
        alone = [
            [_Change("backend 'adjoint'", lean, filed)],
            [_Change("a folder for the weight memory", config, True)],
            [_Change(f"outer_batch_size {size}", replace(config, outer_batch_size=size), filed) for size in above],
            [_Change(f"inner.batch_size {size}", _with_inner(config, size), filed) for size in below],
        ]
        together = [
            _Change(
                f"backend 'adjoint' with a folder, outer_batch_size {outer} and inner.batch_size {inner}",
                replace(_with_inner(lean, inner), outer_batch_size=outer),
                True,
            )
            for outer, inner in zip(above, below, strict=False)
        ]
        fitting = [text for kind in alone if (text := self._first(kind, free))]
        last = self._first(together, free) or "no smaller batches fit either: take a narrower network"
        return "; ".join(fitting) or last

    def _first(self, changes: Iterable[_Change], free: int) -> str | None:
        """The first of several ever smaller searches that fits, and what it needs."""
        for change in changes:
            needed = self._needs(change)
            if needed <= free:
                return f"{change.name} needs {_amount(needed)}"
        return None


def estimate(
    pictures: ImageData | PictureSizes,
    network: NetworkConfig,
    config: SearchConfig,
    heads: HeadConfig | None = None,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
    time: bool = True,
    program: Program | None = None,
) -> Estimate:
    """What `search.run` with these arguments will need, from its first step to its last.

    Args:
        pictures: the data set, or its sizes alone.
        network, config, heads, device, folder: as for `search.run`.
        time: measure a few steps as well (some 10 seconds).
        program: of this network and these pictures, if there is one already.

    Raises:
        SedonaError: a network that does not go with the pictures.
    """
    sizes = pictures if isinstance(pictures, PictureSizes) else PictureSizes.of(pictures)
    device, folder = torch.device(device), None if folder is None else Path(folder)
    program = program or footprint.read(sizes, network, heads)
    return Estimate(
        memory=footprint.count(program, sizes, config, device.type, folder is not None),
        disk=0 if folder is None else footprint.file_bytes(program, config),
        seconds=pace.measure(sizes, network, config, heads, device) if time else None,
        config=config,
        device=device,
        folder=folder,
        _sizes=sizes,
        _program=program,
    )


def report(profile: Profile, device: torch.device | str = "cpu", time: bool = False) -> str:
    """A small table: what the search of `profile` needs with each backend.

    Raises:
        SedonaError: a data set that is neither known by name nor there.
    """
    sizes = SIZES.get(profile.data) or PictureSizes.of(data.load(profile.data))
    device = torch.device(device)
    search, network = profile.search, profile.network
    lines = [
        f"{network.name} {network.width:g}x on {profile.data} ({sizes.count:,} pictures), B = "
        f"{search.inner.batch_size}, V = {search.outer_batch_size}, T = {search.inner.steps}; "
        f"{devices.describe(device)}, {_amount(devices.free_memory(device))} free",
        f"{'backend':<12}{'memory':>12}{'disk':>12}{'time':>14}",
    ]
    program = footprint.read(sizes, network, profile.heads)
    for backend in BACKENDS:
        config, folder = replace(search, backend=backend), Path()  # any folder will do, it is not looked at
        found = estimate(sizes, network, config, profile.heads, device, folder, time, program)
        seconds = duration(found.seconds.total) if found.seconds else "-"
        lines.append(f"{backend:<12}{_amount(found.memory.total):>12}{_amount(found.disk):>12}{seconds:>14}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m sedona_nb.budget", description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="paper", help="smoke, small or paper")
    parser.add_argument("--network", help="vgg11, vgg19, resnet18, ... (default: the profile's)")
    parser.add_argument("--data", help="digits, cifar10, ... or a path (default: the profile's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--time", action="store_true", help="time a few steps as well, for each backend")
    options = parser.parse_args(arguments)
    try:
        profile = profiles.load(options.profile, options.data, options.network)
        print(report(profile, devices.resolve(options.device), options.time))
    except SedonaError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _with_inner(config: SearchConfig, batch_size: int) -> SearchConfig:
    return replace(config, inner=replace(config.inner, batch_size=batch_size))


def _halves(size: int) -> list[int]:
    """size/2, size/4, ... down to `SMALLEST_BATCH`."""
    halves = []
    while size // 2 >= SMALLEST_BATCH:
        size //= 2
        halves.append(size)
    return halves


def _amount(size: float) -> str:
    """Bytes for people: 16 GB, 1.4 GB, 7 MB."""
    if size < 0.1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB" if size < 10e9 else f"{size / 1e9:.0f} GB"


if __name__ == "__main__":
    sys.exit(main())
