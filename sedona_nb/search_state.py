"""All that changes during a search, but for the weight memory: what a checkpoint holds and a result is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from sedona_nb.bilevel import Hypergradient, Weights
from sedona_nb.search_config import SearchResult


@dataclass
class SearchState:
    """How far a search has come; tensors of the outer level are on the CPU.

    Attributes:
        alpha, beta: the present decisions, (L-1, 2) and (L-1, M).
        pretrained, searched: pretraining steps and outer steps done.
        weights: of the pretraining, while it lasts.
        adam: state of the outer optimiser; None before its first step.
        alphas, betas: the decisions before each outer step and now.
        gradients, losses: d outer_loss / d alpha and the outer loss of each outer step.
        pretraining: rows (step, training loss of the classifier, validation error), one an evaluation.
        seconds, processor_seconds: time spent up to the last checkpoint; the latter is None in a search that was
            begun when it was not counted.
    """

    alpha: Tensor
    beta: Tensor
    pretrained: int = 0
    searched: int = 0
    weights: Weights | None = None
    adam: dict | None = None
    alphas: list[Tensor] = field(default_factory=list)
    betas: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    pretraining: list[tuple[int, float, float]] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float | None = 0.0

    @classmethod
    def undecided(cls, rows: int, columns: int) -> SearchState:
        """The start: alpha (rows, 2) and beta (rows, columns) of zeros."""
        alpha, beta = torch.zeros(rows, 2), torch.zeros(rows, columns)
        return cls(alpha, beta, alphas=[alpha.clone()], betas=[beta.clone()])

    def record(self, alpha: Tensor, beta: Tensor, gradient: Hypergradient, adam: dict) -> None:
        """Note an outer step: the decisions after it, the gradient that led there, the optimiser's state."""
        self.searched += 1
        self.alpha, self.beta = alpha.detach().cpu().clone(), beta.detach().cpu().clone()
        self.alphas.append(self.alpha)
        self.betas.append(self.beta)
        self.gradients.append(gradient.alpha.cpu())
        self.losses.append(gradient.outer_loss)
        self.adam = adam

    def to_saved(self) -> dict[str, Any]:
        """Plain containers of tensors on the CPU, for a file."""
        content = {part.name: getattr(self, part.name) for part in fields(self)}
        if self.weights is not None:
            content["weights"] = [
                {name: value.detach().cpu() for name, value in part.items()} for part in self.weights
            ]
        return content

    @classmethod
    def from_saved(cls, content: dict[str, Any]) -> SearchState:
        """The state that `to_saved` was called on."""
        state = cls(**{"processor_seconds": None, **content})
        if state.weights is not None:
            state.weights = Weights(*state.weights)
        return state

    def passed(self, seconds: float, processor_seconds: float) -> None:
        """Count time that was spent."""
        self.seconds += seconds
        if self.processor_seconds is not None:
            self.processor_seconds += processor_seconds

    def result(self) -> SearchResult:
        """What a search that ends here leaves."""
        return SearchResult(
            alpha=self.alpha,
            beta=self.beta,
            alpha_history=torch.stack(self.alphas),
            beta_history=torch.stack(self.betas),
            alpha_gradients=torch.stack(self.gradients) if self.gradients else torch.zeros(0, *self.alpha.shape),
            outer_losses=torch.tensor(self.losses),
            pretraining=self.pretraining,
            seconds=self.seconds,
            processor_seconds=self.processor_seconds,
        )
