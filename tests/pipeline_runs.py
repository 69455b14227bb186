"""Small asynchronous runs for the tests: what to train, what the serial trainer gives, how to disturb them."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from sedona_nb import data, runs, training
from sedona_nb.blocks import BlockNetwork
from sedona_nb.decoupling import Decoupling
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import RunSpec
from sedona_nb.train_config import TrainConfig

LAYERS = 8
CONFIG = TrainConfig(
    steps=13, batch_size=32, lr=0.05, warmup_steps=3, evaluate_every=5, padding=2, train_pictures=70
)


def spec_of(blocks: int, **changes) -> RunSpec:
    """VGG-11 on digits with dropout, BatchNorm, augmentation, warm-up and cosine."""
    pictures = data.load("digits")
    network = NetworkConfig("vgg11", 0.125, dropout=0.3)
    decoupling = Decoupling.uniform(LAYERS, blocks, head="aux2")
    return RunSpec(
        pictures.name, pictures.fingerprint, network, "given", replace(CONFIG, **changes), decoupling, seed=3
    )


def serial(spec: RunSpec) -> tuple[training.TrainOutcome, BlockNetwork]:
    """What the serial trainer gives, and the trained network."""
    pictures = data.load("digits")
    network = runs.build(spec, pictures)
    return training.train(network, pictures, spec.train, spec.seed), network


def same(one: training.TrainOutcome, other: training.TrainOutcome) -> bool:
    return (one.curve, one.best, one.last) == (other.curve, other.best, other.last)


def workers(folder: Path) -> list[psutil.Process]:
    """Processes of the run in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


def kill_one(folder: Path, blocks: int, delay: float, killed: list[int]) -> None:
    """kill -9 a random worker some time after the first complete checkpoint."""
    while len(list(folder.glob("block-*/step-*.pt"))) < blocks:
        time.sleep(0.005)
    time.sleep(delay)
    victim = random.choice(workers(folder))
    killed.append(int(victim.environ()["RANK"]))
    victim.kill()


def node(spec: Path, folder: Path, port: int, rank: int, nodes: int, *more: str) -> subprocess.Popen:
    """torchrun for one process, as on a machine of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", str(nodes), "--node-rank", str(rank), "--nproc-per-node", "1"),
            *("--master-addr", "127.0.0.1", "--master-port", str(port)),
            *("-m", "sedona_nb.pipeline", "--spec", str(spec), "--data", "digits", "--folder", str(folder)),
            *("--device", "cpu", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
