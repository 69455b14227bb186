"""The weight memory on a disk that is full, and with files that are damaged: one line, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_search import CONFIG, NETWORK, contents, some_weights

from sedona_nb import data, search
from sedona_nb.errors import SedonaError
from sedona_nb.memory import WeightMemory
from sedona_nb.search_config import SearchResult

# Searches in a process of its own; from the n-th checkpoint on, files may not grow beyond a limit: so a full disk
# shows itself.
CHILD = """
import resource, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from test_search import CONFIG, NETWORK
from sedona_nb import data, search
from sedona_nb.errors import SedonaError
whole, written = search._Search.checkpoint, []

def checkpoint(self):
    whole(self)
    written.append(1)
    if len(written) == int(sys.argv[3]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

search._Search.checkpoint = checkpoint
try:
    search.run(data.load("digits"), NETWORK, CONFIG, seed=3, folder=sys.argv[1])
except SedonaError as error:
    print("REFUSED", error)
"""


def full_memory(folder: Path) -> WeightMemory:
    memory = WeightMemory(2, folder=folder)
    for value in (1, 2):
        memory.offer(some_weights(value), value, 5.0 - value)
    return memory


@pytest.fixture(scope="module")
def undisturbed(one_thread: None) -> SearchResult:
    return search.run(data.load("digits"), NETWORK, CONFIG, seed=3)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
@pytest.mark.parametrize("checkpoints", [2, 5])
def test_a_search_on_a_full_disk_stops_in_one_line_and_goes_on_later(tmp_path, undisturbed, checkpoints):
    """While pretraining, and while searching."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "search"), str(Path(__file__).parent)]
    child = subprocess.run([*command, str(checkpoints)], capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr
    (line,) = [line for line in child.stdout.splitlines() if line.startswith("REFUSED")]
    assert line == child.stdout.splitlines()[-1], "more than one line"
    for part in ("cannot write", str(tmp_path / "search"), "File too large", "MB are free", "make room"):
        assert part in line
    left = [path.name for path in (tmp_path / "search").rglob("*")]
    assert not [name for name in left if name.endswith(".part")]
    resumed = search.run(data.load("digits"), NETWORK, CONFIG, seed=3, folder=tmp_path / "search")
    assert torch.equal(resumed.alpha_history, undisturbed.alpha_history)


def test_a_set_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    memory = full_memory(tmp_path / "memory")
    before, files = memory.state(), sorted((tmp_path / "memory").iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        SedonaError, match=r"set-00000002\.pt: No space left on device \([\d,]+ MB are free there\)"
    ):
        memory.offer(some_weights(3), 3, 0.0)
    with pytest.raises(SedonaError, match="No space left on device"):
        memory.renew(memory.entries[0], some_weights(3), 3)
    monkeypatch.undo()
    assert memory.state() == before
    assert sorted((tmp_path / "memory").iterdir()) == files
    assert contents(memory) == [1, 2]


@pytest.mark.parametrize("damage", ["half", "empty", "other", "gone", "flipped"])
def test_a_damaged_set_is_named_with_what_to_do(tmp_path, damage):
    memory = full_memory(tmp_path)
    path = tmp_path / "set-00000001.pt"
    whole = path.read_bytes()
    if damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        torch.save([1], path)
    elif damage == "gone":
        path.unlink()
    else:
        place = whole.index(torch.full((3,), 2).numpy().tobytes())
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(
        SedonaError, match=r"weight set 1 is lost: .*set-00000001\.pt.*; bring the file back"
    ) as caught:
        contents(memory)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert contents(memory) == [1, 2]


def test_what_a_killed_writer_left_goes_with_the_next_checkpoint(tmp_path):
    memory = full_memory(tmp_path)
    (tmp_path / ".set-00000007.pt.abc123.part").write_bytes(b"half a set")
    memory.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set-00000000.pt", "set-00000001.pt"]
