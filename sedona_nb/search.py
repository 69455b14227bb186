"""Algorithm 1: pretrain under equal shares, then search alpha and beta; resumable to the step.

    result = search.run(pictures, NetworkConfig("vgg19"), SearchConfig(), folder="build/search")

Every random choice depends on the seed and a counter alone, and with a folder each outer step ends with an atomic
checkpoint. A search that was killed and started again with the same folder therefore ends, on the CPU bit for bit,
where an undisturbed one ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sedona_nb import bilevel, data, progress
from sedona_nb import relaxed as relax
from sedona_nb.atomic import load_tensors, save_tensors
from sedona_nb.batches import BatchStream, DevicePictures, evaluation_batches
from sedona_nb.bilevel import InnerConfig, Weights
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import HeadConfig
from sedona_nb.memory import EVICTIONS, KEEPS, WeightMemory
from sedona_nb.networks import NetworkConfig
from sedona_nb.rates import cosine
from sedona_nb.seeds import mix, torch_generator

INNER_RATES = ("outer_cosine", "stored_step")
RENEWAL_BATCHES = ("first", "new")


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
    backend: str = "functional"
    padding: int | None = None  # crop padding; None: the data set's own; released code on CIFAR-10: 2

    def __post_init__(self) -> None:
        choose(self.keep, KEEPS, "choice of snapshots to keep")
        choose(self.eviction, EVICTIONS, "eviction")
        choose(self.inner_rate, INNER_RATES, "inner_rate")
        choose(self.renewal_batch, RENEWAL_BATCHES, "renewal_batch")
        choose(self.objective, bilevel.OBJECTIVES, "objective")
        choose(self.backend, bilevel.BACKENDS, "backend")
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
    """

    alpha: Tensor
    beta: Tensor
    alpha_history: Tensor
    beta_history: Tensor
    alpha_gradients: Tensor
    outer_losses: Tensor
    pretraining: list[tuple[int, float, float]]
    seconds: float


@dataclass
class _State:
    """All that changes during a search, but for the weight memory."""

    pretrained: int = 0  # pretraining steps done
    searched: int = 0  # outer steps done
    weights: Weights | None = None  # of the pretraining
    alpha: Tensor | None = None
    beta: Tensor | None = None
    adam: dict | None = None
    alphas: list[Tensor] = field(default_factory=list)
    betas: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    pretraining: list[tuple[int, float, float]] = field(default_factory=list)
    seconds: float = 0.0


