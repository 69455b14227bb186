"""The protocols "short" and "smoke" of each network, sizes and schedules; see `protocols`."""

from __future__ import annotations

import math
from dataclasses import replace

from sedona_nb import sequences
from sedona_nb.bilevel import InnerConfig
from sedona_nb.blocks import LocalLoss
from sedona_nb.networks import NetworkConfig
from sedona_nb.profiles import Profile
from sedona_nb.profiles import load as load_profile
from sedona_nb.protocols import FINGERPRINTS, Protocol, Setting
from sedona_nb.search_config import SearchConfig
from sedona_nb.train_config import TrainConfig

SIZES = {  # steps, batch size, held-out pictures; paper: 64,000, 128, 5,000
    "vgg19": (2_000, 64, 5_000),
    "resnet50": (1_500, 32, 2_000),
    "resnet18": (1_500, 64, 2_000),
    "transformer20": (600, 64, 1_000),
}
SEQUENCES = math.factorial(10) - sequences.TESTED  # to train on


def short(network: str) -> Protocol:
    """Minutes on a core; comments: the paper's values."""
    if network == "transformer20":
        return _sequences()
    steps, batch, held_out = SIZES[network]
    train = TrainConfig(
        steps=steps,
        batch_size=batch,
        held_out=held_out / 50_000,
        evaluate_every=250,  # not said; released code: 100
        train_pictures=held_out,
        alignment_every=50,
    )
    search = SearchConfig(
        pretrain_steps=400,  # 40,000
        snapshot_every=40,  # 80
        snapshot_batches=8,  # all of the validation set
        memory_size=10,  # 50
        outer_steps=100,  # 2,000
        outer_batch_size=256,  # not said; released code: 1,024
        outer_lr=0.05,  # 0.01, which 100 steps of Adam would turn into 1 at most
        inner=InnerConfig(batch_size=64, lr=0.05),  # 128, 0.1
    )
    profile = Profile("short", "cifar10-jpeg", NetworkConfig(network), search, train)
    tenth = steps // 10
    settings = tuple(Setting(lr, warmup) for lr in (0.1, 0.03) for warmup in (0, tenth))
    if network in ("resnet18", "resnet50"):  # VGG-19's methods all chose a warm-up, at a quarter of the cost
        settings = tuple(setting for setting in settings if setting.warmup_steps)
    return Protocol("short", profile, FINGERPRINTS[profile.data], settings=settings)


def _sequences() -> Protocol:
    """The poster's sequence task; it says 20 layers of one head, everything else is ours."""
    steps, batch, held_out = SIZES["transformer20"]
    train = TrainConfig(
        steps=steps,
        batch_size=batch,
        held_out=held_out / SEQUENCES,
        evaluate_every=25,
        optimizer="adam",
        lr_min=1e-5,
        loss=LocalLoss(smoothing=0.0),
    )
    network = NetworkConfig("transformer20")
    profile = Profile("short", sequences.NAME, network, load_profile("smoke").search, train)
    settings = tuple(Setting(lr, steps // 10) for lr in (1e-3, 3e-4))
    return Protocol("short", profile, sequences.fingerprint(), settings=settings)


def smoke(network: str) -> Protocol:
    """Seconds, on digits: what tests and first tries need."""
    smoke = load_profile("smoke")
    if network == "transformer20":
        made = _sequences()
        train = replace(made.profile.train, steps=20, evaluate_every=10, held_out=100 / SEQUENCES)
        profile = replace(smoke, network=NetworkConfig(network, 1 / 32), train=train, data=made.profile.data)
        return replace(made, name="smoke", profile=profile, seeds=(0, 1), settings=(Setting(1e-3, 0),))
    train = replace(smoke.train, steps=20, batch_size=32, train_pictures=100, alignment_every=5)
    profile = replace(smoke, network=NetworkConfig(network, 1 / 32), train=train)
    return Protocol("smoke", profile, FINGERPRINTS["digits"], seeds=(0, 1), settings=(Setting(0.05, 0),))
