"""Two blocks in two processes against everything else that two cores can do with the same network.

    python benchmarks/asynchronous.py                        # VGG-19 0.25x, CIFAR-10 shapes, B = 128: 10 minutes
    python benchmarks/asynchronous.py --network resnet50 --batch 32
    python benchmarks/asynchronous.py --split 6 --head aux4  # instead of the published and the best-balanced split

Every contender trains for real, batches and their augmentation included, and takes the same steps; what is quoted
is the median of the clock between the ends of two steps, after a warm-up. Contenders are fresh processes that take
turns, the median over rounds counts. Each process has one thread, except for backprop with two threads. DDP gives
each rank half of the batch; the pipelines cut the network at the same layer into two stages, four micro-batches a
step.

"limit" is what no queue can beat: greedy training on one core over the slower of the two blocks, from times of
layers taken apart in the same run (processor time, one thread, nothing else running).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from sedona_nb import data, layer_times, pipeline, runs, schedule, training
from sedona_nb.batches import BatchStream, DevicePictures
from sedona_nb.decoupling import Decoupling
from sedona_nb.devices import describe
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec
from sedona_nb.run_pictures import RunPictures
from sedona_nb.train_config import TrainConfig

CPU = torch.device("cpu")
WARM_UP = 10  # steps
MICROBATCHES = 4
TORCH = {"DDP, 2 ranks": "ddp", "GPipe, 2 stages": "gpipe", "1F1B, 2 stages": "1f1b"}


class Boundary(torch.autograd.Function):
    """Torch's pipelines send plain contiguous tensors only, both ways; stages compute in channels_last."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
        return g.contiguous()


class Stage(nn.Module):
    """Part of the network between boundaries."""

    def __init__(self, inside: nn.Module, first: bool):
        super().__init__()
        self.inside, self.first = inside, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.first else Boundary.apply(x)
        return Boundary.apply(self.inside(x.contiguous(memory_format=torch.channels_last)))


def spec_of(options: argparse.Namespace, decoupling: Decoupling, pictures: data.ImageData) -> RunSpec:
    config = TrainConfig(
        steps=options.steps, batch_size=options.batch, lr=0.01, held_out=0.01, evaluate_every=options.steps
    )
    network = NetworkConfig(options.network)
    method = "backprop" if decoupling.num_blocks == 1 else "sedona"
    return RunSpec(pictures.name, pictures.fingerprint, network, method, config, decoupling)


def timed(options: argparse.Namespace, step: Callable[[int], None]) -> float:
    """Seconds a step after the warm-up."""
    ends = []
    for number in range(options.steps):
        step(number)
        ends.append(time.perf_counter())
    return between(ends)


def between(ends: list[float]) -> float:
    """The median time between the ends of steps, which a burst of other work on the machine leaves alone."""
    ends = ends[WARM_UP - 1 :]
    return statistics.median(after - before for before, after in zip(ends, ends[1:], strict=False))


def serial(options: argparse.Namespace, decoupling: Decoupling) -> float:
    """All blocks in this process."""
    torch.set_num_threads(options.threads)
    pictures = data.load(options.data)
    spec = spec_of(options, decoupling, pictures)
    network = runs.build(spec, pictures).to(memory_format=torch.channels_last).train()
    optimizers = training.make_optimizers(network, spec.train)
    source = RunPictures(pictures, spec.train, 0, CPU)
    return timed(
        options,
        lambda number: training.train_step(network, optimizers, source.batch(number), 0.01, spec.train.loss),
    )


def asynchronous(options: argparse.Namespace, decoupling: Decoupling) -> float:
    """The suite's trainer; what its last block was through with when."""
    pictures = data.load(options.data)
    spec = spec_of(options, decoupling, pictures)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.train(spec, options.data, folder, options.depth, threads=1, timeline=True)
        rows = json.loads((Path(folder) / f"timeline-{decoupling.num_blocks}.json").read_text())
    return between([row[3] for row in rows if row[0] == "backward"])


