"""What one process keeps of a run's network and pictures: its block, and pictures only if batches are made there.

Every process builds the whole network from the run's seed and loads the data set, which says how many classes and
channels there are. Both go when `take` returns. For that moment a process needs the memory of the whole network;
pictures on a CPU are a mapped file, of which it reads next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb import data, run_pictures, runs
from sedona_nb.block_local import LocalBlock
from sedona_nb.blocks import Block
from sedona_nb.jobs import Job
from sedona_nb.messages import Slot
from sedona_nb.precision import PRECISIONS
from sedona_nb.replicas import Position


@dataclass
class Share:
    """A process's part of the run.

    Attributes:
        block: on the process's device.
        name: of the block, for people.
        below, above: sizes of the messages that the block gets and hands on; None in the first and last block.
        says, hears: sizes of the messages that go down to the block below and come from the one above, in
            block-local learning.
        pictures: in the first block's processes only.
    """

    block: Block
    name: str
    below: Slot | None
    above: Slot | None
    pictures: run_pictures.AnyRunPictures | None
    says: Slot | None = None
    hears: Slot | None = None


def take(job: Job, position: Position, device: torch.device) -> Share:
    """Build the network, load the pictures, and keep what `position` needs.

    Raises:
        SedonaError: pictures that are not there, or not the spec's.
    """
    pictures = data.load(job.data)
    runs.check_pictures(job.spec, pictures)
    network = runs.build(job.spec, pictures)
    batch = job.spec.train.batch_size // position.replicas

    def slot(lower: int) -> Slot:
        """The messages from block `lower` to the next."""
        kind = PRECISIONS[job.spec.train.precision]
        return Slot(batch, network.blocks[lower].out_shape, lower + 1, pictures.num_classes, kind)

    first, block = position.block == 0, network.blocks[position.block]
    return Share(
        block.to(device, memory_format=torch.channels_last),
        network.names[position.block],
        None if first else slot(position.block - 1),
        None if position.is_last else slot(position.block),
        run_pictures.prepare(pictures, job.spec.train, job.spec.seed, device) if first else None,
        _message_slot(block.said[0]) if isinstance(block, LocalBlock) and not first else None,
        _message_slot(block.heard) if isinstance(block, LocalBlock) and not position.is_last else None,
    )


def _message_slot(message: Tensor) -> Slot:
    """Feedback messages: the classes stand where pictures do, the positions where rows do."""
    classes, channels, positions = message.shape
    return Slot(classes, (channels, positions, 1), heads=0, classes=0, dtype=message.dtype)
