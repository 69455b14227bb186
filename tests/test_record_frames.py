"""Records as frames: rows and means against records written by hand, and nothing where there is no record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sedona_nb import experiments, protocols, provenance, record_frames
from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.records import Record, RunSpec
from sedona_nb.runs import RunStore

SMOKE = replace(protocols.load("smoke"), name="hand")
COSTS = tuple(range(1, 17))  # of 16 layers
ORIGIN = provenance.here(torch.device("cpu"), 12.5, 10**6, "hand")


def errors(top1: float) -> dict:
    return {"top1": top1, "top5": 1.0, "heads": [top1], "ensembles": [top1], "count": 360, "ensembles_top5": None}


def result(test: float, looks: list | None = None, train: float | None = None) -> dict:
    """What a run leaves; validation is one point above test, the last weights two."""
    best = {"step": 10, "validation": errors(test + 1), "test": errors(test)}
    best["train"] = None if train is None else errors(train)
    last = {"step": 20, "validation": errors(test + 3), "test": errors(test + 2), "train": None}
    found = {"best": best, "last": last, "curve": [[10, [2.0], test + 1], [20, [1.0], test + 3]]}
    return found if looks is None else {**found, "alignment": looks}


def look(step: int, cosine: float) -> list:
    """The cosine of layer 1; each layer above has a hundredth more."""
    return [step, [cosine + 0.01 * layer for layer in range(16)]]


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "results")


def entry_of(store: RunStore, experiment: str, variant: str, blocks: int = 4) -> Entry:
    listed = experiments.load(experiment, SMOKE, store)
    (found,) = (e for e in listed if (e.variant, e.num_blocks) == (variant, blocks))
    return found


def keep(store: RunStore, spec: RunSpec, content: dict) -> None:
    store.save(Record(spec, content, ORIGIN))


def test_a_run_is_a_row_of_its_best_weights_and_the_last_test_error(store):
    entry = entry_of(store, "table02", "sedona")
    keep(store, entry.runs[0], result(30.0, train=20.0))
    keep(store, entry.runs[1], result(32.0))
    frame = record_frames.runs([entry], store)
    about = frame[[*record_frames.ABOUT]].values.tolist()
    assert about == [["hand", "vgg19", "sedona", 4, 0, 0], ["hand", "vgg19", "sedona", 4, 1, 1]]
    numbers = frame[["step", "validation", "test", "train", "last"]].to_numpy(dtype=float)
    np.testing.assert_array_equal(numbers, [[10, 31, 30, 20, 32], [10, 33, 32, np.nan, 34]])
    assert frame["decoupling"].tolist() == [str(spec.decoupling) for spec in entry.runs]


def test_draws_share_a_seed_and_keep_apart_by_their_run(store):
    entry = entry_of(store, "figure06", "random")
    for draw in (0, 4, 29):
        keep(store, entry.runs[draw], result(30.0 + draw))
    frame = record_frames.runs([entry], store)
    assert frame["seed"].tolist() == [0, 0, 0]
    assert frame["run"].tolist() == [0, 4, 29]
    assert frame["test"].tolist() == [30.0, 34.0, 59.0]
    curves = record_frames.curves([entry], store)
    assert curves.groupby("run")["error"].apply(list).to_dict() == {0: [31, 33], 4: [35, 37], 29: [60, 62]}
    assert curves["step"].tolist() == [10, 20] * 3


def test_a_cosine_is_the_mean_of_the_looks_of_its_part_of_the_training(store):
    entry = entry_of(store, "figure08", "dgl")  # 20 steps
    keep(store, entry.runs[0], result(30.0, [look(0, 0.1), look(5, 0.3), look(10, 0.5), look(15, 0.5)]))
    frame = record_frames.alignments([entry], store, intervals=2)
    assert list(dict.fromkeys(frame["interval"])) == ["all", "0-10", "10-20"]
    first = frame[frame["layer"] == 1].set_index("interval")["cosine"]
    assert first.to_dict() == pytest.approx({"all": 0.35, "0-10": 0.2, "10-20": 0.5})
    last = frame[frame["layer"] == 16].set_index("interval")["cosine"]
    np.testing.assert_allclose(last, first + 0.15)
    parts = frame[frame["interval"] != "all"].groupby("layer")["cosine"].mean()
    np.testing.assert_allclose(parts, frame[frame["interval"] == "all"].set_index("layer")["cosine"])


def test_an_interval_without_a_look_and_a_record_without_looks_have_no_rows(store):
    entry = entry_of(store, "figure08", "dgl")
    keep(store, entry.runs[0], result(30.0, [look(0, 0.1)]))
    keep(store, entry.runs[1], result(30.0))
    frame = record_frames.alignments([entry], store, intervals=2)
    assert set(frame["interval"]) == {"all", "0-10"}
    assert set(frame["run"]) == {0}
    with pytest.raises(SedonaError, match="at least 1"):
        record_frames.alignments([entry], store, intervals=0)


def test_a_configuration_is_described_by_its_cut_its_heads_and_its_cosines(store):
    entry = entry_of(store, "table02", "sedona")  # splits 6, 13, 14 with aux4, aux1, aux1
    keep(store, entry.runs[0], result(30.0, [look(0, 0.0), look(5, 0.2)]))
    (row,) = record_frames.configurations([entry], store, COSTS).to_dict("records")
    assert (row["splits"], row["heads"]) == ((6, 13, 14), ("aux4", "aux1", "aux1"))
    assert (row["first split"], row["last split"], row["validation"], row["test"]) == (6, 14, 31.0, 30.0)
    assert row["largest block"] == pytest.approx(sum(range(7, 14)) / sum(COSTS))
    assert row["head depth"] == pytest.approx((4 + 1 + 1) / 3)
    assert row["cosine"] == pytest.approx(0.1 + 0.01 * 7.5)
    assert row["cosine below"] == pytest.approx(0.1 + 0.01 * 6.5)  # without layers 15 and 16


def test_what_a_configuration_does_not_have_is_nan_and_backprop_is_left_out(store):
    dgl, backprop = entry_of(store, "table02", "dgl"), entry_of(store, "table02", "backprop", 1)
    for entry in (dgl, backprop):
        keep(store, entry.runs[0], result(30.0))
    frame = record_frames.configurations([backprop, dgl], store, COSTS)
    assert frame["variant"].tolist() == ["dgl"]
    assert frame[["head depth", "cosine", "cosine below"]].isna().all(axis=None)  # MLP-SR is no Aux, and no looks
    with pytest.raises(SedonaError, match="8 costs for 16 layers"):
        record_frames.configurations([dgl], store, COSTS[:8])


def test_settings_show_what_was_tried_and_mark_what_runs(store):
    tried = (protocols.Setting(0.1, 0), protocols.Setting(0.03, 2))
    protocol = replace(SMOKE, settings=tried)
    (waiting,) = (e for e in experiments.load("table02", protocol, store) if e.variant == "dgl")
    assert not waiting.runs
    frame = record_frames.settings([waiting], store)
    assert frame["validation"].isna().all()
    assert not frame["chosen"].any()
    for spec, error in zip(waiting.needs, (40.0, 35.0), strict=True):
        keep(store, spec, result(error))
    (ready,) = (e for e in experiments.load("table02", protocol, store) if e.variant == "dgl")
    frame = record_frames.settings([ready], store)
    assert frame[["method", "lr", "warmup"]].values.tolist() == [["dgl", 0.1, 0], ["dgl", 0.03, 2]]
    assert frame["validation"].tolist() == [41.0, 36.0]
    assert frame["chosen"].tolist() == [False, True]


def test_an_empty_store_gives_empty_frames_with_all_their_columns(store):
    entries = experiments.load("figure06", SMOKE, store)
    frames = [
        record_frames.runs(entries, store),
        record_frames.curves(entries, store),
        record_frames.alignments(entries, store),
        record_frames.configurations(entries, store, COSTS),
    ]
    for frame in frames:
        assert isinstance(frame, pd.DataFrame)
        assert frame.empty
        assert {*record_frames.ABOUT} < {*frame.columns}
    assert record_frames.settings(entries, store).empty


def test_records_of_other_specs_are_not_looked_at(store):
    entry = entry_of(store, "table02", "dgl")
    keep(store, replace(entry.runs[0], seed=77), result(1.0))
    keep(store, replace(entry.runs[0], train=replace(entry.runs[0].train, steps=21)), result(1.0))
    assert record_frames.runs([entry], store).empty
