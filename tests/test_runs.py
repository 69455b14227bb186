"""Specs, records, the store: hashes, strict reading, resume, and tables that only exact protocols fill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sedona_nb import data, methods, profiles, runs, tables
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import METHODS, Record, RunSpec, SearchSpec, protocol, spec_hash
from sedona_nb.runs import RunStore, _rows, find_or_search, find_or_train, search_result
from sedona_nb.search_config import SearchConfig
from sedona_nb.train_config import TrainConfig

SMOKE = profiles.load("smoke")
TINY = replace(
    SMOKE,
    network=NetworkConfig("vgg11", 1 / 32),
    search=replace(SMOKE.search, pretrain_steps=4, snapshot_every=2, outer_steps=2),
    train=replace(SMOKE.train, steps=6, batch_size=32, evaluate_every=3),
)


@pytest.fixture(scope="module")
def pictures():
    return data.load("digits")


@pytest.fixture(scope="module")
def search_record(pictures, tmp_path_factory):
    store = RunStore(tmp_path_factory.mktemp("search"))
    return find_or_search(methods.search_spec(TINY, pictures), pictures, store, profile="tiny")


def spec_of(method: str, pictures, found) -> RunSpec:
    cut = Decoupling.random(8, 4, seed=0) if method == "given" else None
    return methods.run_spec(method, TINY, pictures, 8, found=found, decoupling=cut)


def every_spec(pictures, search_record) -> list[SearchSpec | RunSpec]:
    found = search_result(search_record)
    return [search_record.spec, *(spec_of(method, pictures, found) for method in METHODS)]


def test_records_survive_json_exactly(pictures, search_record):
    again = Record.from_json(search_record.to_json())
    assert again == search_record
    one, other = search_result(search_record), search_result(again)
    assert one.alpha.dtype == torch.float32
    assert torch.equal(one.alpha, other.alpha)
    assert torch.equal(one.alpha_history[-1], one.alpha)
    assert one.processor_seconds == search_record.provenance.processor_seconds > 0
    assert "processor_seconds" not in search_record.result
    for spec in every_spec(pictures, search_record):
        copy = Record.from_json(Record(spec, {}, search_record.provenance).to_json())
        assert copy.spec == spec
        assert spec_hash(copy.spec) == spec_hash(spec)


def test_records_have_no_digit_and_no_line_too_many(pictures, search_record):
    bits = torch.randint(-(2**31), 2**31 - 1, (40_000,), generator=torch.Generator().manual_seed(0)).int()
    values = bits.view(torch.float32)  # of every size, the smallest and largest among them
    values = values[values.isfinite()][: 2 * 19_000].view(2, 100, 190)
    rows = _rows(values)
    assert torch.equal(torch.tensor(rows), values)
    assert len(json.dumps(rows)) < 0.7 * len(json.dumps(values.tolist()))
    assert _rows(torch.empty(0, 3, 2)) == []
    text = search_record.to_json()
    row = search_record.result["alpha"][0]
    assert f"[{row[0]}, {row[1]}]" in text
    told = Record(search_record.spec, {"a": "[ 1,  2 ]", "b": [], "c": [[1, -2e-30], ["[\n1]"], [True, 1]]}, None)
    assert json.loads(replace(told, provenance=search_record.provenance).to_json())["result"] == told.result


def test_every_field_of_a_spec_counts_but_the_source_of_its_decoupling(pictures, search_record):
    spec = methods.run_spec("dgl", TINY, pictures, 8)
    others = [
        replace(spec, seed=1),
        replace(spec, data="cifar10-jpeg"),
        replace(spec, fingerprint="0"),
        replace(spec, network=replace(spec.network, width=0.25)),
        replace(spec, method="given"),
        replace(spec, train=replace(spec.train, lr=0.01)),
        replace(spec, train=replace(spec.train, loss=replace(spec.train.loss, convention="others"))),
        replace(spec, heads=replace(spec.heads, strides="guarded")),
        replace(spec, decoupling=Decoupling.uniform(8, 2)),
        search_record.spec,
    ]
    assert len({spec_hash(one) for one in [spec, *others]}) == len(others) + 1
    renamed = replace(spec, decoupling=replace(spec.decoupling, source="elsewhere"))
    assert spec_hash(renamed) == spec_hash(spec)


def test_records_of_before_keep_their_names():
    """Fields that specs got later change no hash where they have their default."""
    store = RunStore(Path(__file__).resolve().parent.parent / "results")
    names = {path.stem for path in store.folder.glob("*.json")}
    records = store.records()
    assert {spec_hash(record.spec) for record in records} == names
    assert all(store.load(record.spec) == record for record in records)
    assert {type(record.spec) for record in records} >= {RunSpec, SearchSpec}
    network, cut = NetworkConfig("vgg19"), Decoupling.uniform(16, 4)
    training = RunSpec("cifar10", "0" * 16, network, "dgl", TrainConfig(), cut, seed=1)
    assert spec_hash(training) == "2290382a7f6d"
    plain = replace(training, seed=0, method="backprop", decoupling=Decoupling.backprop(16))
    assert spec_hash(plain) == "2c92fe923220"
    search = SearchSpec("cifar10", "0" * 16, network, SearchConfig(), seed=2)
    assert spec_hash(search) == "d01b593e51d3"
    assert spec_hash(replace(search, seed=0, search=SearchConfig.released())) == "ab7008928f7f"
    for name, value in (
        ("train_pictures", 100),
        ("alignment_every", 5),
        ("decay_every", 9),
        ("precision", "bfloat16"),
    ):
        changed = replace(training, train=replace(training.train, **{name: value}))
        assert spec_hash(changed) != spec_hash(training)
        assert Record.from_json(Record(changed, {}, records[0].provenance).to_json()).spec == changed


def test_a_record_without_later_fields_is_read_with_their_defaults(pictures, tmp_path):
    store, spec = RunStore(tmp_path), methods.run_spec("backprop", TINY, pictures, 8)
    record = find_or_train(spec, pictures, store)
    content = json.loads(record.to_json())
    for name in ("train_pictures", "alignment_every", "decay_every", "precision"):
        del content["spec"]["train"][name]
    store.path(spec).write_text(json.dumps(content))
    assert store.load(spec) == record


def test_what_exists_is_not_trained_again(pictures, tmp_path):
    store, spec = RunStore(tmp_path), methods.run_spec("backprop", TINY, pictures, 8)
    assert store.load(spec) is None
    first = find_or_train(spec, pictures, store, profile="tiny")
    stamp = store.path(spec).stat().st_mtime_ns
    assert find_or_train(spec, pictures, store) == first
    assert store.path(spec).stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{spec_hash(spec)}.json"]
    assert not store.checkpoints(spec).exists()
    assert first.result["best"]["test"]["count"] == 360
    assert first.provenance.seconds > 0
    assert first.provenance.processor_seconds > 0
    assert first.provenance.peak_memory > 10**8
    assert first.provenance.torch == torch.__version__
    store.forget(spec)
    assert store.records() == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_a_record(method, pictures, search_record, tmp_path):
    spec = spec_of(method, pictures, search_result(search_record))
    record = find_or_train(spec, pictures, RunStore(tmp_path))
    losses = {"backprop": 1, "continuous": 8, "features-replay": 1, "feedback-alignment": 1}.get(method, 4)
    assert [len(row[1]) for row in record.result["curve"]] == [losses, losses]
    assert len(record.result["last"]["test"]["heads"]) == losses
    assert record.result["last"]["step"] == 6
    assert spec.train.loss.smoothing == (0.0 if method == "predsim" else 0.1)


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from dataclasses import replace
from test_runs import TINY
from sedona_nb import data, methods, runs
pictures = data.load("digits")
profile = replace(TINY, train=replace(TINY.train, steps=40, evaluate_every=2))
runs.find_or_train(methods.run_spec(sys.argv[3], profile, pictures, 8), pictures, runs.RunStore(sys.argv[1]))
"""