def with_torch(options: argparse.Namespace, kind: str, decoupling: Decoupling) -> float | None:
    """One rank of DDP or of torch's pipelines; rank 0 has the seconds."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    pictures = data.load(options.data)
    spec = spec_of(options, Decoupling.backprop(decoupling.num_layers), pictures)
    whole = runs.build(spec, pictures).blocks[0]

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores, labels, label_smoothing=0.1)

    def source(batch_size: int) -> BatchStream:
        images = DevicePictures.prepare(pictures.train_images, CPU)
        return BatchStream(images, pictures.train_labels, None, batch_size, pictures.augmentation, rank, CPU)

    if kind == "ddp":
        model = nn.Sequential(whole.layers, whole.head).to(memory_format=torch.channels_last).train()
        model = DistributedDataParallel(model)
        sgd, stream = optimizer(model), source(options.batch // world)

        def step(number: int) -> None:
            images, labels = stream.batch(number)
            sgd.zero_grad(set_to_none=True)
            loss(model(images), labels).backward()
            sgd.step()

    else:
        (cut,) = decoupling.splits
        parts = [Stage(whole.layers[:cut], True), Stage(nn.Sequential(whole.layers[cut:], whole.head), False)]
        module = parts[rank].to(memory_format=torch.channels_last).train()
        sgd = optimizer(module)
        stage = PipelineStage(module, rank, world, CPU)
        plan = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[kind](stage, MICROBATCHES, loss_fn=loss)
        stream = source(options.batch)
        generator = torch.Generator().manual_seed(0)

        def step(number: int) -> None:
            sgd.zero_grad(set_to_none=True)
            if rank == 0:
                plan.step(stream.batch(number)[0])
            else:  # labels travel with nobody here: random ones cost the same
                plan.step(target=torch.randint(10, (options.batch,), generator=generator))
            sgd.step()

    seconds = timed(options, step)
    dist.barrier()
    dist.destroy_process_group()
    return seconds if rank == 0 else None


def child(options: argparse.Namespace, role: str, threads: int = 1, ranks: int = 1) -> float:
    """Run a contender in fresh processes and read its seconds."""
    command = [sys.executable, __file__, "--role", role, "--threads", str(threads)]
    for name in ("network", "batch", "steps", "data", "depth"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "SEDONA_HEADLESS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(pipeline_port()), "WORLD_SIZE": str(ranks)}
    children = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    printed = [one.communicate()[0] for one in children]
    if any(one.returncode for one in children):
        raise SystemExit(f"{role} failed")
    return json.loads(printed[0].splitlines()[-1])


def pipeline_port() -> int:
    """A port that nobody uses now."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def balanced(times: layer_times.LayerTimes) -> Decoupling:
    """The split and Aux head whose slower block is fastest."""
    layers = len(times.forward)
    every = [
        Decoupling(layers, (split,), (head,), "best balanced")
        for split in range(1, layers)
        for head in ("aux1", "aux2", "aux3", "aux4")
    ]
    return min(every, key=lambda one: max(block.training for block in times.of(one)))


def compare(options: argparse.Namespace, decouplings: list[Decoupling], times: layer_times.LayerTimes) -> None:
    """Let everybody take turns, and print."""
    layers = decouplings[0].num_layers
    one_block = Decoupling.backprop(layers).to_json()
    contenders: dict[str, tuple[str, int, int]] = {
        "backprop, 1 thread": (f"serial:{one_block}", 1, 1),
        "backprop, 2 threads": (f"serial:{one_block}", 2, 1),
    }
    for name, kind in TORCH.items():
        contenders[name] = (f"{kind}:{decouplings[0].to_json()}", 1, 2)
    for one in decouplings:
        contenders[f"greedy, 1 thread, {one.splits} {one.heads[0]}"] = (f"serial:{one.to_json()}", 1, 1)
        contenders[f"asynchronous, {one.splits} {one.heads[0]}"] = (f"asynchronous:{one.to_json()}", 1, 1)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds):
        for name, (role, threads, ranks) in contenders.items():
            found[name].append(child(options, role, threads, ranks))
            print(f"round {turn + 1}: {name} {found[name][-1]:.3f} s", file=sys.stderr)
    reference = found["backprop, 1 thread"]
    summary: dict = {"seconds": {}, "blocks": {}}
    for name, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(reference, seconds, strict=True))
        summary["seconds"][name] = statistics.median(seconds)
        print(f"{name:40s} {statistics.median(seconds):7.3f} s a step {ratio:6.2f} x backprop on one core")
    for one in decouplings:
        blocks = times.of(one)
        slowest = max(block.training for block in blocks)
        greedy = sum(block.training for block in blocks)
        tag = f"{one.splits} {one.heads[0]}"
        summary["blocks"][tag] = [block.training for block in blocks]
        ratios = [
            a / b for a, b in zip(found[f"greedy, 1 thread, {tag}"], found[f"asynchronous, {tag}"], strict=True)
        ]
        print(
            f"{tag}: blocks {', '.join(f'{block.training:.3f}' for block in blocks)} s; limit over greedy on one "
            f"core {greedy / slowest:.2f}, found {statistics.median(ratios):.2f} "
            f"({statistics.median(ratios) * slowest / greedy:.0%}); limit over backprop "
            f"{schedule.limit(blocks):.2f}"
        )

    if options.json:
        summary["protocol"] = protocol(options)
        Path(options.json).write_text(json.dumps(summary, indent=1) + "\n")


def protocol(options: argparse.Namespace) -> str:
    """What is measured, and where."""
    return (
        f"{options.network} 0.25x on {options.data}, B = {options.batch}, {options.steps} steps, {options.rounds} "
        f"rounds, queue depth {options.depth}, {describe(CPU)}, {os.cpu_count()} cores, torch {torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg19")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--data", default="cifar10-jpeg")
    parser.add_argument("--split", type=int)
    parser.add_argument("--head", default="aux4")
    parser.add_argument("--json", help="file for the numbers")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        kind, _, text = options.role.partition(":")
        decoupling = Decoupling.from_json(text)
        if kind in TORCH.values():
            seconds = with_torch(options, kind, decoupling)
        else:
            seconds = {"serial": serial, "asynchronous": asynchronous}[kind](options, decoupling)
        print(json.dumps(seconds))
        return
    torch.set_num_threads(1)
    times = layer_times.measure(
        NetworkConfig(options.network), 10, 32, 3, options.batch, rounds=5, clock=time.process_time
    )
    layers = len(times.forward)
    if options.split:
        decouplings = [Decoupling(layers, (options.split,), (options.head,))]
    else:
        decouplings = list(dict.fromkeys([Decoupling.published(options.network, 2), balanced(times)]))
    print(protocol(options))
    compare(options, decouplings, times)


if __name__ == "__main__":
    main()
