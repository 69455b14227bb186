"""What `runs table` prints of an experiment: its own measure, the row it compares with, what is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from toys import made_record

from sedona_nb import experiments, protocols, result_tables, run_commands
from sedona_nb.store import RunStore

PROTOCOL = protocols.load("smoke")


def printed(name: str, store: RunStore) -> str:
    return result_tables.text(name, [PROTOCOL.label], experiments.load(name, PROTOCOL, store), store)


def save(name: str, store: RunStore, **errors: tuple[float, ...]) -> None:
    for entry in experiments.load(name, PROTOCOL, store):
        for spec, error in zip(entry.runs, errors.get(entry.variant, ()), strict=False):
            store.save(made_record(spec, validation=2 * error - 20, test=error))


@pytest.mark.parametrize(("name", "reference"), [("table02", "backprop"), ("table04", "sedona")])
def test_rows_are_compared_with_the_row_that_the_experiment_is_about(name, reference, tmp_path):
    store = RunStore(tmp_path)
    others = {"table02": "dgl", "table04": "random alpha"}
    save(name, store, **{reference: (20.0, 21.0), others[name]: (40.0, 41.0)})
    lines = printed(name, store).splitlines()
    assert lines[0] == f"{name}, test error in %: {PROTOCOL.label}"
    (other,) = (line for line in lines if others[name] in line and "±" in line)
    (own,) = (line for line in lines if f" {reference} " in line and "±" in line)
    assert "+20.0 (" in other
    assert "+" not in own
    assert any(": no record; " in line for line in lines) == (
        name == "table02" or "random beta" in printed(name, store)
    )


def test_training_errors_stand_before_test_errors(tmp_path):
    store = RunStore(tmp_path)
    save("table07", store, backprop=(30.0, 30.0))
    lines = printed("table07", store).splitlines()
    titles = [i for i, line in enumerate(lines) if "in %" in line]
    assert [lines[i].partition(":")[0] for i in titles] == [
        "table07, training error in %",
        "table07, test error in %",
    ]
    assert "20.00 ± 0.00" in lines[titles[0] + 2]  # made_record: half the validation error, 2 * 30 - 20
    assert "30.00 ± 0.00" in lines[titles[1] + 2]
    assert "paper" not in lines[titles[0] + 1]


def test_figure_8_is_about_cosines_below_the_last_block(tmp_path):
    store = RunStore(tmp_path)
    entries = experiments.load("figure08", PROTOCOL, store)
    for entry in entries:
        for spec in entry.runs:
            record = made_record(spec)
            below = spec.decoupling.blocks[-1][0] - 1
            looks = [[0, [0.25] * below + [1.0] * (16 - below)], [5, [0.75] * below + [1.0] * (16 - below)]]
            store.save(replace(record, result={**record.result, "alignment": looks}))
    lines = printed("figure08", store).splitlines()
    assert lines[0].startswith("figure08, mean cosine of gradients below the last block: ")
    assert sum("0.50 ± 0.00" in line for line in lines) == len(entries)


def test_records_without_what_is_measured_are_no_number(tmp_path):
    store = RunStore(tmp_path)
    entries = experiments.load("figure08", PROTOCOL, store)
    for spec in entries[0].runs:
        store.save(made_record(spec))
    row = printed("figure08", store).splitlines()[2].split()
    assert row[-5:] == ["no", "record", "0", "of", "2"]


def test_a_few_draws_give_no_mean(tmp_path):
    store = RunStore(tmp_path)
    save("figure06", store, random=(30.0,) * 4)
    (row,) = (line for line in printed("figure06", store).splitlines() if " random " in line)
    assert "30.00" not in row
    assert "4 of 30" in row
    save("figure06", store, random=(30.0,) * 5)
    (row,) = (line for line in printed("figure06", store).splitlines() if " random " in line)
    assert "30.00 ± 0.00" in row
    assert "5 of 30" in row


@pytest.mark.parametrize("command", ["list", "table"])
@pytest.mark.parametrize(
    ("name", "networks", "names"),
    [
        ("poster_table1", "resnet18 or resnet50", "short or paper or smoke"),
        ("poster_figure3", "resnet50 or transformer20", "short or paper or smoke"),
        ("table05", "resnet152", "imagenet-dgl"),
    ],
)
def test_an_experiment_about_other_networks_names_them(command, name, networks, names, tmp_path, capsys):
    assert run_commands.main([command, name, "--store", str(tmp_path)]) == 0
    allowed = f"--network {networks}, --protocol {names}"
    assert capsys.readouterr().out == f"{name}: nothing for this network and protocol; allowed: {allowed}\n"


def test_a_reader_that_has_seen_enough_is_no_mistake(tmp_path):
    command = [sys.executable, "-m", "sedona_nb.runs", "list", "--store", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "table02\n"
    process.stdout.close()
    assert process.wait(120) == 0
    assert process.stderr.read() == ""
