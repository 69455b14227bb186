"""The two levels of one search: the relaxed network, the pictures of each level, and what a step of each computes.

The lower level trains weights on one part of the training pictures; the upper level judges alpha and beta by the
part held out. Nothing here moves by itself: `search` holds the state and calls these in the order of Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sedona_nb import adjoint, bilevel, data
from sedona_nb import relaxed as relax
from sedona_nb.batches import BatchStream, DevicePictures, evaluation_batches
from sedona_nb.bilevel import Hypergradient, Problem, Weights
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HeadConfig
from sedona_nb.lean.program import Program
from sedona_nb.lean.replay import RecordedProgram
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig
from sedona_nb.seeds import mix

Batch = tuple[Tensor, Tensor]  # images, labels


class Levels:
    """A relaxed network with both levels' batches.

    Args:
        pictures: the data set; the training pictures are split by `config.held_out`.
        network: the base network.
        config: both levels.
        heads: readings of Table 9.
        seed: of weights, split and batches.
        device: where to compute.
        graphs: record the passes as CUDA graphs; backend "adjoint" on a GPU.

    Attributes:
        relaxed: the network with all heads of all layers.
        training, validation: batches of the lower and the upper level, by number.
        program: the passes of backend "adjoint"; None for the others.
    """

    def __init__(
        self,
        pictures: data.ImageData,
        network: NetworkConfig,
        config: SearchConfig,
        heads: HeadConfig,
        seed: int,
        device: torch.device,
        graphs: bool,
    ):
        self.config, self.device = config, device
        base = network.build(pictures.num_classes, pictures.image_size, pictures.in_channels, mix(seed, "network"))
        self.relaxed = relax.relax(
            base, pictures.num_classes, network.width, config=heads, seed=mix(seed, "heads")
        ).to(device, memory_format=torch.channels_last)
        self.held_out, kept = data.split(len(pictures.train_labels), config.held_out, seed)
        self.pictures = (DevicePictures.prepare(pictures.train_images, device), pictures.train_labels)
        self.augmentation = pictures.augmentation
        if config.padding is not None:
            self.augmentation = self.augmentation.with_padding(config.padding)
        self.training = BatchStream(
            *self.pictures, kept, config.inner.batch_size, self.augmentation, mix(seed, "training"), device
        )
        self.validation = BatchStream(
            *self.pictures,
            self.held_out,
            min(config.outer_batch_size, len(self.held_out)),
            self.augmentation,
            mix(seed, "validation"),
            device,
            augment=False,
        )
        self.program = None
        if config.backend == "adjoint":
            make = RecordedProgram if graphs else Program
            picture = pictures.in_channels, *[pictures.image_size] * 2
            self.program = make(self.relaxed, picture, config.precision)

    def shares(self, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax of the decision variables, on the device: alpha (layers - 1, 2), beta (layers - 1, heads)."""
        return alpha.to(self.device).softmax(1), beta.to(self.device).softmax(1)

    def inner_step(
        self,
        weights: Weights,
        shares: tuple[Tensor, Tensor],
        batch: Batch,
        lr: float,
        where: str,
        overwrite: bool = False,
    ) -> tuple[Weights, Tensor]:
        """Eqs. 5-6: weights after one step of SGD under fixed shares, and the loss of each layer.

        Args:
            where: names the step in an error.
            overwrite: the step may work in place; backend "adjoint".

        Raises:
            SedonaError: a loss that is not finite.
        """
        self.relaxed.train()
        try:
            if self.program is not None:
                return adjoint.inner_step(self.program, weights, *shares, batch, lr, self.config.inner, overwrite)
            return bilevel.inner_step(self.relaxed, weights, *shares, batch, lr, self.config.inner)
        except SedonaError as error:
            raise SedonaError(f"{where}: {error}") from None

    def hypergradient(self, problem: Problem, where: str) -> Hypergradient:
        """The outer loss's gradient with respect to alpha and beta, by the configured backend and objective.

        Raises:
            SedonaError: a loss that is not finite; `where` names the step.
        """
        self.relaxed.train()
        try:
            if self.program is not None:
                bilevel.check_problem(problem, self.config.objective)
                return adjoint.adjoint_hypergradient(problem, self.config.objective, self.program)
            return bilevel.hypergradient(problem, self.config.objective, self.config.backend)
        except SedonaError as error:
            raise SedonaError(f"{where}: {error}") from None

    def validation_error(self, weights: Weights) -> float:
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
