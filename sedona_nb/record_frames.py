"""Records as tidy frames, a row a measurement: what charts and tables of results are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.records import Record
from sedona_nb.store import RunStore

ABOUT = ("protocol", "network", "variant", "K", "seed")


def runs(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """A row a record: what it is, decoupling, step (of the best weights), and errors in percent.

    Columns validation, test, train (NaN where it was not measured) are of the best weights, `last` is the test
    error of the last ones.
    """
    rows = []
    for entry, record in _found(entries, store):
        best, train = record.result["best"], record.result["best"].get("train")
        rows.append(
            {
                **_about(entry, record),
                "decoupling": str(record.spec.decoupling or "continuous"),
                "step": best["step"],
                "validation": best["validation"]["top1"],
                "test": best["test"]["top1"],
                "train": train["top1"] if train else float("nan"),
                "last": record.result["last"]["test"]["top1"],
            }
        )
    columns = [*ABOUT, "decoupling", "step", "validation", "test", "train", "last"]
    return pd.DataFrame(rows, columns=columns)


def curves(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """A row an evaluation: protocol, network, variant, K, seed, step, validation error in percent."""
    rows = [
        {**_about(entry, record), "step": step, "error": error}
        for entry, record in _found(entries, store)
        for step, _, error in record.result["curve"]
    ]
    return pd.DataFrame(rows, columns=[*ABOUT, "step", "error"])


def alignments(entries: Sequence[Entry], store: RunStore, intervals: int = 4) -> pd.DataFrame:
    """Cosines of greedy and backprop gradients (Figure 8), a row a layer and interval.

    The cosine is the mean over the looks of one of so many equal parts of the training; `interval` names its
    steps, "all" is the whole of it. Records without looks are left out.

    Raises:
        SedonaError: fewer than one interval.
    """
    if intervals < 1:
        raise SedonaError(f"{intervals} intervals; allowed: at least 1")
    rows = []
    for entry, record in _found(entries, store):
        looks = record.result.get("alignment") or []
        steps = record.spec.train.steps
        edges = [round(part * steps / intervals) for part in range(intervals + 1)]
        spans = [(0, steps, "all"), *((a, b, f"{a:,}-{b:,}") for a, b in zip(edges, edges[1:], strict=False))]
        for first, end, name in spans:
            chosen = [cosines for step, cosines in looks if first <= step < end]
            for layer, values in enumerate(zip(*chosen, strict=True), start=1):
                about = {**_about(entry, record), "layer": layer, "interval": name}
                rows.append({**about, "cosine": sum(values) / len(values)})
    return pd.DataFrame(rows, columns=[*ABOUT, "layer", "interval", "cosine"])


def settings(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """How each method got its learning rate: network, method, lr, warmup, validation error, chosen.

    A row a run that was tried, in the order of the settings; an error is NaN where the run has no record.
    """
    rows: dict[tuple, dict] = {}
    for entry in entries:
        tried = [spec for spec in entry.needs if hasattr(spec, "train")]
        taken = {(spec.train.lr, spec.train.warmup_steps) for spec in entry.runs}
        for spec in tried:
            record, setting = store.load(spec), (spec.train.lr, spec.train.warmup_steps)
            error = record.result["best"]["validation"]["top1"] if record else float("nan")
            rows[(entry.network, spec.method, *setting)] = {
                "network": entry.network,
                "method": spec.method,
                "lr": spec.train.lr,
                "warmup": spec.train.warmup_steps,
                "validation": error,
                "chosen": setting in taken,
            }
    return pd.DataFrame(rows.values(), columns=["network", "method", "lr", "warmup", "validation", "chosen"])


def _found(entries: Sequence[Entry], store: RunStore) -> Iterator[tuple[Entry, Record]]:
    for entry in entries:
        for spec in entry.runs:
            record = store.load(spec)
            if record is not None:
                yield entry, record


def _about(entry: Entry, record: Record) -> dict:
    return {
        "protocol": entry.protocol,
        "network": entry.network,
        "variant": entry.variant,
        "K": entry.num_blocks,
        "seed": record.spec.seed,
    }
