"""The weights w_t of the inner steps, kept until the way back: few in memory, the rest in a temporary file."""

from __future__ import annotations

import tempfile
from typing import IO

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError

IN_MEMORY = 6  # vectors; the paper's T = 5 needs no file


class Trajectory:
    """A stack of vectors of one size; beyond `IN_MEMORY` of them, older ones wait on disk.

    Reading a vector back takes a hundredth of the step that needs it, and so memory does not grow with T.
    The file has no name and goes with the object. Vectors on a GPU wait in the computer's memory instead.
    """

    def __init__(self) -> None:
        self.recent: list[Tensor] = []
        self.waiting: list[Tensor] = []  # of vectors on a GPU
        self.file: IO[bytes] | None = None
        self.stored = 0

    def push(self, vector: Tensor) -> Tensor | None:
        """Put one on top. Returns a vector whose memory is free for other use, or None.

        Raises:
            SedonaError: the disk is full.
        """
        self.recent.append(vector)
        if len(self.recent) <= IN_MEMORY:
            return None
        oldest = self.recent.pop(0)
        self.stored += 1
        if oldest.device.type != "cpu":
            self.waiting.append(oldest.cpu())
            return oldest
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="sedona-")  # noqa: SIM115 - lives as long as the stack
            self.file.seek(0, 2)
            self.file.write(oldest.numpy().data)
            self.file.flush()
        except OSError as error:
            raise SedonaError(
                f"no room for the weights of {self.stored} inner steps in {tempfile.gettempdir()}: "
                f"{error.strerror}; free some space or set TMPDIR"
            ) from None
        return oldest

    def pop(self, into: Tensor) -> Tensor:
        """Take the top one off; one that waited is read into the memory of `into`, others leave it alone."""
        if self.recent:
            return self.recent.pop()
        self.stored -= 1
        if self.waiting:
            return into.copy_(self.waiting.pop())
        size = into.numel() * into.element_size()
        self.file.seek(self.stored * size)
        into.copy_(torch.frombuffer(bytearray(self.file.read(size)), dtype=into.dtype))
        self.file.truncate(self.stored * size)
        return into
