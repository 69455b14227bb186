"""From uint8 pixels to the floats that a network takes."""

from __future__ import annotations

import torch
from torch import Tensor


class Normalizer:
    """Subtracts the mean and divides by the standard deviation, on the device where the pixels lie.

    Args:
        mean: a channel each, or one for all; in units of the brightest value (0..1).
        std: likewise.
        height: H of the pictures.
        width: W.
        channels: C.
        device: where the pixels will lie.
        dtype: of the result; arithmetic is in float32.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        height: int,
        width: int,
        channels: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.height, self.width, self.dtype = height, width, dtype
        # Repeated to a whole picture: along H*W*C values the subtraction runs at full speed, along C it crawls.
        repeats = height * width * channels // len(mean)
        self._mean = (torch.tensor(mean) * 255).repeat(repeats).to(device)  # (H*W*C,)
        self._scale = (1 / (torch.tensor(std) * 255)).repeat(repeats).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, H*W*C) uint8 to (B, C, H, W) floats, channels last in memory."""
        floats = pixels.to(torch.float32).sub_(self._mean).mul_(self._scale).to(self.dtype)
        return floats.view(len(pixels), self.height, self.width, -1).permute(0, 3, 1, 2)
