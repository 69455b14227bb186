"""The search results that the authors released, where they lie on this machine; they are not part of the suite.

    found = released.load("resnet152")  # None where there are no files
    alpha, beta = found

The folder is SEDONA_RELEASED, else shared/released beside the repository: <network>/alpha.pt and beta.pt.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sedona_nb.atomic import load_tensors
from sedona_nb.errors import SedonaError

VARIABLE = "SEDONA_RELEASED"


class Released(NamedTuple):
    """What one search left: alpha (L-1, 2), beta (L-1, 4), as in `discretization`."""

    alpha: Tensor
    beta: Tensor


def folder() -> Path | None:
    """The folder of the released files, or None; a SEDONA_RELEASED that names no folder means: without them."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "released"
    return path if path.is_dir() else None


def load(network: str) -> Released | None:
    """The released alpha and beta of `network`, or None where its files are not there.

    Raises:
        SedonaError: one of the two files is missing, damaged, or no plain tensor of floating-point numbers.
    """
    found = folder()
    if found is None or not (found / network).is_dir():
        return None
    values = [load_tensors(found / network / f"{name}.pt") for name in ("alpha", "beta")]
    for name, value in zip(("alpha", "beta"), values, strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise SedonaError(
                f"{network}/{name}.pt holds {type(value).__name__}; allowed: a floating-point tensor"
            )
    return Released(*(value.detach() for value in values))
