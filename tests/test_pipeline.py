"""The asynchronous trainer: real processes over gloo, compared with the serial trainer bit for bit."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from pipeline_runs import free_port, kill_one, node, same, serial, spec_of, workers

from sedona_nb import data, meeting, pipeline, runs
from sedona_nb.blocks import LocalLoss
from sedona_nb.errors import SedonaError
from sedona_nb.messages import Slot
from sedona_nb.store import RunStore


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_same_numbers_as_the_serial_trainer(blocks, depth, tmp_path, one_thread):
    spec = spec_of(blocks)
    wanted, network = serial(spec)
    found = pipeline.train(spec, "digits", tmp_path, depth, threads=1)
    assert same(found, wanted)
    assert found.best.train.count == found.last.train.count == 70
    # The weights, too: those of the last checkpoint, block by block.
    for number, block in enumerate(network.blocks, 1):
        saved = torch.load(tmp_path / f"block-{number}" / "step-13.pt", weights_only=True)
        assert saved["block"].keys() == block.state_dict().keys()
        assert all(torch.equal(saved["block"][name], value) for name, value in block.state_dict().items())
    assert not workers(tmp_path)


def test_without_training_pictures_there_are_no_errors_on_them(tmp_path, one_thread):
    spec = spec_of(2, steps=5, train_pictures=0)
    found = pipeline.train(spec, "digits", tmp_path, threads=1)
    assert found.best.train is found.last.train is None
    assert same(found, serial(spec)[0])


def test_dropout_depends_on_the_step_and_the_block_alone():
    pictures = data.load("digits")
    spec = spec_of(2)
    network = runs.build(spec, pictures).train()
    images, labels = pictures.train_images[:32].float() / 255, pictures.train_labels[:32]
    before = torch.random.get_rng_state()
    one, again, other = (network.backward(images, labels, LocalLoss(), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one[-1] == again[-1] != other[-1]


@pytest.mark.parametrize("attempt", range(2))
def test_killed_worker_ends_the_run_which_resumes_to_the_same_numbers(attempt, tmp_path, one_thread):
    spec = spec_of(3, steps=120, evaluate_every=6)
    wanted, _ = serial(spec)
    killed: list[int] = []
    thread = threading.Thread(target=kill_one, args=(tmp_path, 3, random.random() * 0.5, killed))
    thread.start()
    with pytest.raises(SedonaError) as caught:
        pipeline.train(spec, "digits", tmp_path, depth=2, threads=1)
    thread.join()
    assert str(caught.value) == f"{meeting.block_names(spec)[killed[0]]} was killed by signal SIGKILL"
    assert not workers(tmp_path)
    assert same(pipeline.train(spec, "digits", tmp_path, depth=2, threads=1), wanted)
    # Again, with nothing left to train: the outcome alone.
    assert same(pipeline.train(spec, "digits", tmp_path, depth=2, threads=1), wanted)


def test_the_end_of_a_run_comes_soon_after_a_kill(tmp_path):
    spec = spec_of(4, steps=5000)
    killed: list[int] = []
    threading.Thread(target=kill_one, args=(tmp_path, 4, 0.0, killed)).start()
    ended: list[float] = []

    def run() -> None:
        with pytest.raises(SedonaError, match="was killed by signal SIGKILL"):
            pipeline.train(spec, "digits", tmp_path, threads=1)
        ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    while not killed:
        time.sleep(0.01)
    began = time.monotonic()
    thread.join(60)
    assert ended[0] - began < 30


# Loaded by Python at the start of every worker; breaks the one whose RANK is 1.
SABOTAGE = """
import os, sys
if os.environ.get("RANK") == "1":
    import resource
    from sedona_nb import blocks, block_files, messages
    what = {what!r}
    step = blocks.Block.local_step
    save = block_files.BlockFiles.save
    count = [0]
    def local_step(self, x, *rest):
        count[0] += 1
        if what == "exception" and count[0] == 8:
            raise ValueError("something broke")
        if what == "shape" and count[0] == 8:
            x = x[:, :-1]
        return step(self, x, *rest)
    def full(self, number, state):
        if what == "disk" and number >= 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        save(self, number, state)
    blocks.Block.local_step = local_step
    block_files.BlockFiles.save = full
