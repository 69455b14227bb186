"""Which pictures a protocol has that names them without knowing them: those of the records made under it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sedona_nb.errors import SedonaError
from sedona_nb.profiles import Profile
from sedona_nb.records import Record, RunSpec, SearchSpec


class PictureName(NamedTuple):
    """A data set as specs know it."""

    name: str
    fingerprint: str


def of_the_paper(profile: Profile, records: Iterable[Record]) -> PictureName:
    """The pictures of the paper's runs on CIFAR-10 in `records`: the original, else the same as JPEG files.

    Returns:
        their name and fingerprint; the profile's name and "": no record knows.

    Raises:
        SedonaError: records of different pictures under one name.
    """
    known: dict[str, set[str]] = {"cifar10": set(), "cifar10-jpeg": set()}
    for spec in (record.spec for record in records):
        name = getattr(spec, "data", "")
        if name == "cifar10" or (name in known and _as_long(profile, spec)):
            known[name].add(spec.fingerprint)
    for name, fingerprints in known.items():
        if len(fingerprints) > 1:
            raise SedonaError(f"there are records of {len(fingerprints)} different {name}; allowed: of one")
        if fingerprints:
            return PictureName(name, *fingerprints)
    return PictureName(profile.data, "")


def fingerprint(profile: Profile, records: Iterable[Record]) -> str:
    """Of the profile's pictures, as training runs of its width and length in `records` have it; "": not known."""
    runs = [record.spec for record in records if isinstance(record.spec, RunSpec)]
    fitting = [s for s in runs if (s.data, s.network.width) == (profile.data, profile.network.width)]
    known = {spec.fingerprint for spec in fitting if _as_long(profile, spec)}
    return known.pop() if len(known) == 1 else ""


def _as_long(profile: Profile, spec: RunSpec | SearchSpec) -> bool:
    if isinstance(spec, SearchSpec):
        return spec.search.outer_steps == profile.search.outer_steps
    return (spec.train.steps, spec.train.batch_size) == (profile.train.steps, profile.train.batch_size)