@pytest.mark.parametrize("method", ["dgl", pytest.param("features-replay", marks=pytest.mark.slow)])
def test_killed_run_continues_to_the_same_record(method, pictures, tmp_path):
    def start(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent), method]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "SEDONA_HEADLESS": "1"})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    child = start(killed)
    while not list(killed.glob("checkpoints/*/training.pt")):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert RunStore(killed).records() == []
    assert start(killed).wait() == 0
    one, other = (RunStore(folder).records()[0] for folder in (whole, killed))
    assert one.spec == other.spec
    assert one.result == other.result


@pytest.mark.parametrize("method", [*METHODS, "search"])
def test_paused_after_every_step_it_comes_to_the_same_record(method, pictures, search_record, tmp_path):
    searched = method == "search"
    spec = search_record.spec if searched else spec_of(method, pictures, search_result(search_record))
    find = find_or_search if searched else find_or_train
    whole = search_record if searched else find(spec, pictures, RunStore(tmp_path / "whole"))
    pauses, store = [], RunStore(tmp_path / "paused")
    while store.load(spec) is None:
        try:
            found = find(spec, pictures, store, pause=lambda: True)
        except Paused as stop:
            pauses.append(str(stop))
            assert store.is_begun(spec)
            assert not store.is_claimed(spec)
    wanted = [f"paused at step {step} of 6" for step in range(1, 6)]
    if searched:
        wanted = [f"paused at step {step} of 4 of pretraining" for step in range(1, 5)]
        wanted.append("paused at outer step 1 of 2")
    assert pauses == wanted
    assert not store.is_begun(spec)
    assert found.spec == whole.spec

    def numbers(record: Record) -> dict:
        return {name: value for name, value in record.result.items() if name != "seconds"}

    assert numbers(found) == numbers(whole)