class _Search:
    """One search in progress: the parts that stay fixed, and the state that moves."""

    def __init__(
        self,
        pictures: data.ImageData,
        network: NetworkConfig,
        config: SearchConfig,
        heads: HeadConfig,
        seed: int,
        device: torch.device,
        folder: Path | None,
    ):
        self.config, self.seed, self.device, self.folder = config, seed, device, folder
        base = network.build(pictures.num_classes, pictures.image_size, pictures.in_channels, mix(seed, "network"))
        self.relaxed = relax.relax(
            base, pictures.num_classes, network.width, config=heads, seed=mix(seed, "heads")
        ).to(device, memory_format=torch.channels_last)
        held_out, kept = data.split(len(pictures.train_labels), config.held_out, seed)
        self.pictures = (DevicePictures.prepare(pictures.train_images, device), pictures.train_labels)
        self.augmentation = pictures.augmentation
        if config.padding is not None:
            self.augmentation = self.augmentation.with_padding(config.padding)
        self.held_out = held_out
        self.training = BatchStream(
            *self.pictures, kept, config.inner.batch_size, self.augmentation, mix(seed, "training"), device
        )
        self.validation = BatchStream(
            *self.pictures,
            held_out,
            min(config.outer_batch_size, len(held_out)),
            self.augmentation,
            mix(seed, "validation"),
            device,
            augment=False,
        )
        self.memory = WeightMemory(
            config.memory_size, config.keep, config.eviction, None if folder is None else folder / "memory"
        )
        self.identity = repr((pictures.fingerprint, network, config, heads, seed))
        self.state = _State()
        rows, columns = self.relaxed.num_layers - 1, self.relaxed.num_heads
        self.state.alpha, self.state.beta = torch.zeros(rows, 2), torch.zeros(rows, columns)
        self.state.alphas, self.state.betas = [self.state.alpha.clone()], [self.state.beta.clone()]

    # -- pretraining ---------------------------------------------------------------------------------------------

    def pretrain(self) -> None:
        """Steps of Eqs. 5-6 with alpha = beta = 0, and a snapshot every so many of them."""
        config, state = self.config, self.state
        weights = state.weights or bilevel.initial_weights(self.relaxed)
        weights = self._trainable(weights)
        if config.pretrain_steps == 0 and not self.memory.entries:
            self.memory.offer(weights, 0, math.nan)
        abar, bbar = self._shares(torch.zeros_like(state.alpha), torch.zeros_like(state.beta))
        with progress.bar(config.pretrain_steps - state.pretrained, "pretraining") as bar:
            while state.pretrained < config.pretrain_steps:
                step = state.pretrained
                lr = cosine(step, config.pretrain_steps, config.inner.lr, config.inner.lr_min)
                weights, losses = self._inner_step(
                    weights, abar, bbar, self.training.batch(step), lr, f"step {step}"
                )
                state.pretrained += 1
                if state.pretrained % config.snapshot_every == 0 or state.pretrained == config.pretrain_steps:
                    error = self._validation_error(weights)
                    self.memory.offer(weights, state.pretrained, error)
                    state.pretraining.append((state.pretrained, losses[-1].item(), error))
                    state.weights = weights
                    self.checkpoint()
                    bar.update(0, loss=state.pretraining[-1][1], validation_error=error)
                bar.update()
        state.weights = None  # the memory has what the search needs

    # -- search --------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """The loop of Algorithm 1."""
        config, state = self.config, self.state
        # Copies: Adam works in place, and a resumed state shares its tensors with the history.
        alpha = state.alpha.to(self.device, copy=True).requires_grad_()
        beta = state.beta.to(self.device, copy=True).requires_grad_()
        adam = torch.optim.Adam(
            [alpha, beta], config.outer_lr, config.outer_betas, weight_decay=config.outer_weight_decay
        )
        if state.adam is not None:
            adam.load_state_dict(state.adam)
        with progress.bar(config.outer_steps - state.searched, "searching") as bar:
            while state.searched < config.outer_steps:
                step = state.searched
                entry, stored = self.memory.sample(torch_generator(self.seed, "memory", step))
                weights = self._trainable(stored)
                first = config.pretrain_steps + step * config.inner.steps
                batches = [self.training.batch(first + t) for t in range(config.inner.steps)]
                lr = self._inner_lr(step, entry.step)
                gradient = self._hypergradient(
                    weights, alpha, beta, batches, self.validation.batch(step), lr, f"outer step {step}"
                )
                alpha.grad, beta.grad = gradient.alpha, gradient.beta
                adam.step()
                # Algorithm 1's last step: one inner step with the updated decisions, kept in the memory.
                abar, bbar = self._shares(alpha.detach(), beta.detach())
                batch = batches[0]
                if config.renewal_batch == "new":  # beyond the batches of all inner steps
                    last = config.pretrain_steps + config.outer_steps * config.inner.steps
                    batch = self.training.batch(last + step)
                weights, _ = self._inner_step(weights, abar, bbar, batch, lr, f"outer step {step}")
                self.memory.renew(entry, weights, entry.step + 1)
                state.searched += 1
                state.alpha, state.beta = alpha.detach().cpu().clone(), beta.detach().cpu().clone()
                state.alphas.append(state.alpha)
                state.betas.append(state.beta)
                state.gradients.append(gradient.alpha.cpu())
                state.losses.append(gradient.outer_loss)
                state.adam = adam.state_dict()
                self.checkpoint()
                bar.update(outer_loss=gradient.outer_loss)

    def _inner_lr(self, outer_step: int, stored_step: int) -> float:
        config, inner = self.config, self.config.inner
        if config.inner_rate == "stored_step":
            return cosine(stored_step, max(config.pretrain_steps, 1), inner.lr, inner.lr_min)
        return cosine(outer_step, config.outer_steps, inner.lr, inner.lr_min)

    # -- pieces --------------------------------------------------------------------------------------------------

    def _inner_step(self, weights, abar, bbar, batch, lr, where):
        self.relaxed.train()
        try:
            return bilevel.inner_step(self.relaxed, weights, abar, bbar, batch, lr, self.config.inner)
        except SedonaError as error:
            raise SedonaError(f"{where}: {error}") from None

    def _hypergradient(self, weights, alpha, beta, batches, outer_batch, lr, where):
        self.relaxed.train()
        try:
            return bilevel.hypergradient(
                self.relaxed,
                weights,
                alpha,
                beta,
                batches,
                outer_batch,
                lr,
                self.config.inner,
                self.config.objective,
                self.config.backend,
            )
        except SedonaError as error:
            raise SedonaError(f"{where}: {error}") from None

    def _shares(self, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return alpha.to(self.device).softmax(1), beta.to(self.device).softmax(1)

    def _trainable(self, weights: Weights) -> Weights:
        """A copy of `weights` on the search's device, ready to be stepped."""

        def move(tensors, grad):
            return {
                name: value.detach().to(self.device, copy=True).requires_grad_(grad)
                for name, value in tensors.items()
            }

        return Weights(move(weights.parameters, True), move(weights.momenta, False), move(weights.buffers, False))

    def _validation_error(self, weights: Weights) -> float:
        """Error of the classifier with running statistics on the held-out pictures, in percent."""
        batches: Iterable = evaluation_batches(
            *self.pictures, self.held_out, self.validation.batch_size, self.augmentation, self.device
        )
        if self.config.snapshot_batches is not None:
            batches = (batch for _, batch in zip(range(self.config.snapshot_batches), batches, strict=False))
        self.relaxed.eval()
        wrong = count = 0
        with torch.no_grad():
            for images, labels in batches:
                outputs = relax.forward(self.relaxed, weights.parameters, weights.buffers, images, None, None)
                wrong += (outputs.scores[-1].argmax(1) != labels).sum().item()
                count += len(labels)
        return 100 * wrong / count

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the state; the files of evicted weight sets go only after that."""
        if self.folder is None:
            return
        state = self.state
        state.seconds += time.perf_counter() - self.clock
        self.clock = time.perf_counter()
        content = {key: getattr(state, key) for key in state.__dataclass_fields__}
        if state.weights is not None:
            content["weights"] = [
                {name: value.detach().cpu() for name, value in part.items()} for part in state.weights
            ]
        save_tensors(
            self.folder / "search.pt",
            {"identity": self.identity, "memory": self.memory.state(), "state": content},
        )
        self.memory.commit()

    def resume(self) -> None:
        """Take up the checkpoint of the folder, if there is one."""
        self.clock = time.perf_counter()
        if self.folder is None or not (self.folder / "search.pt").is_file():
            return
        saved = load_tensors(self.folder / "search.pt")
        if saved["identity"] != self.identity:
            raise SedonaError(f"{self.folder} holds a search with other settings; choose another folder")
        self.state = _State(**saved["state"])
        if self.state.weights is not None:
            self.state.weights = Weights(*self.state.weights)
        self.memory.restore(saved["memory"])


def run(
    pictures: data.ImageData,
    network: NetworkConfig,
    config: SearchConfig,
    heads: HeadConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
) -> SearchResult:
    """Run Algorithm 1 from wherever `folder` says it stands.

    Args:
        pictures: the data set; its training pictures are split into training and validation by `config.held_out`.
        network: the base network.
        config: both levels.
        heads: readings of Table 9.
        seed: of weights, split, batches and sampling.
        device: where to compute.
        folder: checkpoints and weight memory; None keeps all in RAM, and a killed search is lost.

    Raises:
        SedonaError: contradictory settings, a folder of another search, or a loss that is not finite
            (which layer, which step).
    """
    search = _Search(
        pictures,
        network,
        config,
        heads or HeadConfig(),
        seed,
        torch.device(device),
        None if folder is None else Path(folder),
    )
    search.resume()
    search.pretrain()
    search.search()
    state = search.state
    return SearchResult(
        alpha=state.alpha,
        beta=state.beta,
        alpha_history=torch.stack(state.alphas),
        beta_history=torch.stack(state.betas),
        alpha_gradients=torch.stack(state.gradients) if state.gradients else torch.zeros(0, *state.alpha.shape),
        outer_losses=torch.tensor(state.losses),
        pretraining=state.pretraining,
        seconds=state.seconds + time.perf_counter() - search.clock,
    )
