"""What `python -m sedona_nb.runs table` prints of an experiment: its own measures, beside the paper's numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from math import nan

from sedona_nb import experiments, verdicts
from sedona_nb.entries import Entry
from sedona_nb.records import Record
from sedona_nb.store import RunStore

# Which row the others are compared with; where none is named, "backprop".
REFERENCES = {"table04": "sedona", "table08": "sedona", "figure06": "sedona"}


def training_error(record: Record) -> float:
    """Error in percent on training pictures, of the weights whose test error counts; NaN where nobody looked."""
    return (record.result["best"].get("train") or {}).get("top1", nan)


def cosine_below(record: Record) -> float:
    """Mean cosine of local and backprop gradients below the last block, where it is not 1 by construction."""
    layers = record.spec.decoupling.blocks[-1][0] - 1
    looks = [cosines[:layers] for _, cosines in record.result.get("alignment") or []]
    return statistics.fmean(cosine for look in looks for cosine in look) if looks and layers else nan


TEST_ERROR = {"test error in %": verdicts.test_error}
MEASURES: dict[str, dict[str, Callable[[Record], float]]] = {
    "table07": {"training error in %": training_error, **TEST_ERROR},
    "figure08": {"mean cosine of gradients below the last block": cosine_below},
}


def text(name: str, labels: Sequence[str], entries: Sequence[Entry], store: RunStore) -> str:
    """The tables of one experiment, and what has no record.

    Args:
        name: of the experiment.
        labels: of the protocols.
        entries: its entries, all or some.
        store: where the records are.
    """
    if not entries:
        return no_entries(name)
    variants = {entry.variant for entry in entries}
    reference = REFERENCES.get(name, "backprop")
    lines = []
    for title, measure in MEASURES.get(name, TEST_ERROR).items():
        frame = verdicts.side_by_side(entries, store, measure, reference if reference in variants else None)
        shown = verdicts.shown(frame)
        if measure is not verdicts.test_error or frame["paper"].isna().all():
            shown = shown.drop(columns="paper")  # what the paper prints are test errors
        lines += [f"{name}, {title}: {'; '.join(labels)}", shown.to_string(index=False)]
    return "\n".join([*lines, *verdicts.missing(entries, store)])


def no_entries(name: str) -> str:
    """One line for an experiment that is about other networks."""
    networks, names = (" or ".join(found(name)) for found in (experiments.networks, experiments.protocol_names))
    return f"{name}: nothing for this network and protocol; allowed: --network {networks}, --protocol {names}"
