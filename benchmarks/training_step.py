"""Time of a training step of VGG-19 (0.25x, batch 128, CIFAR-10 shapes), ours against the plainest PyTorch loop.

    python benchmarks/training_step.py [--threads 2] [--rounds 15] [--network vgg19]

Plain: a contiguous network and `torch.optim.SGD`, fed either with one ready-made batch over and over (no data
pipeline at all) or by a DataLoader with torchvision's transforms in the same process. Ours: `training.train_step`
on batches of `BatchStream`. All take turns in one process, so that a slow minute of the machine hits
all alike; the median over the rounds counts. Random pictures: only shapes matter for time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sedona_nb.augmentation import CIFAR10
from sedona_nb.batches import BatchStream
from sedona_nb.blocks import LocalLoss, decouple
from sedona_nb.decoupling import Decoupling
from sedona_nb.devices import describe
from sedona_nb.networks import NETWORKS, build_network
from sedona_nb.training import TrainConfig, make_optimizers, train_step

BATCH = 128


class Pictures(Dataset):
    """Pictures one at a time through torchvision's transforms, as most training scripts have them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(CIFAR10.mean, CIFAR10.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def endless(loader: DataLoader) -> Iterator[list[torch.Tensor]]:
    while True:
        yield from loader


def plain_loop(network: str, batches: Iterator) -> Callable[[], None]:
    """The loop of a tutorial."""
    model = build_network(network, 0.25).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def our_loop(network: str, stream: BatchStream) -> Callable[[], None]:
    """The package's step under backpropagation (one block)."""
    base = build_network(network, 0.25)
    blocks = decouple(base, Decoupling.backprop(base.num_layers), 10, 0.25).to(memory_format=torch.channels_last)
    blocks.train()
    config = TrainConfig()
    optimizers = make_optimizers(blocks, config)
    numbers = iter(range(10**9))

    def step() -> None:
        train_step(blocks, optimizers, stream.batch(next(numbers)), 0.1, LocalLoss())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--network", choices=NETWORKS, default="vgg19")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.randint(256, (10_000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (10_000,))
    stream = BatchStream(images, labels, None, BATCH, CIFAR10, seed=0)
    ready = (torch.randn(BATCH, 3, 32, 32), labels[:BATCH])
    loader = endless(DataLoader(Pictures(images, labels), BATCH, shuffle=True, drop_last=True))
    numbers = iter(range(10**9))
    contenders: dict[str, Callable[[], object]] = {
        "plain loop, one ready-made batch": plain_loop(options.network, iter(lambda: ready, None)),
        "plain loop, DataLoader and transforms": plain_loop(options.network, loader),
        "ours, augmentation included": our_loop(options.network, stream),
        "ours, making a batch": lambda: stream.batch(next(numbers)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds + 2):
        for name, step in contenders.items():
            began = time.perf_counter()
            step()
            if turn >= 2:  # the first rounds warm caches and choose kernels
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians["ours, augmentation included"]
    print(f"{options.network} 0.25x, batch {BATCH}, {describe(torch.device('cpu'))}, torch {torch.__version__}")
    for name, value in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        spread = f"({1000 * low:.1f} to {1000 * high:.1f})"
        print(f"{name:40s} {1000 * value:7.1f} ms {spread}, {value / ours:5.2f} of ours")
    print(f"data share of a step: {100 * medians['ours, making a batch'] / ours:.1f} %")


if __name__ == "__main__":
    main()
