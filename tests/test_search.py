"""The weight memory, Algorithm 1, and a search that is killed at a random step and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sedona_nb import data, search
from sedona_nb.bilevel import InnerConfig, Weights
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.memory import WeightMemory
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig
from sedona_nb.search_state import SearchState

NETWORK = NetworkConfig("vgg11", 1 / 32)
CONFIG = SearchConfig(
    pretrain_steps=9,
    snapshot_every=3,
    memory_size=2,
    outer_steps=5,
    outer_batch_size=64,
    inner=InnerConfig(steps=2, batch_size=16, lr=0.05),
)


def some_weights(value: float) -> Weights:
    return Weights({"w": torch.full((3,), value)}, {"w": torch.zeros(3)}, {})


@pytest.fixture(params=["ram", "disk"])
def folder(request, tmp_path):
    return tmp_path / "memory" if request.param == "disk" else None


def contents(memory: WeightMemory) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return sorted({memory.sample(generator)[1].parameters["w"][0].item() for _ in range(200)})


def test_pretraining_keeps_the_best_or_the_last_sets(folder):
    errors = [50, 40, 45, 30, 60, 35]
    best, last = WeightMemory(3, "best", folder=folder), WeightMemory(3, "last", folder=None)
    kept = [best.offer(some_weights(error), step, error) for step, error in enumerate(errors)]
    for step, error in enumerate(errors):
        last.offer(some_weights(error), step, error)
    assert contents(best) == [30, 35, 40]
    assert kept == [True, True, True, True, False, True]
    assert contents(last) == [30, 35, 60]


def test_search_evicts_the_oldest_or_replaces_the_sampled_set(folder):
    generator = torch.Generator().manual_seed(1)
    for eviction, expected in (("oldest", {1.0, 2.0, 9.0}), ("replace", None)):
        memory = WeightMemory(3, eviction=eviction, folder=folder)
        for value in range(3):
            memory.offer(some_weights(value), value, error=10 - value)
        entry, weights = memory.sample(generator)
        sampled = weights.parameters["w"][0].item()
        memory.renew(entry, some_weights(9.0), entry.step + 1)
        assert set(contents(memory)) == (expected or {0.0, 1.0, 2.0, 9.0} - {sampled})


def test_memory_samples_uniformly():
    memory = WeightMemory(4)
    for value in range(4):
        memory.offer(some_weights(value), value, error=value)
    generator = torch.Generator().manual_seed(2)
    counts = torch.bincount(torch.tensor([memory.sample(generator)[0].number for _ in range(4000)]))
    assert (counts - 1000).abs().max() < 120  # 4 standard deviations


def test_a_saved_state_survives_later_changes_until_commit(tmp_path):
    memory = WeightMemory(2, folder=tmp_path)
    memory.offer(some_weights(1), 0, 5.0)
    memory.offer(some_weights(2), 1, 4.0)
    state = memory.state()
    memory.offer(some_weights(3), 2, 3.0)  # pushes out set 0; its file must stay until the checkpoint is written
    again = WeightMemory(2, folder=tmp_path)
    again.restore(state)
    assert contents(again) == [1, 2]
    assert len(list(tmp_path.glob("*.pt"))) == 2
    (tmp_path / "set-00000001.pt").unlink()
    with pytest.raises(SedonaError, match="weight set 1 of the checkpoint is missing"):
        WeightMemory(2, folder=tmp_path).restore(state)


def test_memory_refuses_nonsense():
    with pytest.raises(SedonaError, match="at least 1"):
        WeightMemory(0)
    with pytest.raises(SedonaError, match="allowed: oldest, replace"):
        WeightMemory(2, eviction="newest")
    with pytest.raises(SedonaError, match="memory is empty"):
        WeightMemory(2).sample(torch.Generator())


def test_search_shapes_and_histories():
    result = search.run(data.load("digits"), NETWORK, CONFIG)
    assert result.alpha.shape == (7, 2)
    assert result.beta.shape == (7, 4)
    assert result.alpha_history.shape == (6, 7, 2)
    assert result.beta_history.shape == (6, 7, 4)
    assert result.alpha_gradients.shape == (5, 7, 2)
    assert torch.equal(result.alpha_history[0], torch.zeros(7, 2))
    assert torch.equal(result.alpha_history[-1], result.alpha)
    # Adam's first step moves each entry by the learning rate, against the sign of its gradient.
    torch.testing.assert_close(
        result.alpha_history[1], -0.01 * result.alpha_gradients[0].sign(), atol=1e-4, rtol=0
    )
    assert [row[0] for row in result.pretraining] == [3, 6, 9]


def test_search_without_pretraining_or_with_one_set_in_memory():
    """The ablations of Table 8."""
    pictures = data.load("digits")
    nothing = search.run(pictures, NETWORK, replace(CONFIG, pretrain_steps=0, outer_steps=2))
    assert nothing.pretraining == []
    assert not torch.equal(nothing.alpha, torch.zeros(7, 2))
    one = search.run(pictures, NETWORK, replace(CONFIG, memory_size=1, outer_steps=2))
    assert not torch.equal(one.alpha, nothing.alpha)


def test_released_settings_run_and_differ():
    pictures = data.load("digits")
    released = SearchConfig.released(
        **{
            name: getattr(CONFIG, name)
            for name in ("pretrain_steps", "snapshot_every", "outer_steps", "memory_size")
        },
        outer_batch_size=64,
        padding=None,
    )
    inner = replace(released.inner, steps=2, batch_size=16, lr=0.05)
    released = replace(released, inner=inner)
    assert (released.keep, released.eviction, released.objective) == ("last", "replace", "released")
    assert inner.head_scaling == "released"
    result = search.run(pictures, NETWORK, released)
    assert not torch.equal(result.alpha, search.run(pictures, NETWORK, CONFIG).alpha)


def test_higher_backend_gives_the_same_search():
    pictures = data.load("digits")
    short = replace(CONFIG, outer_steps=2)
    one, other = (search.run(pictures, NETWORK, replace(short, backend=name)) for name in ("functional", "higher"))
    torch.testing.assert_close(one.alpha_gradients, other.alpha_gradients, rtol=1e-2, atol=1e-5)


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from test_search import CONFIG, NETWORK
from sedona_nb import data, search
result = search.run(data.load("digits"), NETWORK, CONFIG, seed=3, folder=sys.argv[1])
torch.save([result.alpha, result.beta, result.alpha_history, result.outer_losses], sys.argv[1] + "/result.pt")
"""


