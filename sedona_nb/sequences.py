"""The poster's sequence task: the digits 0..9 in random order, to be written down in reverse order.

    digits = reversed_digits()          # all 10! orders; 1,000 of them are for testing
    inputs, labels = example(digits.test_labels, digits.symbols)

The source says no more than that. Here a network sees the whole sequence at once and gives every position the
digit that belongs there; an error is a position with the wrong digit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.seeds import torch_generator

NAME = "reversed-digits"
TESTED = 1_000  # sequences
DEFINITION = "orders of {symbols} symbols by number, factorial base; {tested} to test; the target is the reverse"


@dataclass(frozen=True, eq=False)
class SequenceData:
    """All orders of some symbols, with their reverse as target; stands where pictures do.

    Attributes:
        name: as shown with every number.
        symbols: how many, which is also how long a sequence is.
        train_labels, test_labels: (N,) int64, the numbers of the orders; `orders` says what they are.
    """

    name: str
    symbols: int
    train_labels: Tensor
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        """One for each symbol."""
        return self.symbols

    @property
    def in_channels(self) -> int:
        """One for each symbol."""
        return self.symbols

    @property
    def image_size(self) -> int:
        """Positions of a sequence."""
        return self.symbols

    @property
    def classes(self) -> tuple[str, ...]:
        """The symbols."""
        return tuple(map(str, range(self.symbols)))

    @property
    def fingerprint(self) -> str:
        """Of the definition, 16 hex digits."""
        return fingerprint(self.symbols, len(self.test_labels))

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.name}: {len(self.train_labels):,} train and {len(self.test_labels):,} test sequences of "
            f"{self.symbols}, fingerprint {self.fingerprint}"
        )


def fingerprint(symbols: int = 10, tested: int = TESTED) -> str:
    """What `SequenceData.fingerprint` is, without making the numbers of all orders."""
    text = DEFINITION.format(symbols=symbols, tested=tested)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reversed_digits(symbols: int = 10, tested: int = TESTED) -> SequenceData:
    """The task with all orders of `symbols` digits, `tested` of them kept for testing.

    Raises:
        SedonaError: as many to test as there are orders, or sequences that are too long to number.
    """
    if not 2 <= symbols <= 10 or not 0 < tested < math.factorial(symbols):
        raise SedonaError(
            f"{symbols} symbols, {tested} sequences to test; allowed: 2 to 10 symbols, and fewer than all orders"
        )
    numbers = torch.randperm(math.factorial(symbols), generator=torch_generator(0, "sequences to test"))
    return SequenceData(NAME, symbols, numbers[tested:], numbers[:tested])


def orders(numbers: Tensor, symbols: int) -> Tensor:
    """The orders with these numbers, counted in lexical order from 0: (N,) int64 -> (N, symbols) int64."""
    left = torch.arange(symbols).expand(len(numbers), symbols).to(numbers.device)
    rest, found = numbers, []
    for count in range(symbols, 0, -1):
        place, rest = rest // math.factorial(count - 1), rest % math.factorial(count - 1)
        found.append(left.gather(1, place[:, None]))
        keep = torch.arange(count - 1, device=numbers.device)
        left = left.gather(1, keep + (keep >= place[:, None]))
    return torch.cat(found, 1)


def example(numbers: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    """What a network sees and what it should say.

    Returns:
        one-hot sequences (B, symbols, 1, symbols), channels before positions; labels (B symbols,).
    """
    sequences = orders(numbers, symbols)
    inputs = F.one_hot(sequences, symbols).float()[:, None].permute(0, 3, 1, 2)  # channels last in memory
    return inputs, sequences.flip(1).reshape(-1)
