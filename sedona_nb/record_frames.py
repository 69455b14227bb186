"""Records as tidy frames, a row a measurement: what charts and tables of results are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, nan
from statistics import fmean

import pandas as pd

from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HEADS
from sedona_nb.records import Record
from sedona_nb.store import RunStore

# `run` numbers the runs of an entry from 0: where they are draws, all of them have the same seed.
ABOUT = ("protocol", "network", "variant", "K", "seed", "run")


def runs(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """A row a record: what it is, decoupling, step (of the best weights), and errors in percent.

    Columns validation, test, train (NaN where it was not measured) are of the best weights, `last` is the test
    error of the last ones.
    """
    rows = []
    for about, record in _found(entries, store):
        best, train = record.result["best"], record.result["best"].get("train")
        rows.append(
            {
                **about,
                "decoupling": str(record.spec.decoupling or "continuous"),
                "step": best["step"],
                "validation": best["validation"]["top1"],
                "test": best["test"]["top1"],
                "train": train["top1"] if train else nan,
                "last": record.result["last"]["test"]["top1"],
            }
        )
    columns = [*ABOUT, "decoupling", "step", "validation", "test", "train", "last"]
    return pd.DataFrame(rows, columns=columns)


def curves(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """A row an evaluation: protocol, network, variant, K, seed, run, step, validation error in percent."""
    rows = [
        {**about, "step": step, "error": error}
        for about, record in _found(entries, store)
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
    for about, record in _found(entries, store):
        looks = record.result.get("alignment") or []
        steps = record.spec.train.steps
        edges = [round(part * steps / intervals) for part in range(intervals + 1)]
        spans = [(0, steps, "all"), *((a, b, f"{a:,}-{b:,}") for a, b in zip(edges, edges[1:], strict=False))]
        for first, end, name in spans:
            chosen = [cosines for step, cosines in looks if first <= step < end]
            for layer, values in enumerate(zip(*chosen, strict=True), start=1):
                rows.append({**about, "layer": layer, "interval": name, "cosine": sum(values) / len(values)})
    return pd.DataFrame(rows, columns=[*ABOUT, "layer", "interval", "cosine"])


def settings(entries: Sequence[Entry], store: RunStore) -> pd.DataFrame:
    """How each method got its learning rate: network, method, lr, warmup, validation error, chosen.

    A row a run that was tried, in the order of the settings; an error is NaN where the run has no record, infinite
    where it diverged.
    """
    rows: dict[tuple, dict] = {}
    for entry in entries:
        tried = [spec for spec in entry.needs if hasattr(spec, "train")]
        taken = {(spec.train.lr, spec.train.warmup_steps) for spec in entry.runs}
        for spec in tried:
            record, setting = store.load(spec), (spec.train.lr, spec.train.warmup_steps)
            error = nan
            if record is not None:
                error = inf if record.diverged else record.result["best"]["validation"]["top1"]
            rows[(entry.network, spec.method, *setting)] = {
                "network": entry.network,
                "method": spec.method,
                "lr": spec.train.lr,
                "warmup": spec.train.warmup_steps,
                "validation": error,
                "chosen": setting in taken,
            }
    return pd.DataFrame(rows.values(), columns=["network", "method", "lr", "warmup", "validation", "chosen"])


def configurations(entries: Sequence[Entry], store: RunStore, costs: Sequence[float]) -> pd.DataFrame:
    """A row a record with blocks: what its decoupling is like, how its gradients pointed, its errors in percent.

    Columns: splits and heads, tuples; first split and last split (layers, 1-based); largest block, the share of
    all costs that its dearest block has; head depth, the mean m of its Aux m (NaN with a head of another kind);
    cosine, the mean of the cosines of Figure 8 over all layers and looks, and cosine below, the same without the
    last block, where it is 1 whatever the decoupling (NaN without looks); validation and test.

    Args:
        entries: of `experiments.load`; entries without blocks, such as backprop's, are left out.
        store: where the records are.
        costs: of each layer, for example of `baselines.layer_operations`.

    Raises:
        SedonaError: a decoupling of another number of layers than there are costs.
    """
    features = ("first split", "last split", "largest block", "head depth", "cosine", "cosine below")
    columns = [*ABOUT, "splits", "heads", *features]
    rows = []
    for about, record in _found(entries, store):
        cut = record.spec.decoupling
        if cut is None or not cut.splits:
            continue
        if cut.num_layers != len(costs):
            raise SedonaError(f"{len(costs)} costs for {cut.num_layers} layers; allowed: one a layer")
        blocks = [sum(costs[first - 1 : last]) for first, last in cut.blocks]
        depths = [HEADS.index(head) + 1 if head in HEADS else nan for head in cut.heads]
        looks = [cosines for _, cosines in record.result.get("alignment") or []]
        found = {
            "splits": cut.splits,
            "heads": cut.heads,
            "first split": cut.splits[0],
            "last split": cut.splits[-1],
            "largest block": max(blocks) / sum(costs),
            "head depth": fmean(depths),
            "cosine": fmean(c for look in looks for c in look) if looks else nan,
            "cosine below": fmean(c for look in looks for c in look[: cut.splits[-1]]) if looks else nan,
        }
        best = record.result["best"]
        errors = {split: best[split]["top1"] for split in ("validation", "test")}
        rows.append({**about, **found, **errors})
    return pd.DataFrame(rows, columns=[*columns, "validation", "test"])


def _found(entries: Sequence[Entry], store: RunStore) -> Iterator[tuple[dict, Record]]:
    """What a record is, by `ABOUT`, and the record, for every run that has one and did not diverge."""
    for entry in entries:
        for run, spec in enumerate(entry.runs):
            record = store.load(spec)
            if record is not None and not record.diverged:
                what = (entry.protocol, entry.network, entry.variant, entry.num_blocks, spec.seed, run)
                yield dict(zip(ABOUT, what, strict=True)), record
