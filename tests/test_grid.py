"""Grids of real runs: worked through, interrupted, shared by processes; and mistakes, a line each."""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_grids import TABLE, after, grid, protocol, results, shell, spoil

from sedona_nb import data, plans, protocols, run_commands, training
from sedona_nb.errors import Diverged, SedonaError
from sedona_nb.grid import Grid, RunsFailed, describe, execute
from sedona_nb.protocols import Protocol
from sedona_nb.records import SearchSpec, spec_hash
from sedona_nb.runs import find_or_train
from sedona_nb.store import Busy, RunStore

pytestmark = pytest.mark.usefixtures("one_thread")
SHELL_RUNS = ("run", TABLE, "--protocol", "smoke", "--device", "cpu", "--variant", "backprop", "--variant", "dgl")


@pytest.fixture(scope="module")
def pictures():
    return data.load("digits")


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Grid:
    """Worked through without a disturbance: the search and the runs that follow from it, and two others."""
    undisturbed = grid(tmp_path_factory.mktemp("whole"), "backprop", "dgl", "own search")
    assert undisturbed.run(pictures, say=lambda line: None)
    return undisturbed


def test_a_grid_leaves_the_records_that_its_runs_leave_one_by_one(whole, pictures, tmp_path):
    assert [len(whole.snapshot().states[state]) for state in ("recorded", "running", "begun", "open")] == [
        4,
        0,
        0,
        0,
    ]
    assert whole.open() == []
    alone = RunStore(tmp_path)
    for spec in grid(tmp_path, "backprop", "dgl").specs(TABLE):
        execute(spec, pictures, alone)
    assert results(alone).items() <= results(whole.store).items()
    assert len(alone.records()) == 2
    assert list((whole.store.folder / "checkpoints").iterdir()) == []


def test_a_grid_grows_by_what_its_searches_find(whole, pictures, tmp_path):
    small = grid(tmp_path, "own search")
    (search,) = small.open()
    assert small.snapshot().waiting == 1
    assert "1 entries wait" in small.snapshot().text()
    planned = plans.complete(small).specs()
    assert planned[0] == search
    assert len(planned) == 2
    lines = []
    assert small.run(pictures, say=lines.append)
    assert len(small.specs()) == len(planned)
    assert [line.partition(":")[0] for line in lines] == [describe(spec) for spec in small.specs()]
    assert plans.complete(small).specs() == small.specs()
    assert results(small.store).items() <= results(whole.store).items()


def test_what_is_recorded_is_not_run_again(whole, pictures):
    stamps = {path: path.stat().st_mtime_ns for path in whole.store.folder.glob("*.json")}
    assert whole.run(pictures, say=lambda line: pytest.fail(line))
    assert {path: path.stat().st_mtime_ns for path in whole.store.folder.glob("*.json")} == stamps


def test_a_grid_that_pauses_again_and_again_ends_with_the_same_records(whole, pictures, tmp_path):
    broken = grid(tmp_path, "backprop", "dgl")
    lines, begun, calls = [], 0, 0
    while not broken.run(pictures, pause=after(4), say=lines.append):
        begun += len(broken.snapshot().states["begun"])
        calls += 1
        assert calls < 30
    assert calls >= 3
    assert begun >= 2
    assert any("paused at step" in line for line in lines)
    assert results(broken.store).items() <= results(whole.store).items()
    assert len(broken.store.records()) == 2


def test_what_was_begun_goes_on_before_anything_else_begins(pictures, tmp_path):
    small = grid(tmp_path, "backprop", "dgl")
    first, second = small.specs()
    with pytest.raises(Exception, match="paused"):
        find_or_train(second, pictures, small.store, pause=lambda: True)
    lines = []
    small.run(pictures, say=lines.append)
    assert [line.split()[0] for line in lines] == [spec_hash(second), spec_hash(first)]


def test_one_run_that_fails_does_not_stop_the_others(pictures, tmp_path):
    good, bad = protocol(), protocol(lr=0.04)
    both = Grid((TABLE,), (bad, good), RunStore(tmp_path), ("backprop", "dgl"))
    for spec in both.specs()[:2]:
        spoil(both.store, spec)
    lines = []
    with pytest.raises(RunsFailed, match=r"2 runs failed, the first with: .* holds a run with other settings"):
        both.run(pictures, say=lines.append)
    assert [record.spec.train.lr for record in both.store.records()] == [0.05, 0.05]
    assert sum("FAILED" in line for line in lines) == 2


