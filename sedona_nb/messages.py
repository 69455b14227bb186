"""What travels from a block to the next: a bounded queue of messages over torch.distributed.

    outgoing = Sender(group, 1, slot, device)       # in the process of the lower block
    outgoing.send(Header(TRAIN, step), labels=labels, activations=activations)

    incoming = Receiver(group, 0, slot, device, depth=4)   # in that of the upper one
    with incoming.receive() as message:             # waits; the slot is free again after the block
        message.activations

Every message is one piece of memory of the same size, a `Slot`, so that receives can be posted before anybody
sends: `depth` posted slots are the queue. A sender whose message finds no posted slot waits, which is all the flow
control there is. Activations, labels and instructions take the same way and so keep their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

ALIGNMENT = 64  # bytes; parts of a slot begin at multiples
TRAIN, EVALUATE, MARK = range(3)  # what a message is: a training batch, a batch to evaluate, an instruction


@dataclass(frozen=True)
class Header:
    """What a message is about.

    Attributes:
        kind: TRAIN, EVALUATE or MARK.
        step: training steps done before it.
        count: pictures in it; the rest of the slot is rubbish.
        detail: a number that goes with the kind, for a MARK which one.
    """

    kind: int
    step: int
    count: int = 0
    detail: int = 0


@dataclass(frozen=True)
class Slot:
    """Sizes of what a message can hold.

    Attributes:
        batch: most pictures.
        shape: (C, H, W) of a picture's activations.
        heads: blocks below the boundary.
        classes: class scores of a head.
        dtype: of the activations.
    """

    batch: int
    shape: tuple[int, int, int]
    heads: int
    classes: int
    dtype: torch.dtype = torch.float32

    @property
    def _parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        channels, height, width = self.shape
        return {
            "header": (torch.int64, (4,)),
            "losses": (torch.float32, (self.heads,)),
            "labels": (torch.int64, (self.batch,)),
            "scores": (torch.float32, (self.heads, self.batch, self.classes)),
            "activations": (self.dtype, (self.batch, height, width, channels)),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of a message."""
        return sum(_padded(dtype.itemsize * prod(shape)) for dtype, shape in self._parts.values())

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The parts of a message in `memory`, uint8 (nbytes,); activations as (B, C, H, W), channels last."""
        found, offset = {}, 0
        for name, (dtype, shape) in self._parts.items():
            size = dtype.itemsize * prod(shape)
            found[name] = memory[offset : offset + size].view(dtype).view(shape)
            offset += _padded(size)
        found["activations"] = found["activations"].permute(0, 3, 1, 2)
        return found


@dataclass
class Message:
    """A message that arrived; its tensors are the slot's memory, to be read before the slot is free again.

    Attributes:
        activations: (B, C, H, W); labels: (B,); scores: (heads, B, classes) of the heads below, when evaluating;
        losses: (heads,) of the blocks below, with some instructions.
    """

    header: Header
    activations: Tensor
    labels: Tensor
    scores: Tensor
    losses: Tensor


class Sender:
    """The lower end of a boundary: one message under way at a time."""

    def __init__(self, group: dist.ProcessGroup, peer: int, slot: Slot, device: torch.device):
        self.group, self.peer, self.slot = group, peer, slot
        self.memory = torch.zeros(slot.nbytes, dtype=torch.uint8, device=device)
        self.parts = slot.views(self.memory)
        self.work: dist.Work | None = None

    def send(self, header: Header, **parts: Tensor) -> None:
        """Copy `parts` (names as in `Message`) and send them; waits while the message before is under way."""
        self.flush()
        numbers = [header.kind, header.step, header.count, header.detail]
        self.parts["header"].copy_(torch.tensor(numbers))
        for name, value in parts.items():
            target = self.parts[name]
            if name == "scores":
                target[:, : value.shape[1]].copy_(value)
            else:
                target[: len(value)].copy_(value)
        self.work = dist.isend(self.memory, self.peer, self.group)

    def flush(self) -> None:
        """Wait until the last message has left."""
        if self.work is not None:
            self.work.wait()
            self.work = None


class Receiver:
    """The upper end of a boundary: `depth` posted receives."""

    def __init__(self, group: dist.ProcessGroup, peer: int, slot: Slot, device: torch.device, depth: int):
        self.group, self.peer, self.slot = group, peer, slot
        self.posted: deque[tuple[Tensor, dist.Work]] = deque()
        for _ in range(depth):
            self._post(torch.zeros(slot.nbytes, dtype=torch.uint8, device=device))

    def _post(self, memory: Tensor) -> None:
        self.posted.append((memory, dist.irecv(memory, self.peer, self.group)))

    @contextmanager
    def receive(self) -> Iterator[Message]:
        """The next message; its slot is posted again at the end of the `with` block."""
        memory, work = self.posted.popleft()
        work.wait()
        parts = self.slot.views(memory)
        header = Header(*parts.pop("header").tolist())
        cut = {name: parts[name][: header.count] for name in ("activations", "labels")}
        yield Message(header, scores=parts["scores"][:, : header.count], losses=parts["losses"], **cut)
        self._post(memory)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