def run_child(folder: Path, kill_after: int | None = None) -> bool:
    """Search in a process of its own; kill -9 it when the checkpoint has been written `kill_after` times."""
    command = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "SEDONA_HEADLESS": "1"})
    written, stamp = 0, None
    while child.poll() is None:
        if kill_after is not None and (folder / "search.pt").exists():
            now = (folder / "search.pt").stat().st_mtime_ns
            written, stamp = written + (now != stamp), now
            if written > kill_after:
                time.sleep(random.random() * 0.2)  # anywhere inside the next step, its file writing included
                child.send_signal(signal.SIGKILL)
                child.wait()
                return False
        time.sleep(0.002)
    assert child.returncode == 0
    return True


def test_killed_search_resumes_to_the_same_decisions_bit_for_bit(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert run_child(undisturbed)
    # Checkpoints come with 3 snapshots and 5 outer steps; a child makes one or two of them before it is killed, so
    # the kills fall into the pretraining and into the search.
    kills = 0
    while not run_child(killed, kill_after=random.choice((1, 2))):
        kills += 1
    assert kills >= 3
    one, other = (torch.load(folder / "result.pt", weights_only=True) for folder in (undisturbed, killed))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    assert sorted(path.name for path in killed.iterdir()) == ["memory", "result.pt", "search.pt"]
    assert len(list((killed / "memory").iterdir())) == CONFIG.memory_size


def paused_search(folder: Path, stops_at, config: SearchConfig = CONFIG) -> tuple[list[str], search.SearchResult]:
    """Search in pieces that end where `stops_at` says so of the number of steps in all; what each end says."""
    stops, steps, pictures = [], [], data.load("digits")

    def pause() -> bool:
        steps.append(0)
        return stops_at(len(steps))

    while True:
        try:
            return stops, search.run(pictures, NETWORK, config, seed=3, folder=folder, pause=pause)
        except Paused as stop:
            stops.append(str(stop))


def same_search(one: search.SearchResult, other: search.SearchResult) -> bool:
    names = ("alpha", "beta", "alpha_history", "beta_history", "alpha_gradients", "outer_losses")
    equal = all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    return equal and one.pretraining == other.pretraining


def test_paused_after_every_step_a_search_comes_to_the_same_decisions_bit_for_bit(tmp_path, one_thread):
    config = replace(CONFIG, pretrain_steps=5, snapshot_every=2, outer_steps=3)
    wanted = search.run(data.load("digits"), NETWORK, config, seed=3)
    stops, found = paused_search(tmp_path, lambda _: True, config)
    steps = [f"paused at step {step} of 5 of pretraining" for step in range(1, 6)]
    steps += [f"paused at outer step {step} of 3" for step in (1, 2)]  # not after the last
    assert stops == steps
    assert same_search(found, wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "search.pt"]
    assert len(list((tmp_path / "memory").iterdir())) == CONFIG.memory_size


@pytest.mark.parametrize(
    "changes", [{}, {"eviction": "replace", "renewal_batch": "new", "inner_rate": "stored_step"}]
)
def test_paused_inside_pretraining_and_inside_the_outer_loop(changes, tmp_path, one_thread):
    config = replace(CONFIG, outer_steps=3, **changes)
    wanted = search.run(data.load("digits"), NETWORK, config, seed=3)
    stops, found = paused_search(tmp_path, (4, 11).__contains__, config)
    assert stops == ["paused at step 4 of 9 of pretraining", "paused at outer step 2 of 3"]
    assert same_search(found, wanted)
    assert 0.5 * wanted.processor_seconds < found.processor_seconds < 1.1 * found.seconds  # of all three pieces


def test_a_search_that_was_begun_without_counting_processor_time_does_not_claim_to_know_it():
    old = {
        name: value for name, value in SearchState.undecided(7, 4).to_saved().items() if "processor" not in name
    }
    state = SearchState.from_saved(old)
    state.passed(2.0, 1.5)
    assert (state.result().seconds, state.result().processor_seconds) == (2.0, None)
    new = SearchState.from_saved(SearchState.undecided(7, 4).to_saved())
    new.passed(2.0, 1.5)
    assert (new.result().seconds, new.result().processor_seconds) == (2.0, 1.5)


def test_pause_without_a_folder_is_refused():
    with pytest.raises(SedonaError, match="^pause without a folder: there would be nothing to go on from$"):
        search.run(data.load("digits"), NETWORK, CONFIG, pause=lambda: False)


def test_resuming_with_other_settings_is_refused(tmp_path):
    pictures = data.load("digits")
    search.run(pictures, NETWORK, replace(CONFIG, outer_steps=1), folder=tmp_path)
    with pytest.raises(SedonaError, match="holds a search with other settings"):
        search.run(pictures, NETWORK, replace(CONFIG, outer_steps=2), folder=tmp_path)
    (tmp_path / "search.pt").write_bytes(b"half a file")
    with pytest.raises(SedonaError, match=r"cannot read .*search\.pt: damaged"):
        search.run(pictures, NETWORK, replace(CONFIG, outer_steps=1), folder=tmp_path)


def test_a_diverging_search_says_where():
    config = replace(CONFIG, inner=replace(CONFIG.inner, lr=1e30))
    with pytest.raises(SedonaError, match=r"step \d+: the loss of layer \d of 8 is (nan|inf)"):
        search.run(data.load("digits"), NETWORK, config)


def test_search_on_every_device(device):
    result = search.run(data.load("digits"), NETWORK, replace(CONFIG, outer_steps=1), device=device)
    assert result.alpha.device.type == "cpu"
    assert torch.isfinite(result.alpha).all()


def test_wrong_settings_are_refused_in_one_line():
    for changes, message in (
        ({"objective": "train"}, "unknown objective 'train'"),
        ({"keep": "worst"}, "allowed: best, last"),
        ({"inner_rate": "constant"}, "allowed: outer_cosine, stored_step"),
        ({"outer_steps": -1}, "must be at least 0"),
    ):
        with pytest.raises(SedonaError, match=message):
            replace(CONFIG, **changes)