def test_a_run_that_diverges_leaves_a_record_and_is_not_trained_again(pictures, tmp_path, monkeypatch):
    both = Grid((TABLE,), (protocol(lr=1e30), protocol()), RunStore(tmp_path), ("backprop", "dgl"))
    lines = []
    assert both.run(pictures, say=lines.append)
    reason = r"the loss of .* at step \d; lower the learning rate \(here 1e\+30\)"
    assert len([line for line in lines if re.search(rf": diverged: {reason}; [\d.]+ s$", line)]) == 2
    assert "[########################################] 4 of 4 runs" in both.snapshot().text()
    first, _, third, _ = both.specs()
    record = both.store.load(first)
    assert list(record.result) == ["diverged"]
    assert re.fullmatch(reason, record.diverged)
    assert both.store.load(third).diverged == ""
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    assert both.run(pictures)
    with pytest.raises(Diverged, match=reason):
        find_or_train(first, pictures, both.store)


def test_what_somebody_else_is_at_work_on_is_left_and_waited_for(whole, pictures, tmp_path):
    small = grid(tmp_path, "backprop", "dgl")
    first, second = small.specs()
    lines = []
    with small.store.claimed(first):
        with pytest.raises(Busy):
            execute(first, pictures, small.store)
        assert small.snapshot().states["running"] == (first,)
        # It cannot get at the first one, and stops when the second one is there.
        assert not small.run(pictures, pause=lambda: bool(small.store.load(second)), say=lines.append)
    assert [line.split()[0] for line in lines] == [spec_hash(second)]
    assert small.run(pictures, say=lines.append)
    assert len(small.store.records()) == 2


# -- processes ---------------------------------------------------------------------------------------------------


