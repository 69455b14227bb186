"""One process of the asynchronous trainer: a block that trains on whatever the block below sends.

The first block makes the batches and, between them, gives the instructions: evaluate these pictures, write a
checkpoint, take up the best weights, stop. Everything travels in one queue from block to block (`messages`), so
each block acts on an instruction exactly after its own steps up to there, and nobody waits for anybody else.
Replicas of a block wait for each other at every step, and only the first one evaluates and writes (`replicas`).

A block hands its activations on before its own backward pass, as the serial trainer computes them: the numbers are
the same at any depth of the queues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sedona_nb import atomic, block_files, block_share, instructions, replicas, steps
from sedona_nb.blocks import BlockNetwork
from sedona_nb.errors import SedonaError
from sedona_nb.evaluate import Tally
from sedona_nb.jobs import Job
from sedona_nb.messages import EVALUATE, MARK, TRAIN, Header, Receiver, Sender
from sedona_nb.precision import Arithmetic
from sedona_nb.replicas import Groups, Position
from sedona_nb.train_config import Checkpoint, TrainOutcome

Report = Callable[[int, dict[str, float]], None]


class BlockWorker:
    """A block with its optimiser, its end of the queues, and where the run stands.

    Between messages it holds these and nothing else of size: `depth` slots for what comes and one for what goes.
    """

    def __init__(self, job: Job, position: Position, groups: Groups, store: dist.Store, report: Report):
        self.job, self.position, self.team, self.store, self.report = job, position, groups.block, store, report
        self.config, self.device = job.spec.train, torch.device(job.device)
        share = block_share.take(job, position, self.device)
        self.block, self.name, self.pictures = share.block, share.name, share.pictures
        (self.optimizer,) = steps.make_optimizers(BlockNetwork([self.block]), self.config)
        self.arithmetic = Arithmetic(self.config.precision, self.device)
        self.files = block_files.BlockFiles(Path(job.folder), position.block)
        if self.team is not None:
            replicas.spread(self.block, position, self.team)
        self.incoming = self.outgoing = None
        if groups.below is not None:
            lower = position.rank - position.replicas
            self.incoming = Receiver(groups.below, lower, share.below, self.device, job.depth)
        if groups.above is not None:
            self.outgoing = Sender(groups.above, position.rank + position.replicas, share.above, self.device)
        self.hearing = self.saying = None  # the way down, in block-local learning
        if share.hears is not None:
            upper, slots = position.rank + position.replicas, self.block.config.lag + 1
            self.hearing = Receiver(groups.hears, upper, share.hears, self.device, slots)
        if share.says is not None:
            self.saying = Sender(groups.says, position.rank - position.replicas, share.says, self.device)
        self.step, self.pending = 0, []
        self.curve: list[tuple[int, tuple[float, ...], float]] = []  # of the last block, as `best` and `found`
        self.best_step, self.best_error, self.undecided = 0, float("inf"), None
        self.tally, self.found = Tally(), []
        self.events: list[tuple[str, int, float, float]] = []
        self.seconds, self.clock = 0.0, time.perf_counter()

    # -- the queue -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the run is over."""
        if self.saying is not None:
            for message in self.block.said:  # what the block below has not heard yet, wherever the run stands
                self.say(message)
        if self.incoming is None:
            entries = instructions.entries(self.pictures, self.config, self.position, self.step)
            began = time.perf_counter()
            for header, images, labels in entries:
                if header.kind != MARK:
                    self.note("batch", began)
                self.handle(header, images, labels, [], [])
                began = time.perf_counter()
            self.pictures.close()
        else:
            header = None
            while header is None or (header.kind, header.detail) != (MARK, instructions.STOP):
                began = time.perf_counter()
                with self.incoming.receive() as message:
                    self.note("wait", began)
                    header = message.header
                    below = list(message.scores) if header.kind == EVALUATE else []
                    losses = message.losses.tolist() if header.kind == MARK else []
                    self.handle(header, message.activations, message.labels, below, losses)
        for sender in (self.outgoing, self.saying):
            if sender is not None:
                sender.flush()

    def say(self, message: Tensor) -> None:
        """Send a feedback message, (classes, channels, positions), to the block below."""
        self.saying.send(Header(TRAIN, self.step, len(message)), activations=message[..., None])

    def handle(self, header: Header, x: Tensor, labels: Tensor, scores: list[Tensor], losses: list[float]) -> None:
        """One message: work on it, and hand it on."""
        if header.kind == TRAIN:
            self.train(header, x, labels)
        elif header.kind == EVALUATE:
            self.evaluate(header, x, labels, scores)
        else:
            instruction = (self.evaluated, self.checkpoint, self.load_best, self.stop)[header.detail]
            losses = instruction(losses)
            if self.outgoing is not None:
                self.outgoing.send(header, losses=torch.tensor(losses))

    def note(self, what: str, began: float) -> None:
        """Add to the timeline."""
        if self.job.timeline:
            self.events.append((what, self.step, began, time.perf_counter()))

    # -- messages ------------------------------------------------------------------------------------------------

    def train(self, header: Header, x: Tensor, labels: Tensor) -> None:
        """One greedy step."""
        self.block.train()
        if self.hearing is not None:
            waiting = time.perf_counter()
            with self.hearing.receive() as message:
                self.block.hear(message.activations[..., 0])
            self.note("wait", waiting)
        began = time.perf_counter()

        def hand_on(activations: Tensor) -> None:
            self.note("forward", began)
            if self.outgoing is not None:
                sending = time.perf_counter()
                self.outgoing.send(header, labels=labels, activations=activations)
                self.note("send", sending)

        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(header.step)
        seed = steps.dropout_seed(self.job.spec.seed, header.step)
        seed = self.position.seed(seed)
        down = {} if self.saying is None else {"say": self.say}
        _, loss = self.block.local_step(x, labels, self.config.loss, seed, hand_on, self.arithmetic, **down)
        if self.team is not None:
            loss = replicas.average(self.block, loss, self.team)
        self.arithmetic.step(self.optimizer)
        self.note("backward", self.events[-1][3] if self.events else began)
        self.pending.append(loss)
        self.step = header.step + 1
        if self.position.judges:
            self.report(self.step, {})

    @torch.no_grad()
    def evaluate(self, header: Header, x: Tensor, labels: Tensor, scores: list[Tensor]) -> None:
        """Scores of this block's head with running statistics."""
        self.block.eval()
        began = time.perf_counter()
        with self.arithmetic.autocast():
            activations, own = self.block(x)
        if self.outgoing is None:
            self.tally.add([*scores, own], labels)
        else:
            parts = torch.stack([*scores, own])
            self.outgoing.send(header, labels=labels, scores=parts, activations=activations)
        self.note("evaluate", began)

    def evaluated(self, losses: list[float]) -> list[float]:
        """A split is through."""
        if self.position.judges:
            self.found.append(self.tally.result())
            self.tally = Tally()
        return losses

    def checkpoint(self, losses: list[float]) -> list[float]:
        """Write where this block stands; the last block knows the validation error and whether it is the best."""
        began = time.perf_counter()
        own = torch.stack(self.pending)[:, None]
        steps.refuse_non_finite(own, [self.name], self.step, self.config.lr)
        losses = [*losses, *steps.mean_losses(own)]
        self.pending = []
        if not self.position.leads:
            return losses
        self.decide()
        if self.position.judges:
            (errors,) = self.found
            self.found = []
            self.curve.append((self.step, tuple(losses), errors.top1))
            if errors.top1 < self.best_error:
                self.best_step, self.best_error = self.step, errors.top1
        self.save()
        if self.position.judges:
            self.store.set(f"best/{self.step}", str(self.best_step))
            self.report(self.step, {"loss": losses[-1], "validation_error": self.curve[-1][2]})
        self.undecided = self.step
        self.note("checkpoint", began)
        return losses

    def decide(self) -> None:
        """Learn whether the weights of the last checkpoint were the best so far; older files go."""
        if self.undecided is None:
            return
        best = int(self.store.get(f"best/{self.undecided}"))
        self.files.settle(self.undecided, best)
        self.undecided = None

    def load_best(self, losses: list[float]) -> list[float]:
        """Take up the best weights; the last ones are in the last checkpoint."""
        self.decide()
        self.block.load_state_dict(self.files.best(self.device))
        return losses

    def stop(self, losses: list[float]) -> list[float]:
        """The end: the last block has found errors of the last and of the best weights."""
        if self.position.leads:
            self.block.load_state_dict(self.files.load(self.step, self.device)["block"])
        return losses

    # -- files ---------------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """What checkpoints must agree on; replicas change the numbers, the depth of queues does not."""
        return repr(self.job.spec) + (f" x {self.job.replicas}" if self.job.replicas > 1 else "")

    def save(self) -> None:
        """Write this block's checkpoint."""
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        state = {
            "identity": self.identity(),
            "block": self.block.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "arithmetic": self.arithmetic.state_dict(),
            "curve": self.curve,
            "best": [self.best_step, self.best_error],
            "seconds": self.seconds,
        }
        self.files.save(self.step, state)

    def resume(self, step: int) -> None:
        """Take up the checkpoint of `step`, which every block has; 0: the beginning.

        Raises:
            SedonaError: it is damaged, or of a run with other settings.
        """
        if step == 0:
            return
        saved = self.files.load(step, self.device)
        if saved["identity"] != self.identity():
            raise SedonaError(f"{self.job.folder} holds a run with other settings; choose another folder")
        self.block.load_state_dict(saved["block"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.arithmetic.load_state_dict(saved["arithmetic"])
        self.curve, (self.best_step, self.best_error) = saved["curve"], saved["best"]
        self.step, self.undecided, self.seconds = step, step if self.position.leads else None, saved["seconds"]
        if self.position.judges:
            self.store.set(f"best/{step}", str(self.best_step))

    def outcome(self) -> TrainOutcome:
        """What the last block knows in the end."""
        last, best = self.found[: len(self.found) // 2], self.found[len(self.found) // 2 :]
        seconds = self.seconds + time.perf_counter() - self.clock
        return TrainOutcome(Checkpoint(self.best_step, *best), Checkpoint(self.step, *last), self.curve, seconds)

    def write_timeline(self) -> None:
        """What this process did when, for `schedule`: rows (what, step, start, end), seconds."""
        if self.job.timeline:
            path = Path(self.job.folder) / f"timeline-{self.position.rank + 1}.json"
            atomic.write_text(path, json.dumps(self.events) + "\n")
