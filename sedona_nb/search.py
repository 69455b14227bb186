"""Algorithm 1: pretrain under equal shares, then search alpha and beta; resumable to the step.

    result = search.run(pictures, NetworkConfig("vgg19"), SearchConfig(), folder="build/search")

Every random choice depends on the seed and a counter alone, and with a folder each outer step ends with an atomic
checkpoint. A search that was killed and started again with the same folder therefore ends, on the CPU bit for bit,
where an undisturbed one ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sedona_nb import bilevel, budget, data, devices, progress
from sedona_nb.atomic import load_tensors, remove_parts, save_checkpoint
from sedona_nb.bilevel import Problem
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.heads import HeadConfig
from sedona_nb.levels import Levels
from sedona_nb.memory import WeightMemory
from sedona_nb.networks import NetworkConfig
from sedona_nb.rates import cosine
from sedona_nb.search_config import SearchConfig, SearchResult
from sedona_nb.search_state import SearchState
from sedona_nb.seeds import torch_generator
from sedona_nb.streamed_pictures import in_memory_only

Watch = Callable[[SearchState], None]


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
        graphs: bool,
    ):
        self.config, self.seed, self.device, self.folder = config, seed, device, folder
        self.levels = Levels(pictures, network, config, heads, seed, device, graphs)
        self.memory = WeightMemory(
            config.memory_size, config.keep, config.eviction, None if folder is None else folder / "memory"
        )
        self.identity = repr((pictures.fingerprint, network, config, heads, seed))
        relaxed = self.levels.relaxed
        self.state = SearchState.undecided(relaxed.num_layers - 1, relaxed.num_heads)

    # -- pretraining ---------------------------------------------------------------------------------------------

    def pretrain(self, pause: Callable[[], bool] | None = None, watch: Watch | None = None) -> None:
        """Steps of Eqs. 5-6 with alpha = beta = 0, and a snapshot every so many of them."""
        config, levels, state = self.config, self.levels, self.state
        weights = bilevel.trainable(state.weights or bilevel.initial_weights(levels.relaxed), self.device)
        if config.pretrain_steps == 0 and not self.memory.entries:
            self.memory.offer(weights, 0, math.nan)
        shares = levels.shares(torch.zeros_like(state.alpha), torch.zeros_like(state.beta))
        with progress.bar(config.pretrain_steps - state.pretrained, "pretraining") as bar:
            while state.pretrained < config.pretrain_steps:
                step = state.pretrained
                lr = cosine(step, config.pretrain_steps, config.inner.lr, config.inner.lr_min)
                batch = levels.training.batch(step)
                weights, losses = levels.inner_step(weights, shares, batch, lr, f"step {step}", overwrite=True)
                state.pretrained += 1
                if state.pretrained % config.snapshot_every == 0 or state.pretrained == config.pretrain_steps:
                    error = levels.validation_error(weights)
                    self.memory.offer(weights, state.pretrained, error)
                    state.pretraining.append((state.pretrained, losses[-1].item(), error))
                    state.weights = weights
                    self.checkpoint()
                    bar.update(0, loss=state.pretraining[-1][1], validation_error=error)
                bar.update()
                if watch is not None:
                    watch(state)
                if pause is not None and pause():
                    state.weights = weights
                    self.checkpoint()
                    raise Paused(
                        f"paused at step {state.pretrained:,} of {config.pretrain_steps:,} of pretraining"
                    )
        state.weights = None  # the memory has what the search needs

    # -- search --------------------------------------------------------------------------------------------------

    def search(self, pause: Callable[[], bool] | None = None, watch: Watch | None = None) -> None:
        """The loop of Algorithm 1."""
        config, levels, state = self.config, self.levels, self.state
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
                weights = bilevel.trainable(stored, self.device)
                first = config.pretrain_steps + step * config.inner.steps
                batches = [levels.training.batch(first + t) for t in range(config.inner.steps)]
                lr = self._inner_lr(step, entry.step)
                validation = levels.validation.batch(step)
                problem = Problem(levels.relaxed, weights, alpha, beta, batches, validation, lr, config.inner)
                gradient = levels.hypergradient(problem, f"outer step {step}")
                alpha.grad, beta.grad = gradient.alpha, gradient.beta
                adam.step()
                # Algorithm 1's last step: one inner step with the updated decisions, kept in the memory.
                shares = levels.shares(alpha.detach(), beta.detach())
                batch = batches[0]
                if config.renewal_batch == "new":  # beyond the batches of all inner steps
                    last = config.pretrain_steps + config.outer_steps * config.inner.steps
                    batch = levels.training.batch(last + step)
                weights, _ = levels.inner_step(weights, shares, batch, lr, f"outer step {step}")
                self.memory.renew(entry, weights, entry.step + 1)
                state.record(alpha, beta, gradient, adam.state_dict())
                self.checkpoint()
                bar.update(outer_loss=gradient.outer_loss)
                if watch is not None:
                    watch(state)
                if pause is not None and state.searched < config.outer_steps and pause():
                    raise Paused(f"paused at outer step {state.searched:,} of {config.outer_steps:,}")

    def _inner_lr(self, outer_step: int, stored_step: int) -> float:
        config, inner = self.config, self.config.inner
        if config.inner_rate == "stored_step":
            return cosine(stored_step, max(config.pretrain_steps, 1), inner.lr, inner.lr_min)
        return cosine(outer_step, config.outer_steps, inner.lr, inner.lr_min)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the state; the files of evicted weight sets go only after that."""
        if self.folder is None:
            return
        self.count_time()
        content = {"identity": self.identity, "memory": self.memory.state(), "state": self.state.to_saved()}
        save_checkpoint(self.folder / "search.pt", content)
        self.memory.commit()

    def count_time(self) -> None:
        """Note what has been spent since the last time."""
        now, processor = time.perf_counter(), time.process_time()
        self.state.passed(now - self.clock, processor - self.processor_clock)
        self.clock, self.processor_clock = now, processor

    def resume(self) -> None:
        """Take up the checkpoint of the folder, if there is one."""
        self.clock, self.processor_clock = time.perf_counter(), time.process_time()
        if self.folder is None or not (self.folder / "search.pt").is_file():
            return
        saved = load_tensors(self.folder / "search.pt")
        if saved["identity"] != self.identity:
            raise SedonaError(f"{self.folder} holds a search with other settings; choose another folder")
        remove_parts(self.folder, "search.pt")
        self.state = SearchState.from_saved(saved["state"])
        self.memory.restore(saved["memory"])