def test_sigterm_stops_at_a_checkpoint_and_two_shells_finish_what_is_left(pictures, tmp_path):
    plain = Grid((TABLE,), (protocol_of_the_shell(),), RunStore(tmp_path / "plain"), ("backprop", "dgl"))
    assert plain.run(pictures, say=lambda line: None)
    store = RunStore(tmp_path / "stopped")
    process = shell(*SHELL_RUNS, "--store", str(store.folder))
    while not list(store.folder.glob("checkpoints/*/training.pt")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == run_commands.MORE_TO_DO, said
    assert "paused at step" in said
    assert list(store.folder.glob("checkpoints/*/training.pt"))
    both = [shell(*SHELL_RUNS, "--store", str(store.folder)) for _ in range(2)]
    said += "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    finished = [line.split()[0] for line in said.splitlines() if "validation " in line and "K = " in line]
    assert sorted(finished) == sorted(map(spec_hash, plain.specs()))  # each once, by whomever
    assert results(store) == results(plain.store)


def protocol_of_the_shell() -> Protocol:
    return protocols.load("smoke")


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "table20"), "unknown experiment 'table20'; allowed: table02, table03"),
        (("list", "table02", "--variant", "dlg"), "unknown variant 'dlg'; allowed: backprop, dgl"),
        (
            ("status", "--protocol", "shrot"),
            "unknown protocol 'shrot'; allowed: short, paper, smoke, tiny-imagenet",
        ),
        (
            ("table", "--network", "vgg11"),
            "unknown network for protocol 'short' 'vgg11'; allowed: vgg19, resnet50",
        ),
        (("start", "table02"), "unknown command 'start'"),
        (("run", "--engine", "dask"), "unknown engine 'dask'; allowed: here, ray"),
        (("run", "--workers", "2"), "--workers is for --engine ray"),
        (("run", "--gpus", "0.5"), "--gpus is for --engine ray"),
        (("run", "--engine", "ray", "--workers", "0"), "--threads and --workers are whole numbers from 1"),
        (("run", "--stop-after", "soon"), "'soon' is no time; allowed: such as 90s, 9m, 2h"),
        (("run", "--device", "cuda:99"), "no device 'cuda:99' on this machine"),
        (("estimate", "--price", "-1"), "--price -1 is not allowed; allowed: a number from 0"),
        (("estimate", "--price", "nan"), "--price nan is not allowed"),
        (("list", "--data", "cifar01"), "unknown data set 'cifar01'"),
        (("table", "--gpus", "3"), "--gpus means nothing to table; allowed with: run"),
        (("status", "--stop-after", "5m"), "--stop-after means nothing to status; allowed with: run"),
        (("run", "--price", "1"), "--price means nothing to run; allowed with: estimate"),
        (("list", "--workers", "2"), "--workers means nothing to list; allowed with: run, estimate"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said, tmp_path, capsys, signals):
    assert run_commands.main([*arguments, "--store", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert len(error.splitlines()) == 1


def test_an_unknown_option_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        run_commands.main(["run", "--wrokers", "2"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("command", ["list", "status", "estimate", "table"])
def test_an_empty_store_is_no_mistake(command, tmp_path, capsys):
    store = tmp_path / "not there yet"
    assert (
        run_commands.main([command, TABLE, "--protocol", "smoke", "--store", str(store), "--device", "cpu"]) == 0
    )
    assert capsys.readouterr().out
    assert not store.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 0}, "record format 0; this version reads format 1"),
        ({"colour": "red"}, "RunSpec: fields missing or unknown: colour"),
    ],
)
@pytest.mark.parametrize("command", ["run", "status", "estimate", "table"])
def test_a_record_that_cannot_be_read_is_named(command, change, reason, whole, tmp_path, capsys, signals):
    smoke = Grid((TABLE,), (protocol_of_the_shell(),), RunStore(tmp_path), ("backprop",))
    content = json.loads(whole.store.path(grid(tmp_path, "backprop").specs()[0]).read_text())
    part = content if "format" in change else content["spec"]
    part.update(change)
    path = smoke.store.path(smoke.specs()[0])
    path.write_text(json.dumps(content))
    arguments = [command, TABLE, "--protocol", "smoke", "--store", str(tmp_path), "--device", "cpu"]
    assert run_commands.main(arguments) == 2
    error = capsys.readouterr().err
    assert error == f"{path} is no record: {reason}; mend or remove it\n"


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (("result", "best"), None, "result.best.validation.top1 is None; allowed: an error in percent"),
        (
            ("result", "best", "test"),
            {"top1": None},
            "result.best.test.top1 is None; allowed: an error in percent",
        ),
        (("result", "diverged"), 7, "result.diverged is 7; allowed: which loss, and when"),
        (("result",), [1, 2], "result is [1, 2]; allowed: an object"),
        (("provenance", "seconds"), "a", "Provenance.seconds is 'a'; allowed: float"),
        (("provenance", "processor_seconds"), "a", "Provenance.processor_seconds is 'a'; allowed: float"),
        (("spec", "train", "steps"), 6.5, "TrainConfig.steps is 6.5; allowed: int"),
        (("spec", "seed"), True, "RunSpec.seed is True; allowed: int"),
    ],
)
@pytest.mark.parametrize("command", ["status", "estimate", "table"])
def test_a_damaged_record_is_named_before_anybody_counts_on_it(
    command, where, value, reason, whole, tmp_path, capsys
):
    smoke = Grid((TABLE,), (protocol_of_the_shell(),), RunStore(tmp_path), ("backprop",))
    content = json.loads(whole.store.path(grid(tmp_path, "backprop").specs()[0]).read_text())
    part = content
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    path = smoke.store.path(smoke.specs()[0])
    path.write_text(json.dumps(content))
    arguments = [command, TABLE, "--protocol", "smoke", "--store", str(tmp_path), "--device", "cpu"]
    assert run_commands.main(arguments) == 2
    assert capsys.readouterr().err == f"{path} is no record: {reason}; mend or remove it\n"


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", None), ("alpha", [[0.5]]), ("beta", []), ("alpha_history", "no")]
)
def test_a_damaged_search_is_named(name, value, whole, tmp_path):
    (search,) = [record for record in whole.store.records() if isinstance(record.spec, SearchSpec)]
    store = RunStore(tmp_path)
    store.save(replace(search, result={**search.result, name: value}))
    with pytest.raises(SedonaError, match=f"is no record: result.{name} is "):
        store.load(search.spec)