def test_a_file_that_is_no_record_is_named(pictures, search_record, tmp_path):
    store, spec = RunStore(tmp_path), search_record.spec
    text = search_record.to_json()
    unknown_field = json.loads(text)
    unknown_field["spec"]["colour"] = "red"
    missing_field = json.loads(text)
    del missing_field["spec"]["network"]["width"]
    for content, reason in (
        ("{half", "not JSON"),
        ("[]", "record format None; this version reads format 1"),
        (text.replace('"format": 1', '"format": 0', 1), "record format 0"),
        (json.dumps(unknown_field), "SearchSpec: fields missing or unknown: colour"),
        (json.dumps(missing_field), "NetworkConfig: fields missing or unknown: width"),
        (text.replace('"vgg11"', '"vgg12"', 1), "unknown network 'vgg12'"),
    ):
        store.path(spec).write_text(content)
        for read in (store.records, lambda: store.load(spec)):
            with pytest.raises(SedonaError) as caught:
                read()
            assert reason in str(caught.value)
            assert str(store.path(spec)) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_pictures_and_spec_must_fit(pictures, tmp_path):
    spec = replace(methods.run_spec("backprop", TINY, pictures, 8), fingerprint="0" * 16)
    with pytest.raises(SedonaError, match="the spec is for digits"):
        find_or_train(spec, pictures, RunStore(tmp_path))
    with pytest.raises(SedonaError, match="needs the result of a search"):
        methods.run_spec("sedona", TINY, pictures, 8)
    with pytest.raises(SedonaError, match="unknown method 'sedna'"):
        methods.run_spec("sedna", TINY, pictures, 8)
    with pytest.raises(SedonaError, match="needs alpha and beta"):
        replace(methods.run_spec("dgl", TINY, pictures, 8), decoupling=None)


def test_table_2_is_filled_by_exactly_its_protocol(pictures, search_record, tmp_path):
    store = RunStore(tmp_path)
    frame = tables.table2(TINY, pictures, store)
    assert frame["n"].tolist() == [0, 0, 0, 0]
    assert frame["paper"].tolist() == [12.31, 13.87, 12.19, 11.58]  # VGG-19: the paper has no VGG-11
    assert tables.text(frame).count("no record") == 4
    store.save(search_record)
    found = search_result(search_record)
    for seed in (0, 1):
        find_or_train(methods.run_spec("backprop", TINY, pictures, 8, seed), pictures, store)
    find_or_train(methods.run_spec("sedona", TINY, pictures, 8, found=found), pictures, store)
    other = replace(TINY, train=replace(TINY.train, lr=0.01))
    find_or_train(methods.run_spec("dgl", other, pictures, 8), pictures, store)
    frame = tables.table2(TINY, pictures, store).set_index("method")
    assert frame["n"].to_dict() == {"Backprop": 2, "PredSim": 0, "DGL": 0, "SEDONA": 1}
    errors = [
        r.result["best"]["test"]["top1"] for r in store.records() if getattr(r.spec, "method", "") == "backprop"
    ]
    assert frame.loc["Backprop", "best"] == pytest.approx(sum(errors) / 2)
    assert tables.table2(other, pictures, store).set_index("method").loc["DGL", "n"] == 1
    assert "not to be compared" in tables.text(tables.table2(TINY, pictures, store))


def test_profiles():
    paper = profiles.load("paper")
    assert paper.search == SearchConfig()
    assert (paper.train.steps, paper.train.batch_size, paper.train.lr, paper.train.weight_decay) == (
        64_000,
        128,
        0.1,
        1e-4,
    )
    assert profiles.load("paper", network="resnet152").train.weight_decay == 2e-4
    assert profiles.load("small", data="cifar10").data == "cifar10"
    with pytest.raises(SedonaError, match="unknown profile 'large'; allowed: smoke, small, paper"):
        profiles.load("large")
    assert "64,000 steps of 128" in protocol(
        methods.run_spec("backprop", replace(paper, data="digits"), data.load("digits"), 16)
    )


def test_execute_can_forget_the_records_of_a_profile(pictures, tmp_path, monkeypatch):
    from sedona_nb import execute

    monkeypatch.setattr(profiles, "load", lambda name: replace(TINY, results=tmp_path))
    spec = methods.run_spec("backprop", TINY, pictures, 8)
    find_or_train(spec, pictures, RunStore(tmp_path), profile="smoke")
    assert execute._forget("small", "digits") == 0
    assert execute._forget("smoke", "digits") == 1
    assert runs.RunStore(tmp_path).records() == []