def run(
    pictures: data.ImageData,
    network: NetworkConfig,
    config: SearchConfig,
    heads: HeadConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
    graphs: bool = False,
    pause: Callable[[], bool] | None = None,
    watch: Watch | None = None,
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
        graphs: record the passes as CUDA graphs (`lean.replay`); backend "adjoint" on a GPU.
        pause: asked after each step whether to stop there; needs a folder, in which the search can be taken up.
        watch: shown the state at the start and after each step, before `pause` is asked; must leave it as it is.

    Raises:
        SedonaError: contradictory settings, streamed pictures, too little memory or room on disk (found out before
            the first step), a folder of another search or one that cannot be read or written any more, or a loss
            that is not finite (which layer, which step).
        Paused: `pause` said so; the checkpoint is written.
    """
    if pause is not None and folder is None:
        raise SedonaError("pause without a folder: there would be nothing to go on from")
    device, folder = torch.device(device), None if folder is None else Path(folder)
    if graphs and (device.type != "cuda" or config.backend != "adjoint"):
        raise SedonaError(
            f"graphs need device 'cuda' and backend 'adjoint', not {device.type!r} and {config.backend!r}"
        )
    in_memory_only(pictures, "a search")
    free = devices.free_memory(device)
    search = _Search(pictures, network, config, heads or HeadConfig(), seed, device, folder, graphs)
    search.resume()
    if search.state.searched < config.outer_steps or search.state.pretrained < config.pretrain_steps:
        needed = budget.estimate(
            pictures, network, config, heads, device, folder, time=False, program=search.levels.program
        )
        needed.check(free)
    if watch is not None:
        watch(search.state)
    search.pretrain(pause, watch)
    search.search(pause, watch)
    search.count_time()
    return search.state.result()
