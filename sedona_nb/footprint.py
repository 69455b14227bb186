"""The memory of a search in bytes, counted on shapes before anything is allocated; `budget` is the way to ask.

    program = footprint.read(pictures, network, heads)      # the network without its numbers
    memory = footprint.count(program, pictures, config)     # Memory: pieces, and their total

What is counted follows what each backend keeps:

- "adjoint": the maps of `lean`. Its nodes take them from a workspace and give them back in the order of the
  passes; `rehearsal` repeats that without the arithmetic, so that reuse counts as it happens.
- "functional" and "higher": the graph of T steps. A unit (convolution, BatchNorm, ReLU) saves four maps a step:
  what the convolution gave, what the ReLU made of it, and the cotangents of both, because the way back is part of
  the graph. Torch's saved-tensor hooks find 4.1 to 4.3 maps a unit, `_Layers.graph` has 4.1 to 4.2.

Against the peak of whole searches in fresh processes (Linux, one thread; VGG-11, VGG-19, ResNet-18 and ResNet-50
at 0.125x and 0.25x, B from 16 to 128, V from 32 to 1024, T from 1 to 10) this was off by at most 10 % with backend
"adjoint" and 12 % with the others. On a GPU nothing of it has been measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sedona_nb import rehearsal
from sedona_nb import relaxed as relax
from sedona_nb.data import ImageData
from sedona_nb.heads import HeadConfig
from sedona_nb.lean.junctions import Junction, MaxPool
from sedona_nb.lean.nodes import Unit
from sedona_nb.lean.program import Program
from sedona_nb.lean.trajectory import IN_MEMORY
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig

FLOAT = 4  # bytes
# What PyTorch itself takes at a process's first steps: 150 MB when `torch.optim` makes its first optimiser and
# imports the compiler for it, 50 MB of kernels. Measured on a CPU: 199 to 206 MB more in a fresh process than in
# one that has searched before, five networks and sizes. On a GPU it is a guess.
LIBRARIES = 200_000_000
# Chunks of a few pictures on a CPU: the heads' last maps and what is made of them, buffers of convolutions.
CHUNKS = 30_000_000
WHOLE_BATCHES = 6  # on a GPU a chunk is the batch: so many of the largest map at a time
# Vectors of all weights besides w_0 .. w_{T-1}: the network's own; parameters and momenta as they came from the
# memory, in the backend's form, and after the step that renews them; momenta, gradients and cotangents on the way.
VECTORS = {"adjoint": 12, "functional": 9, "higher": 9}
FILE_OVERHEAD = 290  # bytes a tensor in a file beyond its numbers; measured: 282 to 293


@dataclass(frozen=True)
class PictureSizes:
    """What the size of a search depends on in a data set."""

    count: int  # training pictures, held-out ones included
    num_classes: int
    image_size: int
    in_channels: int

    @classmethod
    def of(cls, pictures: ImageData) -> PictureSizes:
        """Those of a data set."""
        return cls(len(pictures.train_labels), pictures.num_classes, pictures.image_size, pictures.in_channels)

    @property
    def numbers(self) -> int:
        """Numbers in one picture."""
        return self.in_channels * self.image_size**2

    def held_out(self, config: SearchConfig) -> int:
        """Pictures that a search validates on."""
        return round(self.count * config.held_out)


# Of the named data sets, so that a search can be planned without the pictures.
SIZES = {
    "digits": PictureSizes(1_437, 10, 32, 1),
    "cifar10": PictureSizes(50_000, 10, 32, 3),
    "cifar10-jpeg": PictureSizes(50_000, 10, 32, 3),
    "fashion-mnist": PictureSizes(60_000, 10, 32, 1),
    "tiny-imagenet": PictureSizes(100_000, 200, 64, 3),
    "reversed-digits": PictureSizes(3_627_800, 10, 10, 10),  # sequences of 10, as pictures of one row
}


@dataclass(frozen=True)
class Memory:
    """Peak memory of a search above what the process has before it, in bytes, by what takes it."""

    libraries: int  # PyTorch's own
    weights: int  # vectors of all weights: the trajectory, momenta, gradients, copies
    maps: int  # activations and their cotangents
    passing: int  # what lives for a moment
    batches: int
    pictures: int  # the data set on a GPU; on a CPU it is there already
    sets: int  # the weight memory, where no folder takes it; in RAM whatever the device

    @property
    def on_device(self) -> int:
        """Everything but the weight memory."""
        return self.total - self.sets

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


class _WithoutNumbers(TorchFunctionMode):
    """Leaves out initialisation, which takes most of the time of building a network on the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.__name__.removesuffix("_") in ("kaiming_uniform", "kaiming_normal", "normal", "uniform"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def read(pictures: PictureSizes, network: NetworkConfig, heads: HeadConfig | None = None) -> Program:
    """The relaxed network as a program without numbers.

    Raises:
        SedonaError: as `networks.build_network`.
    """
    with torch.device("meta"), _WithoutNumbers():
        base = network.build(pictures.num_classes, pictures.image_size, pictures.in_channels)
        relaxed = relax.relax(base, pictures.num_classes, network.width, config=heads)
    for part in list(relaxed.classifier.modules()):
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # `lean` has no node for it, and it takes next to nothing
    return Program(relaxed, (pictures.in_channels, pictures.image_size, pictures.image_size))


def count(
    program: Program, pictures: PictureSizes, config: SearchConfig, device: str = "cpu", folder: bool = True
) -> Memory:
    """The memory of a search.

    Args:
        program: from `read`, or the one that the search uses.
        pictures: sizes of the data set.
        config: the search.
        device: type of the device, "cpu", "cuda" or "mps".
        folder: whether the weight memory lies in files.
    """
    inner, layers = config.inner, _Layers.of(program)
    steps = inner.steps if config.outer_steps else 0
    vectors = VECTORS[config.backend] + (min(steps, IN_MEMORY) if config.backend == "adjoint" else steps)
    outer = min(config.outer_batch_size, pictures.held_out(config))
    maps = (
        rehearsal.largest(program, config, outer) if config.backend == "adjoint" else layers.graph(config, outer)
    )
    passing = CHUNKS
    if device != "cpu":
        passing = WHOLE_BATCHES * FLOAT * max(2 * inner.batch_size * layers.largest, outer * layers.largest_below)
    return Memory(
        libraries=LIBRARIES,
        weights=(vectors + 2 * folder) * FLOAT * program.layout.size,  # + 2: the set that was read
        maps=FLOAT * maps,
        passing=passing,
        batches=FLOAT * pictures.numbers * (inner.batch_size * max(steps, 1) + outer),
        pictures=0 if device == "cpu" else pictures.count * pictures.numbers,
        sets=0 if folder else stored_sets(config) * set_bytes(program),
    )


def stored_sets(config: SearchConfig) -> int:
    """How many sets the weight memory comes to hold."""
    snapshots = -(-config.pretrain_steps // config.snapshot_every) or 1
    renewed = config.outer_steps if config.eviction == "oldest" else 0
    return min(config.memory_size, snapshots + renewed)


def set_bytes(program: Program) -> int:
    """One weight set: parameters, momenta, running statistics."""
    layout = program.layout
    return FLOAT * 2 * (layout.size + layout.statistics_size) + 8 * len(layout.norms)


def file_count(config: SearchConfig) -> int:
    """Most files with a set of weights that the folder of a search holds at once.

    N sets, the one that is written before another goes, and in the pretraining its weights in the old and the new
    checkpoint.
    """
    return stored_sets(config) + 1 + (2 if config.pretrain_steps else 0)


def file_bytes(program: Program, config: SearchConfig) -> int:
    """Most that the folder of a search holds at once."""
    tensors = 2 * len(program.layout.names) + 3 * len(program.layout.norms)
    return file_count(config) * (set_bytes(program) + FILE_OVERHEAD * tensors)


@dataclass(frozen=True)
class _Layers:
    """Sizes of maps, in numbers a picture, summed over the units of a network."""

    below: int  # the base network's units
    units: int  # all units, the heads' included
    outputs: int  # what layers 1 .. L-1 give
    pooled: int  # what max-poolings give
    largest_below: int
    largest: int

    @classmethod
    def of(cls, program: Program) -> _Layers:
        below = [prod(node.shape) for layer in program.parts.layers for node in _units(layer.nodes)]
        groups = [layer.heads for layer in program.parts.layers if layer.heads is not None]
        above = [prod(node.shape) for group in groups for node in _units(group.nodes)]
        above += [tail.extent for group in groups for tail in group.tails]
        nodes = [
            node for layer in program.parts.layers for node in (*layer.nodes, layer.output)
        ] + program.parts.last_nodes
        pools = [node.source for node in nodes if isinstance(node.source, MaxPool)]
        return cls(
            below=sum(below),
            units=sum(below) + sum(above),
            outputs=sum(prod(layer.output.shape) for layer in program.parts.layers[:-1]),
            pooled=sum(prod(pool.shape) for pool in pools),
            largest_below=max(below),
            largest=max(below + above),
        )

    def graph(self, config: SearchConfig, outer: int) -> int:
        """Numbers in the maps that "functional" and "higher" keep at their worst moment."""
        size = config.inner.batch_size
        pools = 3 * self.pooled  # 4 bytes a value and 8 a position
        step = size * (4 * self.units + 2 * self.outputs + pools)  # outputs: both cotangents that a share weighs
        plain = size * (2 * self.units + pools)
        steps = config.inner.steps - (config.objective == "released")
        above = (
            plain if config.objective == "released" else outer * (2 * (self.below + self.largest_below) + pools)
        )
        # Going back through a step, its forward maps have cotangents as well; at the first step nobody needs them.
        back = (3 if steps > 1 else 1) * size * self.units
        return max(plain, steps * step + max(above, back)) if config.outer_steps else plain


def _units(nodes: Iterable[Unit | Junction]) -> Iterator[Unit]:
    return (node for node in nodes if isinstance(node, Unit))