"""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("exception", "ValueError: something broke"),
        ("shape", "to have"),
        ("disk", "cannot write"),
    ],
)
def test_a_failing_block_is_named_and_leaves_nothing_behind(what, words, tmp_path, monkeypatch):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(SABOTAGE.format(what=what))
    monkeypatch.setenv("PYTHONPATH", str(hooks))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "run"
    spec = spec_of(3, steps=400)
    with pytest.raises(SedonaError) as caught:
        pipeline.train(spec, "digits", folder, threads=1, port=port)
    message = str(caught.value)
    assert words in message
    assert "block 2" in message or "block-2" in message
    assert "\n" not in message
    assert not workers(folder)
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
    assert not list(folder.rglob("*.part"))
    if what == "disk":  # room again: on it goes
        monkeypatch.delenv("PYTHONPATH")
        short = spec_of(3, steps=400)
        assert pipeline.train(short, "digits", folder, threads=1).last.step == 400


def test_a_loss_that_is_not_finite_names_the_block(tmp_path):
    with pytest.raises(SedonaError, match=r"the loss of block \d \(layers \d-\d\) is (nan|inf) at step \d+"):
        pipeline.train(spec_of(2, lr=1e30, warmup_steps=0), "digits", tmp_path, threads=1)


def test_a_folder_of_another_run_is_refused(tmp_path):
    pipeline.train(spec_of(2, steps=5), "digits", tmp_path, threads=1)
    with pytest.raises(SedonaError, match="holds a run with other settings"):
        pipeline.train(spec_of(2, steps=6), "digits", tmp_path, threads=1)


def test_wrong_requests_are_refused_before_anything_starts(tmp_path):
    spec = spec_of(2)
    with pytest.raises(SedonaError, match="queue depth 0; allowed: at least 1"):
        pipeline.train(spec, "digits", tmp_path, depth=0)
    if not torch.cuda.is_available():
        with pytest.raises(SedonaError, match="2 blocks need 2 GPUs, 0 are here"):
            pipeline.train(spec, "digits", tmp_path, device="cuda")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SedonaError, match=f"port {port} is in use"):
            pipeline.train(spec, "digits", tmp_path, port=port)
    assert not workers(tmp_path)


def test_two_groups_of_processes_under_torchrun(tmp_path, one_thread):
    """Two machines, as far as torchrun can tell, each with a folder of its own."""
    spec = spec_of(2)
    path = pipeline.save_spec(spec, tmp_path / "spec.json")
    port = free_port()
    store = RunStore(tmp_path / "records")
    more = ("--store", str(store.folder))
    nodes = [node(path, tmp_path / f"machine-{rank}", port, rank, 2, *more) for rank in range(2)]
    texts = [child.communicate(timeout=120)[0] for child in nodes]
    assert [child.returncode for child in nodes] == [0, 0], "\n".join(texts)
    found = json.loads((tmp_path / "machine-1" / "outcome.json").read_text())
    wanted, _ = serial(spec)
    assert found["last"]["test"]["top1"] == wanted.last.test.top1
    assert [row[2] for row in found["curve"]] == [row[2] for row in wanted.curve]
    (record,) = store.records()  # what tables look for
    assert store.load(spec) == record
    assert record.result == {name: found[name] for name in ("best", "last", "curve")}
    assert (record.provenance.seconds, record.provenance.threads) == (round(found["seconds"], 2), 1)


def test_world_of_the_wrong_size_is_refused(tmp_path):
    path = pipeline.save_spec(spec_of(2), tmp_path / "spec.json")
    child = node(path, tmp_path, free_port(), 0, 1)
    text = child.communicate(timeout=120)[0]
    assert child.returncode != 0
    assert "error: 1 processes for 2 blocks; allowed: one a block" in text


def test_a_missing_rank_is_named(tmp_path):
    path = pipeline.save_spec(spec_of(2), tmp_path / "spec.json")
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = ["-m", "sedona_nb.pipeline", "--spec", str(path), "--data", "digits", "--folder", str(tmp_path)]
    child = subprocess.run(
        [sys.executable, *command, "--device", "cpu", "--join-timeout", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "MASTER_PORT": str(free_port())},
        timeout=120,
    )
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1] == "error: did not join within 2 s: rank 1, block 2 (layers 5-8)"


def test_a_slot_holds_its_parts_side_by_side():
    slot = Slot(batch=3, shape=(2, 4, 5), heads=2, classes=10)
    memory = torch.zeros(slot.nbytes, dtype=torch.uint8)
    parts = slot.views(memory)
    for number, value in enumerate(parts.values(), 1):
        value.fill_(number)
    for number, value in enumerate(slot.views(memory).values(), 1):  # nobody wrote into anybody else's part
        assert (value == number).all()
    assert parts["activations"].shape == (3, 2, 4, 5)
    assert parts["activations"].is_contiguous(memory_format=torch.channels_last)
