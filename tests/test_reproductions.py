"""The notebooks of tables and figures draw from records alone: nothing is trained, and what is missing is said."""

from __future__ import annotations

import json
import re

import nbformat
import pandas as pd
import pytest
from reproduction_pages import EXPERIMENTS, NETWORKS, NUMBERS, REPOSITORY, executed, notebook, pictures, printed

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.store import RunStore

QUIET = {"11": {"own": False}}  # parameters with which a notebook that also runs something of its own does not
OWN = {"11": 2}  # pictures of that
TWO_NETWORKS = """
from sedona_nb import paper

paper.NETWORKS = paper.NETWORKS[:2]
"""
DIVERGED = """
from dataclasses import replace
from sedona_nb.store import RunStore

_load = RunStore.load


def _load_diverged(store, spec):
    record = _load(store, spec)
    diverged = record is not None and "best" in record.result and spec.seed == 1
    return replace(record, result={"diverged": "the loss of block 1 is nan at step 7"}) if diverged else record


RunStore.load = _load_diverged
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_reproduction_draws_from_records_alone_within_seconds(number, monkeypatch):
    pages = executed(number, monkeypatch, **QUIET.get(number, {}))
    committed = nbformat.read(notebook(number), as_version=4)
    assert pictures(pages) == pictures(committed) - OWN.get(number, 0) > 0
    protocol = protocols.load("short", NETWORKS.get(number, "vgg19"))
    store = RunStore(protocol.profile.results)
    said = " ".join(printed(pages).split())
    entries = experiments.load(EXPERIMENTS[number], protocol, store) if EXPERIMENTS[number] else []
    for line in verdicts.missing(entries, store):
        assert line in said
    assert float(re.findall(r"([\d.]+) processor seconds", printed(pages))[-1]) < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [number for number in NUMBERS if number not in ("11", "13", "29")]
)  # one protocol
def test_without_records_it_says_so_and_plots_nothing_of_ours(number, monkeypatch):
    pages = executed(number, monkeypatch, protocol="paper")
    assert "no record" in printed(pages)
    # The widget's picture, which says so in words; the paper's own panels; files and a toy; what delay does.
    of_no_record = {"12": 1, "17": 1, "18": 2, "22": 3, "25": 2}
    assert pictures(pages) <= of_no_record.get(number, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in ("11", "13", "22")])
def test_runs_that_diverged_are_counted_and_left_out(number, monkeypatch):
    said = printed(executed(number, monkeypatch, DIVERGED, train=False))
    counted = r" 2 +3\n" if number == "26" else "; 1 diverged"  # Figure 8 has no verdicts
    assert re.search(counted, said)


@pytest.mark.slow
def test_a_seed_that_nobody_searched_with_has_no_record(monkeypatch):
    pages = executed("13", monkeypatch, seed=7)
    assert printed(pages).count("no record\n") >= 3
    assert pictures(pages) == 0


def test_the_verdicts_kept_beside_figures_are_those_of_the_records():
    store = RunStore(protocols.load("short").profile.results)
    kept = pd.read_csv(REPOSITORY / "figures" / "table02_short.csv", keep_default_na=False)
    entries = experiments.load("table02", [protocols.load("short", name) for name in ("vgg19", "resnet50")], store)
    now = verdicts.side_by_side(entries, store).set_index(["network", "variant"])["verdict"]
    assert len(kept)
    for row in kept.itertuples():
        assert row.verdict == now[row.network.lower().replace("-", ""), row.method]


@pytest.mark.slow
def test_times_of_a_search_are_taken_where_that_is_asked_for(monkeypatch, tmp_path):
    pages = executed("18", monkeypatch, TWO_NETWORKS, protocol="smoke", measure=True, results=str(tmp_path))
    specs = [record.spec for record in RunStore(tmp_path).records()]
    assert sorted((spec.network.name, spec.backend) for spec in specs) == [
        ("resnet50", "adjoint"),
        ("vgg19", "adjoint"),
        ("vgg19", "adjoint"),
        ("vgg19", "higher"),
    ]
    assert {(spec.in_channels, spec.network.width) for spec in specs} == {(1, 1 / 32)}
    assert "vgg19 0.03125x, 1x32x32, batch 32, validation batch 128, backend higher" in " ".join(
        printed(pages).split()
    )
    assert pictures(pages) == 2


@pytest.mark.parametrize("number", NUMBERS)
def test_every_reproduction_has_the_same_anatomy(number):
    text = json.dumps(json.loads(notebook(number).read_text(encoding="utf-8")))
    for part in (
        "What we see",
        f"What differs from the {'poster' if number in NETWORKS else 'paper'}",
        "To deepen it",
        "Exercises",
        "Summary",
        "papermill",
    ):
        assert part in text, part
    assert "TO BE WRITTEN" not in text
