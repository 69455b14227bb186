"""Paper and ours side by side, entry by entry, and what the difference of two of our numbers can carry."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

import pandas as pd

from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.records import Record
from sedona_nb.runs import RunStore

ABOUT = ("protocol", "network", "variant", "K")
NO_RECORD = "no record"
CONFIDENCE = 0.95
SEED_NOISE = 0.3  # percentage points: seeds of one decoupling deviate by 0.1 to 0.2 in the paper (Table 4)
FEW = 5  # draws of a random configuration of which a mean says something of all


@dataclass(frozen=True)
class Sample:
    """Numbers of several runs: mean, standard deviation over runs (None for one run), and how many."""

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Of at least one value."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))


def test_error(record: Record) -> float:
    """Test error in percent of the checkpoint with the lowest validation error: what the paper reports."""
    return record.result["best"]["test"]["top1"]


def side_by_side(
    entries: Sequence[Entry],
    store: RunStore,
    measure: Callable[[Record], float] = test_error,
    against: str | None = "backprop",
) -> pd.DataFrame:
    """A row an entry: protocol, network, variant, K, paper, ours, spread, n, of, diverged, verdict.

    `n` counts the runs that have the measure, `of` those that the entry asks for, `diverged` those that ended with
    a loss that was not finite and have no part in ours. Ours is NaN where n is 0, or less than `FEW` of random
    draws. A record of any other spec is not looked at.

    Args:
        entries: of `experiments.load`.
        store: where the records are.
        measure: what to take from a record.
        against: the variant with which verdicts compare the others of its network; None: no verdicts.

    Raises:
        SedonaError: an entry list that has several rows, or none, to compare a network's variants with.
    """
    rows, samples, instead = [], [], []
    for entry in entries:
        records = [record for record in map(store.load, entry.runs) if record is not None]
        ended = [record for record in records if not record.diverged]
        values = [value for value in map(measure, ended) if not isnan(value)]
        enough = len(values) >= (min(FEW, len(entry.runs)) if entry.draws else 1)
        sample = Sample.of(values) if values and enough else None
        samples.append(sample)
        instead.append("too few runs" if values else "diverged" if len(ended) < len(records) else NO_RECORD)
        rows.append(
            {
                "protocol": entry.protocol,
                "network": entry.network,
                "variant": entry.variant,
                "K": entry.num_blocks,
                "paper": nan if entry.printed is None else entry.printed,
                "ours": nan if sample is None else sample.mean,
                "spread": nan if sample is None or sample.spread is None else sample.spread,
                "n": len(values),
                "of": len(entry.runs) or None,
                "diverged": len(records) - len(ended),
            }
        )
    frame = pd.DataFrame(rows, columns=[*ABOUT, "paper", "ours", "spread", "n", "of", "diverged"])
    frame["of"] = frame["of"].astype("Int64")
    if against is not None:
        verdicts = [_row_verdict(entries, samples, instead, place, against) for place in range(len(entries))]
        frame["verdict"] = [
            "; ".join(
                filter(None, [verdict, f"{row['diverged']} diverged" if row["diverged"] and row["n"] else ""])
            )
            for verdict, row in zip(verdicts, rows, strict=True)
        ]
    return frame


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`side_by_side` for reading: ours with its spread, the number of runs, words where there is nothing."""
    rows = [
        {
            **{column: getattr(row, column) for column in ABOUT},
            "paper": "" if isnan(row.paper) else f"{row.paper:.2f}",
            "ours": "-" if isnan(row.ours) and (row.n or row.diverged) else _number(row.ours, row.spread),
            "runs": "" if pd.isna(row.of) else f"{row.n} of {row.of}",
            **({"verdict": row.verdict} if "verdict" in frame else {}),
        }
        for row in frame.itertuples()
    ]
    columns = [*ABOUT, "paper", "ours", "runs", *(["verdict"] if "verdict" in frame else [])]
    return pd.DataFrame(rows, columns=columns)


def _number(mean: float, spread: float) -> str:
    if isnan(mean):
        return NO_RECORD
    return f"{mean:.2f}" + ("" if isnan(spread) else f" ± {spread:.2f}")


def missing(entries: Sequence[Entry], store: RunStore) -> list[str]:
    """What has no record, a line for all variants of a network that lack it for the same reason."""
    lines: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for entry in entries:
        if entry.lacks:
            why = entry.lacks
        elif not entry.runs:
            waits = sum(store.load(spec) is None for spec in entry.needs)
            many = f"{waits} searches or choices of a rate"
            why = f"waits for {many if waits > 1 else 'one search or choice of a rate'}"
        elif absent := sum(store.load(spec) is None for spec in entry.runs):
            why = f"{absent} of {len(entry.runs)} runs each"
        else:
            continue
        variants = lines.setdefault((entry.protocol, entry.network, why), {})
        variants.setdefault(entry.variant, []).append(entry.num_blocks)
    return [
        f"{protocol}: {network}, {', '.join(_with_blocks(*one) for one in variants.items())}: {NO_RECORD}; {why}"
        for (protocol, network, why), variants in lines.items()
    ]


def _with_blocks(variant: str, blocks: Sequence[int]) -> str:
    return variant if len(blocks) == 1 else f"{variant} (K = {', '.join(map(str, blocks))})"


def difference(one: Sample, other: Sample) -> tuple[float, float, float] | None:
    """one - other, and its confidence interval after Welch (two samples, unequal variances).

    Returns:
        mean, low, high; None with fewer than two runs on a side.
    """
    if one.n < 2 or other.n < 2:
        return None
    from scipy import stats  # slow to import

    parts = [sample.spread**2 / sample.n for sample in (one, other)]
    error, mean = sqrt(sum(parts)), one.mean - other.mean
    if error == 0:
        return mean, mean, mean
    freedom = sum(parts) ** 2 / sum(p**2 / (s.n - 1) for p, s in zip(parts, (one, other), strict=True))
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    return mean, mean - reach, mean + reach


def compare(printed: float | None, found: tuple[float, float, float] | None) -> str:
    """What our difference of two variants says about the paper's.

    Args:
        printed: the paper's difference; None where it prints none.
        found: of `difference`. A printed difference below `SEED_NOISE` has no sign that could be confirmed.
    """
    if found is None:
        return "too few runs"
    mean, low, high = found
    words = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    if low <= 0 <= high:
        return f"{words}: undecided"
    if printed is None or printed != printed:
        return f"{words}: {'worse' if mean > 0 else 'better'}"
    if abs(printed) < SEED_NOISE:
        return f"{words}: {'worse' if mean > 0 else 'better'}; printed as level"
    return f"{words}: {'as' if mean * printed > 0 else 'not as'} printed ({printed:+.2f})"


def _row_verdict(
    entries: Sequence[Entry], samples: Sequence[Sample | None], instead: Sequence[str], place: int, against: str
) -> str:
    """`instead`: the words for an entry without a sample."""
    entry = entries[place]
    same = (against, entry.network, entry.protocol)
    references = [i for i, e in enumerate(entries) if (e.variant, e.network, e.protocol) == same]
    if len(references) != 1:
        raise SedonaError(f"{len(references)} rows {against!r} for {entry.network}; allowed: one to compare with")
    (reference,) = references
    if place == reference:
        return "" if samples[place] or instead[place] == NO_RECORD else instead[place]
    if samples[place] is None:
        return instead[place]
    if samples[reference] is None:
        return f"{against}: {instead[reference]}"
    printed = None
    if entry.printed is not None and entries[reference].printed is not None:
        printed = entry.printed - entries[reference].printed
    return compare(printed, difference(samples[place], samples[reference]))
