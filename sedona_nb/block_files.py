"""The checkpoints of one block of an asynchronous run.

    <folder>/block-2/step-400.pt      after 400 steps
    <folder>/block-2/best.pt          the weights with the lowest validation error so far

A checkpoint of the run is complete when every block has its file; until the next one is, the one before stays.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedona_nb import atomic


class BlockFiles:
    """The files of block number `block` + 1 in a run's folder; of its replicas, the first writes and all read."""

    def __init__(self, folder: Path, block: int):
        self.folder = folder / f"block-{block + 1}"

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self.folder / f"step-{step}.pt"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            SedonaError: the file cannot be written.
        """
        atomic.remove_parts(self.folder, "step-*")
        atomic.save_checkpoint(self.path(step), state)

    def load(self, step: int, device: torch.device) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            SedonaError: there is none, or it is damaged.
        """
        return atomic.load_tensors(self.path(step), device)

    def settle(self, step: int, best: int) -> None:
        """All blocks have the checkpoint of `step`, and that of `best` is the best: older files go."""
        if best == step:
            spare = self.folder / ".best.part"
            spare.unlink(missing_ok=True)
            shutil.copyfile(self.path(step), spare)
            os.replace(spare, self.folder / "best.pt")
        for older in self.steps():
            if older < step:
                self.path(older).unlink()

    def best(self, device: torch.device) -> dict[str, Tensor]:
        """The best weights."""
        return atomic.load_tensors(self.folder / "best.pt", device)["block"]
