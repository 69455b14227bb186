"""What a grid of runs will take before it starts, judged by recorded runs.

    print(estimates.text(grid, devices.resolve("cpu"), workers=2, price=0.4))

A run's seconds are its work, counted on shapes (`work`), times the seconds that a unit of it took in records made
on the same device: the median of the records that are most like the run. Left out one after another, records of an
otherwise idle machine are estimated within a factor of 1.4 by others of their network. A run that has to share its
core takes longer. Where this device has no records, those of another of its type count, a GPU's for a GPU, a CPU's
for a CPU, and the text names it. Where nothing like a run is recorded there is no estimate, and the text says so.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from sedona_nb import plans, work
from sedona_nb.data import Pictures
from sedona_nb.devices import describe
from sedona_nb.grid import Grid
from sedona_nb.provenance import Provenance
from sedona_nb.records import Record, RunSpec, SearchSpec, Spec, Timing, spec_hash


@dataclass(frozen=True)
class Estimate:
    """Seconds that a run will take, from what that is known, and whether it is known of another device only."""

    seconds: float
    basis: str
    elsewhere: bool = False


@dataclass(frozen=True)
class _Pace:
    """What a record says about others: seconds a unit of work."""

    spec: RunSpec | SearchSpec
    step: float  # units of one of its steps
    rate: float
    place: str  # the device, as its record describes it
    threads: int


def estimate(
    spec: Spec, records: Sequence[Record], device: torch.device, pictures: Pictures | None = None
) -> Estimate | None:
    """What `spec` will take on `device`, of which PyTorch's present number of threads is a part.

    Records of the same network and method count, else of the same network, else of the network whose steps are
    most nearly as much work; always in the same precision, searches for searches. On the same device, else on that
    device of its type (with as many threads, if there is one) of which there are most records.

    Args:
        spec: of a training run or a search.
        records: to judge by; a record of `spec` itself is one of them like any other.
        device: where it would run.
        pictures: of data sets that are not known by name.

    Returns:
        None: no record to judge by, or sizes of the pictures that are not known.
    """
    return _from(spec, _paces(records, device, pictures), device, pictures)


def text(
    grid: Grid,
    device: torch.device,
    workers: int = 1,
    price: float | None = None,
    pictures: Pictures | None = None,
) -> str:
    """A table: what is to do for each experiment of `grid`, how long it takes, and what it costs.

    Args:
        grid: the runs; those with a record take nothing, those begun count in full, those that wait for records of
            others count as `plans.complete` assumes them.
        device: of each worker.
        workers: runs at a time.
        price: of an hour of a device.
        pictures: as for `estimate`.

    Raises:
        SedonaError: a file of the store that is no record.
    """
    paces = _paces(grid.store.records(), device, pictures)
    whole = plans.complete(grid)
    found: dict[str, tuple[Spec, Estimate | None]] = {}
    lines = [f"{'experiment':<12}{'runs to do':>12}{'hours':>10}   on {describe(device)}"]
    for name in grid.names:
        to_do = {spec_hash(spec): spec for spec in whole.open(name)}
        found.update(
            {key: (spec, _from(spec, paces, device, pictures)) for key, spec in to_do.items() if key not in found}
        )
        lines.append(_row(name, [found[key][1] for key in to_do]))
    if len(grid.names) > 1:
        lines.append(_row("each once", [one for _, one in found.values()]))
    known = [one.seconds for _, one in found.values() if one is not None]
    if known:
        lines += ["", _in_all(known, workers, price), "judged by", *_bases(found.values())]
    foreign = sum(one.elsewhere for _, one in found.values() if one is not None)
    if foreign:
        lines.append(
            f"no records of this device for {_runs(foreign)}: they count as on the device named with them"
        )
    unknown = [spec for spec, one in found.values() if one is None]
    if unknown:
        kinds = ", ".join(sorted({_kind(spec) for spec in unknown}))
        lines.append(f"no basis for {_runs(len(unknown))}, not counted: {kinds}")
    assumed = len(found.keys() - {spec_hash(spec) for spec in grid.open()})
    if assumed:
        lines.append(
            f"{_runs(assumed)} of these wait for records of others: rates and cuts are assumed, not times"
        )
    return "\n".join(lines)


def elapsed(seconds: Iterable[float], workers: int) -> float:
    """From start to end if each worker takes the next run as soon as it is free."""
    busy = [0.0] * workers
    for one in seconds:
        first = min(range(workers), key=busy.__getitem__)
        busy[first] += one
    return max(busy)


# -- pieces ------------------------------------------------------------------------------------------------------


def _paces(records: Iterable[Record], device: torch.device, pictures: Pictures | None) -> list[_Pace]:
    paces = []
    for record in records:
        if record.diverged:
            continue  # it ended early
        spec, origin = record.spec, record.provenance
        sizes = None if isinstance(spec, Timing) else work.sizes(spec.data, pictures)
        if sizes is not None and re.match(rf"{device.type}\b", origin.device) and origin.seconds > 0:
            rate = undisturbed(origin) / work.of(spec, sizes)
            paces.append(_Pace(spec, work.step(spec, sizes), rate, origin.device, origin.threads))
    return paces


def _nearest(paces: Sequence[_Pace], device: torch.device) -> list[_Pace]:
    """Those of one device: of `device`, else of the one that says most about it."""
    counts = Counter(pace.place for pace in paces)
    here, threads = describe(device), torch.get_num_threads()
    best = max(paces, key=lambda pace: (pace.place == here, pace.threads == threads, counts[pace.place]))
    return [pace for pace in paces if pace.place == best.place]


def undisturbed(origin: Provenance) -> float:
    """Seconds that the run would have taken on an idle machine, where its record tells: on one thread of a CPU."""
    if origin.threads == 1 and origin.device.startswith("cpu") and origin.processor_seconds:
        return origin.processor_seconds
    return origin.seconds


def _from(spec: Spec, paces: Sequence[_Pace], device: torch.device, pictures: Pictures | None) -> Estimate | None:
    sizes = None if isinstance(spec, Timing) else work.sizes(spec.data, pictures)
    paces = [pace for pace in paces if _manner(pace.spec) == _manner(spec)]
    if sizes is None or not paces:
        return None
    paces = _nearest(paces, device)
    same = [pace for pace in paces if pace.spec.network == spec.network]
    alike = [pace for pace in same if _method(pace.spec) == _method(spec)]
    named, scaled = _kind(spec), ""
    if not same:
        step = work.step(spec, sizes)
        nearest = min(paces, key=lambda pace: abs(math.log(pace.step / step))).spec.network
        same = [pace for pace in paces if pace.spec.network == nearest]
        named, scaled = f"another network, {_network(same[0].spec)}", ", scaled by operations"
    elif not alike:
        named, scaled = _network(spec), ", scaled by operations"
    chosen = alike or same
    rate = statistics.median_low(pace.rate for pace in chosen)  # other programs only ever make a run slower
    plural = "s"[: len(chosen) > 1]
    elsewhere = chosen[0].place != describe(device)
    place = f", made on {chosen[0].place}" if elsewhere else ""
    basis = f"{len(chosen)} record{plural} of {named}{scaled}{place}"
    return Estimate(rate * work.of(spec, sizes), basis, elsewhere)


def _manner(spec: Spec) -> tuple[str, ...]:
    """What must be the same for a record to say anything."""
    if isinstance(spec, SearchSpec):
        return "search", spec.search.backend, spec.search.precision
    return ("training", spec.train.precision) if isinstance(spec, RunSpec) else ("timing",)


def _method(spec: RunSpec | SearchSpec) -> str:
    return f"search, objective {spec.search.objective}" if isinstance(spec, SearchSpec) else spec.method


def _network(spec: Spec) -> str:
    return f"{spec.network.name} {spec.network.width:g}x"


def _kind(spec: RunSpec | SearchSpec) -> str:
    return f"{_network(spec)} {_method(spec)}"


def _runs(count: int) -> str:
    return f"{count} run{'s'[: count != 1]}"


def _row(name: str, found: Sequence[Estimate | None]) -> str:
    known = [one.seconds for one in found if one is not None]
    hours = f"{sum(known) / 3600:.2f}" if known or not found else "-"
    more = f" + {len(found) - len(known)} unknown" if known and len(known) < len(found) else ""
    return f"{name:<12}{len(found):>12}{hours:>10}{more}"


def _in_all(seconds: Sequence[float], workers: int, price: float | None) -> str:
    parts = [f"one after another {sum(seconds) / 3600:.2f} h"]
    if workers > 1:
        parts.append(f"with {workers} workers {elapsed(seconds, workers) / 3600:.2f} h")
    if price is not None:
        parts.append(
            f"cost {price * sum(seconds) / 3600:.2f} at {price:g} an hour of a device that runs one at a time"
        )
    return "; ".join(parts)


def _bases(found: Iterable[tuple[Spec, Estimate | None]]) -> list[str]:
    """A line for each kind of run and basis."""
    groups: dict[tuple[str, str], list[float]] = {}
    for spec, one in found:
        if one is not None:
            groups.setdefault((_kind(spec), one.basis), []).append(one.seconds)
    return [
        f"  {kind}, {_runs(len(seconds))}, {sum(seconds) / 3600:.2f} h: {basis}"
        for (kind, basis), seconds in groups.items()
    ]
