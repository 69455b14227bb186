"""Random numbers that depend on what they are for, never on what was drawn before.

`mix(seed, "augmentation", 17)` gives the same number wherever and whenever it is asked for, so that a run that is
killed and resumed, or spread over processes, sees what an undisturbed run sees.
"""

from __future__ import annotations

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit number from seeds, names and counters; other parts give an unrelated number."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(*parts: int | str) -> torch.Generator:
    """PyTorch's generator, on the CPU, seeded by `mix(*parts)` (of which its CPU generator uses 32 bits)."""
    return torch.Generator().manual_seed(mix(*parts))
