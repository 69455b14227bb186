"""Several processes that hold the same block, each with its part of every training batch.

Replica d of a block talks to replica d of the next one, in a queue of their own: D chains through the network. A
step of a block ends with one all-reduce of one vector, all its gradients behind each other; blocks work on
different steps anyway, so nothing is won by cutting the vector into pieces that travel during the backward pass,
which is what DistributedDataParallel is for.

What a replica does alone: it normalises with the statistics of its own part of the batch, as
DistributedDataParallel lets it, and a PredSim head compares pictures of its own part. Running statistics therefore
differ between replicas; the first one's count. It alone evaluates (all pictures, in batches as large as a part)
and writes checkpoints, which all replicas read when a run goes on: they need the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sedona_nb.errors import SedonaError
from sedona_nb.seeds import mix

# For as long, replicas may wait while the first one evaluates; torch's own limit on GPUs is ten minutes.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Position:
    """What a process is in a run of K blocks with D replicas each; everything counts from 0.

    Attributes:
        block, replica: which it holds.
        blocks, replicas: K and D.
    """

    block: int
    replica: int
    blocks: int
    replicas: int

    @classmethod
    def of(cls, rank: int, blocks: int, replicas: int) -> Position:
        """Where the process `rank` of blocks * replicas stands: replicas of a block are neighbours."""
        return cls(*divmod(rank, replicas), blocks, replicas)

    @property
    def rank(self) -> int:
        """The process's number in the run."""
        return self.block * self.replicas + self.replica

    @property
    def leads(self) -> bool:
        """Whether this replica speaks for its block: evaluates, and writes the checkpoints."""
        return self.replica == 0

    @property
    def is_last(self) -> bool:
        """Whether the block holds the classifier."""
        return self.block == self.blocks - 1

    @property
    def judges(self) -> bool:
        """Whether this process counts the errors and says which weights are the best."""
        return self.is_last and self.leads

    def part(self, batch_size: int) -> slice:
        """Which pictures of a training batch are this replica's."""
        size = batch_size // self.replicas
        return slice(self.replica * size, (self.replica + 1) * size)

    def seed(self, step_seed: int) -> int:
        """The seed of a step's dropout: `step_seed` itself in the first replica, in every other one another."""
        return step_seed if self.replica == 0 else mix(step_seed, "replica", self.replica)


def check_parts(replicas: int, batch_size: int) -> None:
    """Refuse a number of replicas that a batch cannot be parted into.

    Raises:
        SedonaError: fewer than one, or a batch that does not divide.
    """
    if replicas < 1:
        raise SedonaError(f"{replicas} replicas a block; allowed: at least 1")
    if batch_size % replicas:
        raise SedonaError(
            f"a batch of {batch_size} does not divide into {replicas} equal parts, one a replica; "
            f"allowed: replicas that divide {batch_size}"
        )


def in_words(blocks: int, replicas: int) -> str:
    """How many blocks of how many replicas, for messages."""
    return f"{blocks} blocks" + (f" of {replicas} replicas" if replicas > 1 else "")


@dataclass(frozen=True)
class Groups:
    """Whom a process talks to; None where there is nobody.

    Attributes:
        below, above: the pair of this process and the same replica of the next lower and upper block.
        block: all replicas of the block.
        says, hears: as below and above, for the messages that go down in block-local learning.
    """

    below: dist.ProcessGroup | None = None
    above: dist.ProcessGroup | None = None
    block: dist.ProcessGroup | None = None
    says: dist.ProcessGroup | None = None
    hears: dist.ProcessGroup | None = None


def make_groups(position: Position, feedback: bool = False) -> Groups:
    """Make all groups of the run and keep this process's; all processes must call it, each with its position.

    With `feedback`, neighbours get a second group, since on a GPU the messages of a group wait for each other.
    """
    blocks, replicas, rank = position.blocks, position.replicas, position.rank
    patience = PATIENCE if replicas > 1 else None
    lower = range((blocks - 1) * replicas)
    pairs = {low: dist.new_group([low, low + replicas], patience) for low in lower}
    down = {low: dist.new_group([low, low + replicas], patience) for low in lower if feedback}
    block = None
    if replicas > 1:
        teams = [list(range(k * replicas, (k + 1) * replicas)) for k in range(blocks)]
        block = [dist.new_group(team, patience) for team in teams][position.block]
    above = None if position.is_last else pairs[rank]
    return Groups(pairs.get(rank - replicas), above, block, down.get(rank - replicas), down.get(rank))


def spread(module: nn.Module, position: Position, group: dist.ProcessGroup) -> None:
    """Give all replicas the weights of the first one; waits for all of them.

    Seeds make them equal on like machines; on unlike ones the last bits may differ, and no averaging of gradients
    would ever mend that. It also connects the group before receives of other groups occupy a GPU.
    """
    weights = [parameter.data for parameter in module.parameters()]
    line = _in_line(weights)
    dist.broadcast(line, position.block * position.replicas, group)
    _back(line, weights)


def average(module: nn.Module, loss: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Replace `module`'s gradients by their means over the replicas; waits for all of them.

    Args:
        module: with gradients of the replica's own part of the batch.
        loss: of that part, (); its mean travels along.
        group: the replicas.

    Returns:
        the mean loss, ().
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    line = _in_line([*gradients, loss])
    dist.all_reduce(line, group=group)
    line /= group.size()
    _back(line, gradients)
    return line[-1].clone()  # a view would keep all gradients alive for as long as somebody remembers the loss


def _in_line(tensors: list[Tensor]) -> Tensor:
    """All numbers behind each other, (n,); a copy."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _back(line: Tensor, tensors: list[Tensor]) -> None:
    """Copy the numbers of `line` to where they came from; strides in memory stay as they are."""
    start = 0
    for tensor in tensors:
        tensor.copy_(line[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
