"""One dial: "smoke", "small" or "paper" sets every size. Where a profile shrinks one, a comment has the paper's.

    cfg = profiles.load("small", data="cifar10")

smoke: seconds; what tests and CI run. small: minutes on two cores; real search and training, too short to compare
with the paper's numbers. paper: the paper's protocol on CIFAR-10; needs a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from sedona_nb.bilevel import InnerConfig
from sedona_nb.errors import choose
from sedona_nb.heads import HeadConfig
from sedona_nb.networks import NetworkConfig
from sedona_nb.places import home
from sedona_nb.search_config import SearchConfig
from sedona_nb.train_config import TrainConfig


@dataclass(frozen=True)
class Profile:
    """All sizes of a run of the suite."""

    name: str
    data: str  # name or path, as `data.load` takes it
    network: NetworkConfig
    search: SearchConfig
    train: TrainConfig
    num_blocks: int = 4  # K of Table 2
    heads: HeadConfig = field(default_factory=HeadConfig)
    results: Path = Path("results")  # where records are kept
    figures: Path = Path("figures")  # where figures are written

    @property
    def protocol(self) -> str:
        """One line: what this profile trains."""
        train = self.train
        return f"{self.network.name} {self.network.width:g}x, {train.steps:,} steps of {train.batch_size}"


SMOKE = Profile(
    name="smoke",
    data="digits",
    network=NetworkConfig("vgg11", width=1 / 16),  # paper: vgg19, 0.25
    search=SearchConfig(
        pretrain_steps=24,  # paper: 40,000
        snapshot_every=6,  # paper: 80
        memory_size=3,  # paper: 50
        outer_steps=4,  # paper: 2,000
        outer_batch_size=128,  # paper: 1,024
        inner=InnerConfig(steps=2, batch_size=32, lr=0.05),  # paper: 5, 128, 0.1
    ),
    train=TrainConfig(steps=40, batch_size=64, lr=0.05, evaluate_every=10),  # paper: 64,000, 128, 0.1, every 100
    results=Path("build/smoke/results"),
    figures=Path("build/smoke/figures"),
)
SMALL = Profile(
    name="small",
    data="digits",
    network=NetworkConfig("vgg11", width=0.25),  # paper: vgg19
    search=SearchConfig(
        pretrain_steps=300,  # paper: 40,000
        snapshot_every=20,  # paper: 80
        snapshot_batches=8,  # paper: all of the validation set
        memory_size=10,  # paper: 50
        outer_steps=30,  # paper: 2,000
        outer_batch_size=256,  # paper: 1,024
        outer_lr=0.05,  # paper: 0.01, which 30 steps of Adam would turn into 0.3 at most
        inner=InnerConfig(steps=3, batch_size=64, lr=0.05),  # paper: 5, 128, 0.1
    ),
    train=TrainConfig(
        steps=600, batch_size=128, lr=0.05, warmup_steps=50, evaluate_every=50
    ),  # paper: 64,000, 0.1
)
PAPER = Profile(
    name="paper",
    data="cifar10",
    network=NetworkConfig("vgg19"),
    search=SearchConfig(),
    train=TrainConfig(train_pictures=45_000),
)
PROFILES = {profile.name: profile for profile in (SMOKE, SMALL, PAPER)}


def load(name: str = "smoke", data: str | None = None, network: str | None = None) -> Profile:
    """The profile `name`, on other data or with another network if asked for.

    Args:
        name: "smoke", "small" or "paper".
        data: a data set's name or path, as `data.load` takes it; "" or None leaves the profile's.
        network: one of `networks.NETWORKS`; "" or None leaves the profile's. ResNet-152 comes with its own weight
            decay (Appendix E.2).

    Raises:
        SedonaError: an unknown profile or network.
    """
    profile = PROFILES[choose(name, PROFILES, "profile")]
    if data:
        profile = replace(profile, data=data)
    if network:
        profile = replace(profile, network=replace(profile.network, name=network))
    if profile.network.name == "resnet152":
        profile = replace(profile, train=replace(profile.train, weight_decay=2e-4))
    return replace(profile, results=home() / profile.results, figures=home() / profile.figures)