def test_a_relative_store_lies_below_the_folder_where_the_command_was_typed(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "res").symlink_to(whole.store.folder)
    asked = grid(tmp_path / "res", "backprop")
    made = protocol()
    monkeypatch.setattr(protocols, "load", lambda *arguments: made)
    assert run_commands.main(["status", TABLE, "--variant", "backprop", "--store", "res"]) == 0
    assert len(asked.specs()) == 1
    assert "1 of 1 runs" in capsys.readouterr().out


def test_a_store_that_is_a_file_or_cannot_be_made_is_one_line(tmp_path, capsys, signals):
    (tmp_path / "file").touch()
    arguments = ["run", TABLE, "--protocol", "smoke", "--device", "cpu", "--variant", "backprop", "--store"]
    assert run_commands.main([*arguments, str(tmp_path / "file")]) == 2
    assert (
        capsys.readouterr().err
        == f"--store {tmp_path / 'file'} is a file; allowed: a folder, which need not exist yet\n"
    )
    assert run_commands.main([*arguments, str(tmp_path / "file" / "below")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names_and_networks_said_twice_count_once(tmp_path, capsys):
    twice = ["table", TABLE, TABLE, "--protocol", "smoke", "--network", "vgg19", "--network", "vgg19"]
    assert run_commands.main([*twice, "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("test error in %") == 1


def test_each_protocol_of_a_grid_finds_its_own_pictures(tmp_path, pictures):
    digits = protocol()
    sequences = protocols.load("smoke", "transformer20")
    train = replace(sequences.profile.train, steps=4, evaluate_every=2)
    sequences = replace(sequences, profile=replace(sequences.profile, train=train), seeds=(0,))
    ours, several = protocols.gather([digits, sequences])
    both = Grid((TABLE, "poster_figure3"), ours, RunStore(tmp_path), ("backprop",))
    assert both.run(several, say=lambda line: None)
    assert sorted(record.spec.data for record in both.store.records()) == ["digits", "reversed-digits"]
    with pytest.raises(RunsFailed, match="1 run failed: the spec is for reversed-digits"):
        replace(both, store=RunStore(tmp_path / "one")).run(pictures, say=lambda line: None)


@pytest.mark.slow
def test_the_papers_protocol_begins_on_the_pictures_at_hand(tmp_path, real_data_root):
    asked = (TABLE, "--protocol", "paper", "--variant", "dgl", "--store", str(tmp_path))
    found = {"SEDONA_DATA": str(real_data_root)}
    process = shell("run", *asked, "--device", "cpu", "--stop-after", "15s", **found)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == run_commands.MORE_TO_DO
    assert "paused at step" in said
    assert "FAILED" not in said
    process = shell("status", *asked, **found)
    assert "1 begun, 2 open" in process.communicate(timeout=100)[0]


def test_a_run_that_fails_is_exit_code_1(tmp_path, monkeypatch, capsys, signals):
    failing = grid(tmp_path, "backprop")
    spoil(failing.store, failing.specs()[0])
    monkeypatch.setattr(run_commands, "_grid", lambda options: (failing, (data.load("digits"),)))
    assert run_commands.main(["run", "--device", "cpu"]) == 1
    assert re.fullmatch("1 run failed: .* holds a run with other settings; .*\n", capsys.readouterr().err)


def test_rows_can_be_left_out_of_a_list(tmp_path, capsys):
    arguments = ["list", TABLE, "--protocol", "smoke", "--store", str(tmp_path), "--variant", "dgl"]
    assert run_commands.main(arguments) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "vgg19, " in line] == ["  vgg19, dgl, K = 4"]


def test_times_are_read_as_people_write_them():
    assert [run_commands.seconds(text) for text in ("90", "90s", "1.5m", "2 h")] == [90, 90, 90, 7200]


def test_the_machine_and_the_clock_can_both_say_stop(signals):
    pause = run_commands.until(None)
    assert not pause()
    signal.raise_signal(signal.SIGTERM)
    assert pause()
    late = run_commands.until(0.01)
    time.sleep(0.02)
    assert late()


def test_nothing_is_written_for_a_plan(tmp_path):
    folder = tmp_path / "store"
    planned = plans.complete(grid(folder))
    assert len(planned.specs()) == 9  # 4 published, 2 searches with a run each, 1 of even cost
    assert len({spec_hash(spec) for spec in planned.specs()}) == 9
    assert not Path(folder).exists()
