"""Paper beside ours: only records of exactly the entry's runs count, and differences are as sure as they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toys import made_record, save_diverged, save_made

from sedona_nb import data, experiments, protocols, record_frames, result_tables, verdicts
from sedona_nb.decoupling import Decoupling
from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.records import RunSpec, spec_hash
from sedona_nb.runs import RunStore, find_or_train
from sedona_nb.verdicts import Sample, compare, difference, missing, shown, side_by_side

PROTOCOL = protocols.load("smoke")
COLUMNS = ["protocol", "network", "variant", "K", "paper", "ours", "spread", "n", "of", "diverged", "verdict"]


def spec_of(method: str = "dgl", seed: int = 0) -> RunSpec:
    cut = Decoupling.published("vgg19", 4) if method in ("sedona", "given") else None
    return PROTOCOL.spec(method, seed, PROTOCOL.settings[0], 4, cut)


def entry_of(method: str = "dgl", printed: float | None = 12.0, seeds: int = 3, **more) -> Entry:
    specs = tuple(spec_of(method, seed) for seed in range(seeds))
    shown = {"network": "vgg19", "variant": method, "num_blocks": 1 if method == "backprop" else 4}
    return Entry(**{**shown, "printed": printed, "runs": specs, "protocol": "smoke", **more})


def save_errors(store: RunStore, entry: Entry, errors: list[float]) -> None:
    for spec, error in zip(entry.runs, errors, strict=False):
        store.save(made_record(spec, test=error))


def row(entry: Entry, store: RunStore, **more):
    return next(side_by_side([entry], store, against=None, **more).itertuples())


# -- what fills a cell -------------------------------------------------------------------------------------------


OTHERS = {
    "steps": lambda s: replace(s, train=replace(s.train, steps=21)),
    "batch size": lambda s: replace(s, train=replace(s.train, batch_size=64)),
    "learning rate": lambda s: replace(s, train=replace(s.train, lr=0.1)),
    "warm-up": lambda s: replace(s, train=replace(s.train, warmup_steps=2)),
    "weight decay": lambda s: replace(s, train=replace(s.train, weight_decay=2e-4)),
    "smoothing": lambda s: replace(s, train=replace(s.train, loss=replace(s.train.loss, smoothing=0.0))),
    "held-out share": lambda s: replace(s, train=replace(s.train, held_out=0.2)),
    "precision": lambda s: replace(s, train=replace(s.train, precision="bfloat16")),
    "optimiser": lambda s: replace(s, train=replace(s.train, optimizer="adam")),
    "training pictures": lambda s: replace(s, train=replace(s.train, train_pictures=0)),
    "looks at cosines": lambda s: replace(s, train=replace(s.train, alignment_every=0)),
    "seed": lambda s: replace(s, seed=3),
    "the tuning's seed": lambda s: replace(s, seed=PROTOCOL.tuning_seed),
    "data": lambda s: replace(s, data="cifar10"),
    "fingerprint": lambda s: replace(s, fingerprint="0" * 16),
    "width": lambda s: replace(s, network=replace(s.network, width=0.25)),
    "network": lambda s: replace(s, network=replace(s.network, name="resnet50")),
    "variant of the network": lambda s: replace(s, network=replace(s.network, variant="released")),
    "heads": lambda s: replace(s, heads=replace(s.heads, strides="guarded")),
    "method": lambda s: replace(s, method="given"),
    "number of blocks": lambda s: replace(s, decoupling=Decoupling.uniform(16, 2)),
    "heads of the decoupling": lambda s: replace(s, decoupling=s.decoupling.with_heads("aux1")),
    "splits": lambda s: replace(s, decoupling=replace(s.decoupling, splits=(4, 8, 13))),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_record_of_another_protocol_never_fills_a_cell(what, tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=1)
    other = OTHERS[what](entry.runs[0])
    save_made(store, other)
    assert store.load(other) is not None
    found = row(entry, store)
    assert (found.n, found.of) == (0, 1)
    assert math.isnan(found.ours)
    assert missing([entry], store) == ["smoke: vgg19, dgl: no record; 1 of 1 runs each"]
    save_made(store, entry.runs[0], test=33.0)
    assert (row(entry, store).ours, row(entry, store).n) == (33.0, 1)


def test_where_a_decoupling_is_said_to_come_from_does_not_matter(tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=1)
    (spec,) = entry.runs
    save_made(store, replace(spec, decoupling=replace(spec.decoupling, source="elsewhere")))
    assert row(entry, store).n == 1


def test_a_run_that_really_trained_fills_its_cell_with_its_test_error(tmp_path):
    store, pictures = RunStore(tmp_path), data.load("digits")
    entries = experiments.load("table07", PROTOCOL, store)
    spec = entries[0].runs[0]
    record = find_or_train(spec, pictures, store)
    frame = side_by_side(entries, store).set_index("variant")
    assert frame.loc["backprop", "ours"] == record.result["best"]["test"]["top1"]
    assert frame["n"].to_dict() == {"backprop": 1, "dgl": 0, "sedona": 0}
    assert frame["of"].tolist() == [2, 2, 2]
    assert frame.loc["dgl", "verdict"] == "no record"
    trained = side_by_side(entries, store, lambda record: record.result["best"]["train"]["top1"]).set_index(
        "variant"
    )
    assert trained.loc["backprop", "ours"] == record.result["best"]["train"]["top1"]
    assert record.result["best"]["train"]["count"] == 100


# -- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_mean_spread_and_number_are_numpys(count, tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=10)
    errors = np.random.default_rng(count).normal(12, 1, count).tolist()
    save_errors(store, entry, errors)
    found = row(entry, store)
    assert found.ours == pytest.approx(np.mean(errors), rel=1e-12)
    assert (found.n, found.of, found.paper) == (count, 10, 12.0)
    if count == 1:
        assert math.isnan(found.spread)
    else:
        assert found.spread == pytest.approx(np.std(errors, ddof=1), rel=1e-9)
    sample = Sample.of(errors)
    assert (sample.n, sample.spread is None) == (count, count == 1)
    line = f"smoke: vgg19, dgl: no record; {10 - count} of 10 runs each"
    assert missing([entry], store) == ([line] if count < 10 else [])


def test_what_counts_is_the_best_checkpoint_by_validation_not_the_last(tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=1)
    record = made_record(entry.runs[0], validation=20, test=31)
    record.result["last"]["test"]["top1"] = 5.0
    record.result["last"]["validation"]["top1"] = 25.0
    store.save(record)
    assert row(entry, store).ours == verdicts.test_error(record) == 31
    assert row(entry, store, measure=lambda r: r.result["best"]["validation"]["top1"]).ours == 20


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_is_welchs(seed):
    random = np.random.default_rng(seed)
    one = random.normal(12, 0.1 + seed, int(random.integers(2, 11))).tolist()
    other = random.normal(13, 2, int(random.integers(2, 11))).tolist()
    mean, low, high = difference(Sample.of(one), Sample.of(other))
    wanted = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(one) - np.mean(other), rel=1e-9)
    assert (low, high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    back = difference(Sample.of(other), Sample.of(one))
    assert back == pytest.approx((-mean, -high, -low), rel=1e-9)


def test_an_interval_needs_two_runs_on_each_side():
    two, one = Sample.of([1.0, 2.0]), Sample.of([1.0])
    assert difference(two, one) is None
    assert difference(one, two) is None
    assert difference(Sample.of([3.0, 3.0]), Sample.of([1.0, 1.0])) == (2, 2, 2)  # Welch has no answer here
    assert difference(two, two)[0] == 0


# -- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "found", "words"),
    [
        (None, None, "too few runs"),
        (-0.7, None, "too few runs"),
        (-0.7, (-1.0, -2.0, 0.5), "-1.0 (-2.0 to +0.5): undecided"),
        (None, (0.0, 0.0, 0.0), "+0.0 (+0.0 to +0.0): undecided"),
        (None, (0.2, 0.0, 0.4), "+0.2 (+0.0 to +0.4): undecided"),  # 0 is inside
        (None, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): worse"),
        (None, (-1.0, -1.5, -0.5), "-1.0 (-1.5 to -0.5): better"),
        (math.nan, (-1.0, -1.5, -0.5), "-1.0 (-1.5 to -0.5): better"),
        (-0.73, (-1.0, -1.5, -0.5), "-1.0 (-1.5 to -0.5): as printed (-0.73)"),
        (1.56, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): as printed (+1.56)"),
        (-0.73, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): not as printed (-0.73)"),
        (1.56, (-1.0, -1.5, -0.5), "-1.0 (-1.5 to -0.5): not as printed (+1.56)"),
        (0.0, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): worse; printed as level"),
        (0.0, (-1.0, -1.5, -0.5), "-1.0 (-1.5 to -0.5): better; printed as level"),
        (-0.12, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): worse; printed as level"),
        (0.31, (1.0, 0.5, 1.5), "+1.0 (+0.5 to +1.5): as printed (+0.31)"),
    ],
)
def test_words_of_every_case(printed, found, words):
    assert compare(printed, found) == words


def test_a_row_is_compared_with_backprop_of_its_network_and_protocol(tmp_path):
    store = RunStore(tmp_path)
    plain, dgl, sedona, even = (
        entry_of("backprop", 12.31), entry_of("dgl", 12.19), entry_of("sedona", 11.58), entry_of("given", None)
    )  # fmt: skip
    elsewhere = [replace(plain, network="resnet50", runs=()), replace(plain, protocol="short", runs=())]
    entries = [plain, dgl, sedona, even, *elsewhere]
    save_errors(store, plain, [40.0, 41.0, 42.0])
    save_errors(store, dgl, [50.0, 51.0, 52.5])
    save_errors(store, sedona, [30.0])
    save_errors(store, even, [20.0, 21.0])
    frame = side_by_side(entries, store)
    assert list(frame.columns) == COLUMNS
    found = frame["verdict"].tolist()
    wanted = stats.ttest_ind([50, 51, 52.5], [40, 41, 42], equal_var=False).confidence_interval()
    assert found[1] == f"+10.2 ({wanted.low:+.1f} to {wanted.high:+.1f}): worse; printed as level"
    assert found[2] == "too few runs"
    assert found[3].endswith(": better")
    assert [found[place] for place in (0, 4, 5)] == ["", "", ""]
    against = side_by_side(entries[:4], store, against="dgl")["verdict"].tolist()
    assert against[1] == ""
    assert against[0] == f"-10.2 ({-wanted.high:+.1f} to {-wanted.low:+.1f}): better; printed as level"
    assert "verdict" not in side_by_side(entries, store, against=None)


def test_a_table_without_one_row_to_compare_with_is_refused_in_one_line(tmp_path):
    for entries, count in (([entry_of("dgl")], 0), ([entry_of("dgl"), *[entry_of("backprop")] * 2], 2)):
        with pytest.raises(SedonaError) as caught:
            side_by_side(entries, RunStore(tmp_path))
        assert str(caught.value) == f"{count} rows 'backprop' for vgg19; allowed: one to compare with"


# -- nothing there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["short", "paper"])
def test_an_empty_store_gives_no_number_and_says_what_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SEDONA_RELEASED", str(tmp_path / "absent"))
    protocol, store = protocols.load(name), RunStore(tmp_path / "empty")
    for experiment in experiments.EXPERIMENTS:
        entries = experiments.load(experiment, protocol, store)
        has_reference = any(entry.variant == "backprop" for entry in entries)
        frame = side_by_side(entries, store, against="backprop" if has_reference else None)
        assert frame["ours"].isna().all()
        assert frame["spread"].isna().all()
        assert (frame["n"] == 0).all()
        if not entries:  # about other networks, or under another protocol
            known = {
                *experiments.POSTER_NETWORKS,
                *(one for names in experiments.ON_LARGE.values() for one in names),
            }
            assert experiment in known
            assert shown(frame).empty
            continue
        assert set(shown(frame)["ours"]) == {"no record"}
        if has_reference:
            assert set(frame["verdict"]) == {"", "no record"}
        text = "\n".join(missing(entries, store))
        for entry in entries:
            same = [str(other.num_blocks) for other in entries if other.variant == entry.variant]
            blocks = f" (K = {', '.join(same)})" if len(same) > 1 else ""
            assert f", {entry.variant}{blocks}" in text, (experiment, entry.variant)
            waits = f"waits for {len(entry.needs)} searches or choices of a rate"
            assert (waits if entry.needs else f"{len(entry.runs)} of {len(entry.runs)} runs each") in text
        assert text.count(f"{name}: vgg19, ") == text.count(": no record; ") == len(text.splitlines())


def test_missing_counts_what_an_entry_waits_for_and_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("SEDONA_RELEASED", str(tmp_path / "absent"))
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    entries = experiments.load("table02", protocol, store)
    save_made(store, *list(protocol.tuning("dgl").values())[:3], protocol.search(0))
    wait = "no record; waits for {} searches or choices of a rate".format
    one = "no record; waits for one search or choice of a rate"
    assert missing(entries, store) == [
        f"short: vgg19, backprop, predsim, sedona, even cost: {wait(4)}",
        f"short: vgg19, dgl: {one}",
        f"short: vgg19, own search: {wait(2)}",
        f"short: vgg19, own search (released objective): {wait(3)}",
    ]
    blocks = "(K = 2, 4, 8, 12, 16)"
    assert missing(experiments.load("figure03", protocol, store), store) == [
        f"short: vgg19, backprop, predsim {blocks}, sedona {blocks}: {wait(4)}",
        f"short: vgg19, dgl {blocks}: {one}",
    ]
    save_made(store, *protocol.tuning("dgl").values())
    (line,) = (line for line in missing(experiments.load("figure03", protocol, store), store) if "dgl" in line)
    assert line == f"short: vgg19, dgl {blocks}: no record; 3 of 3 runs each"
    deep = experiments.load("table04", protocols.load("paper", "resnet101"), store)
    (line,) = (line for line in missing(deep, store) if "random alpha" in line)
    why = "heads of all layers of resnet101 are in the authors' files alone (SEDONA_RELEASED)"
    assert line == f"paper: resnet101, random alpha: no record; {why}"
    assert side_by_side(deep, store, against="sedona")["verdict"].tolist() == ["", "no record", "no record"]


def test_no_reference_is_no_verdict(tmp_path):
    store, entries = RunStore(tmp_path), [entry_of("backprop"), entry_of("dgl")]
    save_errors(store, entries[1], [1.0, 2.0, 3.0])
    assert side_by_side(entries, store)["verdict"].tolist() == ["", "backprop: no record"]


def test_for_reading_numbers_are_words(tmp_path):
    store = RunStore(tmp_path)
    entries = [
        entry_of("backprop", 12.31),
        entry_of("dgl", None),
        entry_of("sedona", 11.58),
        entry_of("given", runs=()),
    ]
    save_errors(store, entries[0], [40.0, 41.0, 42.0])
    save_errors(store, entries[1], [50.0])
    table = shown(side_by_side(entries, store))
    assert table["paper"].tolist() == ["12.31", "", "11.58", "12.00"]
    assert table["ours"].tolist() == ["41.00 ± 1.00", "50.00", "no record", "no record"]
    assert table["runs"].tolist() == ["3 of 3", "1 of 3", "0 of 3", ""]
    assert table["verdict"].tolist() == ["", "too few runs", "no record", "no record"]
    assert "verdict" not in shown(side_by_side(entries, store, against=None))


def test_runs_that_diverged_are_counted_and_have_no_part_in_a_mean(tmp_path):
    store = RunStore(tmp_path)
    entries = [entry_of("backprop", 12.31), entry_of("dgl", None), entry_of("sedona", 11.58), entry_of("predsim")]
    save_errors(store, entries[0], [40.0, 41.0, 42.0])
    save_errors(store, entries[1], [50.0, 52.0])
    save_diverged(store, entries[1].runs[2])
    for spec in entries[2].runs:
        save_diverged(store, spec)
    save_diverged(store, entries[3].runs[0])
    frame = side_by_side(entries, store)
    found = shown(frame)
    assert found["ours"].tolist() == ["41.00 ± 1.00", "51.00 ± 1.41", "-", "-"]
    assert found["runs"].tolist() == ["3 of 3", "2 of 3", "0 of 3", "0 of 3"]
    assert frame["diverged"].tolist() == [0, 1, 3, 1]
    words = frame["verdict"].tolist()
    assert words[0] == ""
    low, high = difference(Sample.of([50.0, 52.0]), Sample.of([40.0, 41.0, 42.0]))[1:]
    assert low > 0
    assert words[1] == f"+10.0 ({low:+.1f} to {high:+.1f}): worse; 1 diverged"
    assert words[2:] == ["diverged", "diverged"]
    assert missing(entries, store) == ["smoke: vgg19, predsim: no record; 2 of 3 runs each"]
    other_way = side_by_side(entries, store, against="sedona")["verdict"].tolist()
    assert other_way == ["sedona: diverged", "sedona: diverged; 1 diverged", "diverged", "diverged"]
    assert record_frames.runs(entries, store)["variant"].tolist() == ["backprop"] * 3 + ["dgl"] * 2
    assert len(record_frames.curves(entries, store)) == 5
    assert record_frames.alignments(entries, store).empty
    assert len(record_frames.configurations(entries, store, [1.0] * 16)) == 2
    assert "diverged" in result_tables.text("table07", ["made"], entries, store)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.update(format=0), "record format 0; this version reads format 1"),
        (lambda content: content.pop("format"), "record format None; this version reads format 1"),
        (lambda content: content["spec"].pop("seed"), "RunSpec: fields missing or unknown: seed"),
        (
            lambda content: content["spec"]["train"].update(decay=1),
            "TrainConfig: fields missing or unknown: decay",
        ),
    ],
)
def test_a_record_of_another_format_is_named_in_one_line(change, reason, tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=1)
    record = made_record(entry.runs[0])
    content = json.loads(record.to_json())
    change(content)
    path = store.path(entry.runs[0])
    path.write_text(json.dumps(content))
    for look in (lambda: row(entry, store), lambda: missing([entry], store)):
        with pytest.raises(SedonaError) as caught:
            look()
        assert str(caught.value) == f"{path} is no record: {reason}; mend or remove it"


def test_a_record_in_the_wrong_place_is_named_in_one_line(tmp_path):
    store, entry = RunStore(tmp_path), entry_of(seeds=2)
    store.path(entry.runs[0]).write_text(made_record(entry.runs[1]).to_json())
    with pytest.raises(SedonaError) as caught:
        row(entry, store)
    assert str(caught.value) == f"{store.path(entry.runs[0])} holds the record of another spec; remove it"
    assert spec_hash(entry.runs[0]) in str(caught.value)
