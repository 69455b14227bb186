"""What "ours" stands for in a table: pictures, network, schedule, seeds, and how a method got its learning rate.

    short = protocols.load("short", "vgg19")
    short.spec("dgl", seed=0, setting=short.settings[1])

"paper": Appendix E letter by letter, and nothing to choose: rate 0.1, no warm-up. "short": what two CPU cores
reach in minutes a run. A short schedule at the paper's rate is not neutral: backprop through a VGG-19 is still
near chance after 2,000 steps at 0.1, where a network in four blocks has long started to learn. So under "short"
every method gets the same small budget: it is trained once with each of a few settings, with a seed that no table
uses, and the setting with the lowest validation error (`chosen`) is the method's for all seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sedona_nb import methods
from sedona_nb.data import Pictures
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.places import home
from sedona_nb.profiles import Profile
from sedona_nb.profiles import load as load_profile
from sedona_nb.records import RunSpec, SearchSpec
from sedona_nb.runs import RunStore
from sedona_nb.search_config import SearchResult

NAMES = ("short", "paper", "smoke")
NUM_LAYERS = {
    "vgg11": 8,
    "vgg19": 16,
    "resnet18": 8,
    "resnet50": 16,
    "resnet101": 33,
    "resnet152": 50,
    "transformer20": 20,
}
# Of the pictures in the records of this repository, of scikit-learn's, and of Zalando's with a border to 32x32.
FINGERPRINTS = {
    "cifar10-jpeg": "84b4120a6f84dc0a",
    "digits": "27c6215336539eaa",
    "fashion-mnist": "26de4164e1f5cb9c",
}
UNPRINTED = ("vgg11", "resnet18", "transformer20")  # networks that SEDONA's paper does not have
BLOCKWISE = (
    "predsim",
    "dgl",
    "sedona",
    "given",
)  # methods whose gradients `alignment` can compare with backprop's
# Decouplings that nobody tuned take the setting of SEDONA's published one, which is one like them.
TUNED_AS = {"given": "sedona"}


class PictureName(NamedTuple):
    """A data set as specs know it."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Setting:
    """What a method may choose for itself under a short schedule."""

    lr: float
    warmup_steps: int

    def __str__(self) -> str:
        return f"rate {self.lr:g}, warm-up {self.warmup_steps}"


@dataclass(frozen=True)
class Protocol:
    """Everything that runs of one table have in common.

    Attributes:
        name: one of `NAMES`.
        profile: data, network, schedule, search, K.
        fingerprint: of the pictures; "": not known here, so that no record fits.
        seeds: of the runs that count.
        settings: what a method may choose; one: nothing to choose.
        tuning_seed: of the runs that choose.
    """

    name: str
    profile: Profile
    fingerprint: str
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[Setting, ...] = field(default=(Setting(0.1, 0),))
    tuning_seed: int = 100

    @property
    def num_layers(self) -> int:
        """L of the network."""
        return NUM_LAYERS[self.profile.network.name]

    @property
    def label(self) -> str:
        """One line for captions: what ran, but for what the method chose."""
        return f"{self.profile.protocol}, {self.profile.data}"

    @property
    def pictures(self) -> PictureName:
        """What specs say about the pictures."""
        return PictureName(self.profile.data, self.fingerprint)

    def on(self, pictures: Pictures) -> Protocol:
        """The same with other pictures, under their own name."""
        return replace(self, profile=replace(self.profile, data=pictures.name), fingerprint=pictures.fingerprint)

    def spec(
        self,
        method: str,
        seed: int,
        setting: Setting,
        num_blocks: int = 4,
        decoupling: Decoupling | None = None,
        found: SearchResult | None = None,
    ) -> RunSpec:
        """The run of `method`; arguments as in `methods.run_spec`."""
        train = replace(self.profile.train, lr=setting.lr, warmup_steps=setting.warmup_steps)
        if method not in BLOCKWISE:
            train = replace(train, alignment_every=0)
        profile = replace(self.profile, train=train, num_blocks=num_blocks)
        return methods.run_spec(method, profile, self.pictures, self.num_layers, seed, found, decoupling)

    def search(self, seed: int, **changes: object) -> SearchSpec:
        """The search, or with `changes` of its `SearchConfig` a variant of it."""
        profile = replace(self.profile, search=replace(self.profile.search, **changes))
        return methods.search_spec(profile, self.pictures, seed)

    def tuning(self, method: str, found: SearchResult | None = None) -> dict[Setting, RunSpec]:
        """The runs that decide about the setting of `method`; none where there is nothing to choose.

        `found`: of the search with the first seed, for "continuous"; "sedona" is tuned as published.
        """
        if len(self.settings) == 1:
            return {}
        method = TUNED_AS.get(method, method)
        plain = replace(self.profile, train=replace(self.profile.train, train_pictures=0, alignment_every=0))
        cut = Decoupling.published(self.profile.network.name, 4) if method == "sedona" else None
        own = replace(self, profile=plain)
        return {s: own.spec(method, self.tuning_seed, s, 4, cut, found) for s in self.settings}


def chosen(protocol: Protocol, method: str, store: RunStore, found: SearchResult | None = None) -> Setting | None:
    """The setting with which `method` runs: that of its `Protocol.tuning` run with the lowest validation error.

    The earliest among equals; the test pictures have no say. None: some of these runs have no record yet.
    """
    if len(protocol.settings) == 1:
        return protocol.settings[0]
    errors = {}
    for setting, spec in protocol.tuning(method, found).items():
        record = store.load(spec)
        if record is None:
            return None
        errors[setting] = record.result["best"]["validation"]["top1"]
    return min(errors, key=errors.__getitem__)


def load(name: str, network: str = "vgg19", store: RunStore | None = None, data: str | None = None) -> Protocol:
    """The protocol `name` with one of the networks of the two sources.

    Args:
        name: one of `NAMES`.
        network: one of the paper's; "short" and "smoke" are made for those in `short_protocols.SIZES`.
        store: where "paper" looks up what CIFAR-10's fingerprint is; without one, or without a record of these
            pictures, no record fits until `Protocol.on` says it.
        data: name of other pictures than the protocol's own; if `FINGERPRINTS` does not know them, no record fits
            until `Protocol.on`.

    Raises:
        SedonaError: an unknown name, or a network for which the protocol is not made.
    """
    choose(name, NAMES, "protocol")
    if name == "paper":
        choose(network, tuple(n for n in NUM_LAYERS if n not in UNPRINTED), "network")
        records = store.records() if store else []
        known = {r.spec.fingerprint for r in records if getattr(r.spec, "data", "") == "cifar10"}
        if len(known) > 1:
            raise SedonaError(f"{store.folder} has records of {len(known)} different cifar10; allowed: of one")
        made = Protocol(name, load_profile("paper", network=network), next(iter(known), ""))
    else:
        from sedona_nb import short_protocols  # which makes some of these

        choose(network, short_protocols.SIZES, f"network for protocol {name!r}")
        made = {"short": short_protocols.short, "smoke": short_protocols.smoke}[name](network)
        folders = {part: home() / getattr(made.profile, part) for part in ("results", "figures")}
        made = replace(made, profile=replace(made.profile, **folders))
    if data in (None, made.profile.data):
        return made
    return replace(made, profile=replace(made.profile, data=data), fingerprint=FINGERPRINTS.get(data, ""))
