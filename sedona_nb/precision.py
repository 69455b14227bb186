"""In which numbers a training run computes: float32, or 16 bits where rounding does little harm (autocast).

Weights, their updates, running statistics and losses are float32 in every precision; convolutions and matrix
products are what autocast reduces, and with them what a block hands on. The paper trains ImageNet in mixed
precision with Apex, which is "float16" here; the released code has PyTorch's own, with a scale a block when
asynchronous and one for all when not (notebook 09). Here both trainers have a scale a block, so that they agree.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError, choose

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Arithmetic:
    """How one block computes and steps; in float16 it scales its loss, with a scale of its own.

    Gradients of float16 vanish below 6e-8, so the loss is multiplied before the backward pass and the gradients
    divided after it. A block whose scale is too large skips its step and halves the scale; no other block does.

    Args:
        precision: a key of `PRECISIONS`.
        device: where the block computes.

    Attributes:
        dtype: of what the block hands on.
        scaler: the scale of the loss and what it depends on; None but in float16.

    Raises:
        SedonaError: as `check`.
    """

    def __init__(self, precision: str = "float32", device: torch.device | str = "cpu"):
        self.device_type = torch.device(device).type
        check(precision, self.device_type)
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device_type) if self.dtype == torch.float16 else None

    def autocast(self) -> AbstractContextManager:
        """Inside, convolutions and matrix products are computed in `dtype`."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device_type, self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to begin a backward pass with."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()` on the gradients of a scaled loss; in float16 none if one of them is not finite."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: plain numbers, nothing but in float16."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


def check(precision: str, device_type: str) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        SedonaError: an unknown precision, or float16 anywhere but on CUDA.
    """
    choose(precision, PRECISIONS, "precision")
    if precision == "float16" and device_type != "cuda":
        raise SedonaError(f"precision 'float16' needs CUDA, not {device_type!r}; allowed there: float32, bfloat16")


def reduced(x: Tensor) -> Tensor:
    """`x` in the type of the autocast around, if there is one.

    What leaves BatchNorm and ReLU has that type already; asking for it here means that a boundary between two
    processes may carry 16 bits and rounds nothing that a boundary inside one process does not round.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def full(x: Tensor) -> Tensor:
    """`x` as float32 if it has 16 bits, else as it is: losses and errors are computed from at least 32 bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
