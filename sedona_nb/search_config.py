"""What a search is asked for and what it leaves, as values; `search.run` leads from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from sedona_nb.bilevel import BACKENDS, OBJECTIVES, InnerConfig
from sedona_nb.errors import SedonaError, choose
from sedona_nb.lean.program import PRECISIONS
from sedona_nb.memory import EVICTIONS, KEEPS

INNER_RATES = ("outer_cosine", "stored_step")
RENEWAL_BATCHES = ("first", "new")
LATER = {"later": True}  # a field that records of before do not have, see `records`


@dataclass(frozen=True)
class SearchConfig:
    """The search stage (Section 3.3, Appendix E.1) with the paper's defaults; see also `released`."""

    pretrain_steps: int = 40_000
    snapshot_every: int = 80  # pretraining steps between two evaluations, each a candidate for the memory
    snapshot_batches: int | None = None  # validation batches an evaluation looks at; None: all; released code: 1
    memory_size: int = 50  # N
    keep: str = "best"  # released code: "last"
    eviction: str = "oldest"  # released code: "replace"
    outer_steps: int = 2_000
    outer_batch_size: int = 1_024  # not in the paper; the released code's
    outer_lr: float = 0.01
    outer_betas: tuple[float, float] = (0.9, 0.999)  # released code: (0.5, 0.999)
    outer_weight_decay: float = 1e-6
    held_out: float = 0.4  # share of the training pictures that serves as validation set
    inner: InnerConfig = field(default_factory=InnerConfig)
    inner_rate: str = "outer_cosine"  # released code: "stored_step", the rate at which pretraining left the set
    objective: str = "validation"  # released code: "released"
    renewal_batch: str = "first"  # of the step that is stored: the first inner step's; released code: a "new" one
    backend: str = "adjoint"
    padding: int | None = None  # crop padding; None: the data set's own; released code on CIFAR-10: 2
    precision: str = field(default="float32", metadata=LATER)  # of convolutions, see `lean.program.PRECISIONS`

    def __post_init__(self) -> None:
        choose(self.keep, KEEPS, "choice of snapshots to keep")
        choose(self.eviction, EVICTIONS, "eviction")
        choose(self.inner_rate, INNER_RATES, "inner_rate")
        choose(self.renewal_batch, RENEWAL_BATCHES, "renewal_batch")
        choose(self.objective, OBJECTIVES, "objective")
        choose(self.backend, BACKENDS, "backend")
        choose(self.precision, PRECISIONS, "precision")
        if self.precision != "float32" and self.backend != "adjoint":
            raise SedonaError(f"precision {self.precision!r} needs backend 'adjoint', not {self.backend!r}")
        if min(self.pretrain_steps, self.outer_steps) < 0 or self.snapshot_every < 1:
            raise SedonaError("pretrain_steps and outer_steps must be at least 0, snapshot_every at least 1")

    @classmethod
    def released(cls, **changes: object) -> SearchConfig:
        """The settings that the released code really runs with, where they differ from the paper's."""
        inner = InnerConfig(weight_decay=1e-4, convention="others", head_scaling="released")
        config = cls(
            snapshot_batches=1,
            keep="last",
            eviction="replace",
            outer_betas=(0.5, 0.999),
            inner=inner,
            inner_rate="stored_step",
            renewal_batch="new",
            objective="released",
            padding=2,
        )
        return replace(config, **changes)


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves; S outer steps, L layers, M heads. All tensors are float32 on the CPU.

    Attributes:
        alpha, beta: the learned decisions, (L-1, 2) and (L-1, M).
        alpha_history, beta_history: their values before each step and at the end, (S+1, L-1, 2), (S+1, L-1, M).
        alpha_gradients: d outer_loss / d alpha at each step, (S, L-1, 2).
        outer_losses: the outer loss at each step, (S,).
        pretraining: rows (step, training loss of the classifier, validation error), one an evaluation.
        seconds: time spent, over all pieces of a resumed search.
        processor_seconds: the same as time of this process on all cores; None: a piece of it did not count them.
    """

    alpha: Tensor
    beta: Tensor
    alpha_history: Tensor
    beta_history: Tensor
    alpha_gradients: Tensor
    outer_losses: Tensor
    pretraining: list[tuple[int, float, float]]
    seconds: float
    processor_seconds: float | None = None
