"""Specs and records as plain JSON: every number of every table is one record, found by the hash of its spec."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from sedona_nb.block_local import BlockLocalConfig
from sedona_nb.decoding import decode
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import NO_HEAD, HeadConfig
from sedona_nb.networks import NetworkConfig
from sedona_nb.provenance import Provenance
from sedona_nb.search_config import LATER, SearchConfig
from sedona_nb.train_config import TrainConfig

FORMAT = 1  # of the record files; raised when a field changes its meaning
HEADLESS = ("features-replay", "block-local")  # methods whose blocks have no auxiliary heads
METHODS = ("backprop", "predsim", "dgl", "sedona", "given", "continuous", "feedback-alignment", *HEADLESS)
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SearchSpec:
    """What fixes the outcome of a search."""

    data: str  # the data set's name as shown, e.g. "cifar10-jpeg"
    fingerprint: str  # of its pictures
    network: NetworkConfig
    search: SearchConfig
    heads: HeadConfig = field(default_factory=HeadConfig)
    seed: int = 0


@dataclass(frozen=True)
class RunSpec:
    """What fixes the outcome of a training run.

    `decoupling` says where to cut; only method "continuous" has none, and `alpha` and `beta` instead.
    """

    data: str
    fingerprint: str
    network: NetworkConfig
    method: str
    train: TrainConfig
    decoupling: Decoupling | None = None
    alpha: Rows | None = None
    beta: Rows | None = None
    heads: HeadConfig = field(default_factory=HeadConfig)
    seed: int = 0
    block_local: BlockLocalConfig | None = field(default=None, metadata=LATER)  # of method "block-local" alone

    def __post_init__(self) -> None:
        choose(self.method, METHODS, "method")
        if (self.method == "continuous") != (self.decoupling is None) or (self.alpha is None) != (
            self.beta is None
        ):
            raise SedonaError('method "continuous" needs alpha and beta, every other method a decoupling')
        heads = set(self.decoupling.heads) if self.decoupling else set()
        wrong = heads - {NO_HEAD} if self.method in HEADLESS else heads & {NO_HEAD}
        if wrong:
            raise SedonaError(
                f'heads are {", ".join(sorted(heads))}; allowed: all "{NO_HEAD}" with methods '
                f"{', '.join(HEADLESS)}, and with no other"
            )
        if (self.method == "block-local") != (self.block_local is not None):
            raise SedonaError(
                'method "block-local" needs block_local, its own settings, and no other method has them'
            )


@dataclass(frozen=True)
class TimingSpec:
    """What is timed: every kind of layer and head of a network, see `layer_times`; its record says where."""

    network: NetworkConfig
    num_classes: int
    image_size: int
    batch_size: int
    in_channels: int = 3
    device: str = "cpu"  # its type; on a CPU with one thread, in processor time
    heads: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True)
class SearchTimingSpec:
    """What is timed: the pieces of a search, see `search_times`; its record says where."""

    network: NetworkConfig
    num_classes: int
    image_size: int
    batch_size: int
    outer_batch_size: int
    inner_steps: tuple[int, ...] = (1, 5)  # hypergradients go through so many
    in_channels: int = 3
    backend: str = "adjoint"
    device: str = "cpu"  # its type; on a CPU with one thread, in processor time
    heads: HeadConfig = field(default_factory=HeadConfig)


Timing = TimingSpec | SearchTimingSpec
Spec = SearchSpec | RunSpec | Timing
KINDS = {"search": SearchSpec, "training": RunSpec, "timing": TimingSpec, "search timing": SearchTimingSpec}


@dataclass(frozen=True)
class Record:
    """A spec, what came out (plain JSON), and where."""

    spec: Spec
    result: dict[str, Any]
    provenance: Provenance

    @property
    def diverged(self) -> str:
        """Which loss of a training run stopped being finite, and when; else "". Such a run has no errors."""
        return self.result.get("diverged", "")

    def to_json(self) -> str:
        """The file's text."""
        (kind,) = (name for name, spec_class in KINDS.items() if type(self.spec) is spec_class)
        content = {
            "format": FORMAT,
            "kind": kind,
            "spec": dataclasses.asdict(self.spec),
            "result": self.result,
            "provenance": dataclasses.asdict(self.provenance),
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        # A row of numbers is one line, not one a number; strings have no line breaks of their own in JSON.
        return re.sub(r"\[\n([-+.\deE,\s]+)\]", lambda row: f"[{' '.join(row[1].split())}]", text)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record of a file's text.

        Raises:
            SedonaError: not JSON, another format, or fields missing or unknown.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise SedonaError(f"not JSON ({error})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise SedonaError(f"record format {found!r}; this version reads format {FORMAT}")
        try:
            spec_class = KINDS[choose(content["kind"], KINDS, "kind of record")]
            return cls(
                decode(spec_class, content["spec"]), content["result"], decode(Provenance, content["provenance"])
            )
        except KeyError as error:
            raise SedonaError(f"field {error} is missing") from None


def spec_hash(spec: Spec) -> str:
    """12 hexadecimal digits that depend on what `spec` asks for.

    Where its decoupling is said to come from does not count, nor which backend computes a search's gradient: all
    of them give the same. Fields that were added later count where they differ from their default, so that records
    of before keep their names.
    """
    content = _without_later_defaults(spec)
    if content.get("decoupling"):
        del content["decoupling"]["source"]
    content.get("search", {}).pop("backend", None)
    text = json.dumps([FORMAT, type(spec).__name__, content], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_later_defaults(value: Any) -> Any:
    """As `dataclasses.asdict`, but without fields marked "later" that have their default."""
    if not dataclasses.is_dataclass(value):
        return value
    pairs = ((part, getattr(value, part.name)) for part in dataclasses.fields(value))
    return {
        part.name: _without_later_defaults(one)
        for part, one in pairs
        if not (part.metadata.get("later") and one == part.default)
    }


def differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two dataclasses differ, by name ("inner.lr"), with both values."""
    found = {}
    for field_ in dataclasses.fields(one):
        values = getattr(one, field_.name), getattr(other, field_.name)
        if all(map(dataclasses.is_dataclass, values)):
            inner = differences(*values)
            found |= {f"{field_.name}.{name}": pair for name, pair in inner.items()}
        elif values[0] != values[1]:
            found[field_.name] = values
    return found


def protocol(spec: Spec) -> str:
    """One line for captions: what ran, on what, for how long."""
    network = f"{spec.network.name} {spec.network.width:g}x"
    if isinstance(spec, Timing):
        shape = f"{network}, {spec.in_channels}x{spec.image_size}x{spec.image_size}, batch {spec.batch_size}"
        if isinstance(spec, TimingSpec):
            return shape
        return f"{shape}, validation batch {spec.outer_batch_size}, backend {spec.backend}"
    if isinstance(spec, SearchSpec):
        config = spec.search
        return (
            f"{network}, {spec.data}, {config.pretrain_steps:,} pretraining steps, {config.outer_steps:,} outer "
            f"steps, T = {config.inner.steps}, batch {config.inner.batch_size}, objective {config.objective}"
        )
    config = spec.train
    warmup = f" after {config.warmup_steps} of warm-up" if config.warmup_steps else ""
    warmup += f", a tenth every {config.decay_every:,}" if config.decay_every else ""
    precision = "" if config.precision == "float32" else f", {config.precision}"
    return (
        f"{network}, {spec.data}, {config.steps:,} steps of {config.batch_size}, "
        f"{config.optimizer} rate {config.lr:g}{warmup}{precision}"
    )
