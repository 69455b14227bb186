"""From the learned numbers to a decision (Section 3.4): which layers are cut, which head each of them gets.

`alpha` is (L-1, 2), column 0 = local gradient, column 1 = backpropagated; `beta` is (L-1, M), column m-1 = Aux m.
One search serves every K: layers are ranked once, and K blocks take the first K-1 of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError, TieWarning
from sedona_nb.heads import HEADS


@dataclass(frozen=True)
class Ranking:
    """Layers from the most to the least worth a cut; every layer is 1-based.

    order: all L-1 layers by alpha_1-bar, descending; equal ones by index.
    confidence: alpha_1-bar of each layer of `order`, in float64.
    ties: groups of two or more layers whose alpha_1-bar is one and the same number in float32, in rank order.
    """

    order: tuple[int, ...]
    confidence: tuple[float, ...]
    ties: tuple[tuple[int, ...], ...]


def rank_layers(alpha: Tensor) -> Ranking:
    """Sort the layers by alpha_1-bar = softmax(alpha)_1 (Eq. 4), alpha of shape (L-1, 2).

    Sorted by the difference of the columns in float64 (alpha_1-bar is its sigmoid) and rounded to float32 only to
    look for ties, so that order and ties are the same on every machine. A softmax in float32 adds rounding of its
    own, and leaves equal values to whatever order the sorting routine puts them in.

    Raises:
        SedonaError: wrong shape, not floating point, or not finite.
    """
    _check(alpha, "alpha", columns=2)
    values = alpha.detach().to("cpu", torch.float64)
    difference = values[:, 0] - values[:, 1]  # (L-1,)
    score = torch.sigmoid(difference)
    single = score.float().tolist()
    order = sorted(range(len(single)), key=lambda i: (-difference[i].item(), i))
    groups = [[i + 1 for i in group] for _, group in groupby(order, key=lambda i: single[i])]
    return Ranking(
        order=tuple(i + 1 for i in order),
        confidence=tuple(score[order].tolist()),
        ties=tuple(tuple(group) for group in groups if len(group) > 1),
    )


def discretize(alpha: Tensor, beta: Tensor, num_blocks: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The K-1 layers of highest alpha_1-bar, ascending, and for each the head with the largest beta.

    Warns with TieWarning where single precision leaves open which layers are cut, or which head a cut layer gets.
    A tie only among layers that are all cut, or all left alone, changes nothing and is silent.

    Raises:
        SedonaError: wrong shape or type, NaN or infinity, or K outside 1..L.
    """
    ranking = rank_layers(alpha)
    num_layers = len(ranking.order) + 1
    _check(beta, "beta", columns=len(HEADS), rows=num_layers - 1)
    check_blocks(num_layers, num_blocks)
    splits = tuple(sorted(ranking.order[: num_blocks - 1]))
    for tied in ranking.ties:
        cut = [layer for layer in sorted(tied) if layer in splits]
        if 0 < len(cut) < len(tied):
            message = (
                f"layers {_listed(tied)} are equal in single precision, and K = {num_blocks} cuts at only "
                f"{len(cut)} of them: {_listed(cut)}, by float64 and then by index"
            )
            warnings.warn(message, TieWarning, stacklevel=3)
    rows = beta.detach().to("cpu", torch.float64)[[split - 1 for split in splits]]  # (K-1, M)
    heads = tuple(HEADS[column] for column in rows.argmax(dim=1).tolist())
    single = torch.softmax(rows, dim=1).float()
    equal_best = (single == single.amax(dim=1, keepdim=True)).sum(dim=1) > 1
    if equal_best.any():
        tied = [split for split, is_tied in zip(splits, equal_best.tolist(), strict=True) if is_tied]
        named = ", ".join(f"{layer} {heads[splits.index(layer)]}" for layer in tied)
        message = f"single precision cannot tell the best heads apart at {_listed(tied)}; float64 chose {named}"
        warnings.warn(message, TieWarning, stacklevel=3)
    return splits, heads


def check_blocks(num_layers: int, num_blocks: int) -> None:
    """SedonaError unless `num_blocks` (K) is a whole number in 1..`num_layers` (L)."""
    if type(num_blocks) is not int or not 1 <= num_blocks <= num_layers:
        raise SedonaError(f"num_blocks is {num_blocks!r}; allowed for {num_layers} layers: 1..{num_layers}")


def _check(values: Tensor, name: str, columns: int, rows: int | None = None) -> None:
    expected = f"({'L-1' if rows is None else rows}, {columns})"
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise SedonaError(f"{name} is {found}; allowed: a floating-point tensor of shape {expected}")
    if values.ndim != 2 or values.shape[1] != columns or (rows is not None and values.shape[0] != rows):
        raise SedonaError(f"{name} has shape {tuple(values.shape)}; allowed: {expected}")
    if not values.isfinite().all():
        raise SedonaError(f"{name} holds NaN or infinity: the search diverged, or its file is damaged")


def _listed(layers: list[int] | tuple[int, ...]) -> str:
    """[31, 32, 33, 36] as "31-33, 36"."""
    layers = sorted(layers)
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    runs = zip(starts, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in runs)
