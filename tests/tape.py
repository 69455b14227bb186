"""A CUDA graph's stand-in on the CPU: operations are recorded with their memory and repeated on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What would make the computer wait for the GPU, or need memory that a recording does not know.
FORBIDDEN = (
    "aten._local_scalar_dense",
    "aten.lift_fresh",
    "aten.nonzero",
    "aten.is_nonzero",
    "aten.equal",
    "aten.masked_select",
)


class Tape(TorchDispatchMode):
    """Records every operation; `play` repeats them on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = function.name().replace("::", ".")
        masks = name.startswith("aten.index") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool for one in tree_leaves(args[1:])
        )
        if masks or name.startswith(FORBIDDEN):
            raise RuntimeError(f"{name} cannot be recorded")
        found = function(*args, **(kwargs or {}))
        outputs = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        self.operations.append((function, args, kwargs or {}, outputs))
        return found

    def play(self) -> None:
        """Do it all again."""
        with torch.no_grad():
            for function, args, kwargs, outputs in self.operations:
                again = [one for one in tree_leaves(function(*args, **kwargs)) if isinstance(one, Tensor)]
                for old, new in zip(outputs, again, strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def record_on_tape(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What `lean.replay.record_cuda` does, on the CPU."""
    function()  # constants are made at the first call
    with Tape() as tape:
        found = function()
    return tape.play, found
