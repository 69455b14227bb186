"""Learning rates as functions of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Cosine annealing from `start` at step 0 to `end` at step `steps` and after (no restarts)."""
    share = min(step / steps, 1.0) if steps else 1.0
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def stairs(step: int, every: int, start: float, factor: float = 10.0) -> float:
    """`start`, divided by `factor` after every `every` steps."""
    return start / factor ** (step // every)
