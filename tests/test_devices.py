"""Devices by name: the one asked for or an error, never another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sedona_nb import devices
from sedona_nb.errors import SedonaError


def test_auto_prefers_cuda() -> None:
    assert devices.resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.resolve() == devices.resolve("auto")


def test_every_available_device_resolves_and_computes() -> None:
    for name in devices.available():
        if name != "mps":  # shared CI machines list it and cannot always use it
            device = devices.resolve(name)
            assert str(device) == name
            assert torch.ones(3, device=device).sum().item() == 3
            assert devices.resolve(device) == device


def test_what_is_here_is_planned_as_it_is_resolved() -> None:
    for name in ("auto", *devices.available()):
        assert devices.planned(name) == devices.resolve(name)
        assert devices.describe(devices.planned(name)) == devices.describe(devices.resolve(name))


def test_another_machines_device_can_be_planned_and_is_never_resolved() -> None:
    device = devices.planned("cuda:99")
    assert device == torch.device("cuda", 99)
    assert devices.describe(device) == "cuda:99 (not on this machine)"
    with pytest.raises(SedonaError, match="no device 'cuda:99' on this machine"):
        devices.resolve(device)


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "", "CPU", "cuda:x", "cuda:", "mps:0 "])
def test_no_device_of_any_machine_cannot_be_planned(name: str) -> None:
    with pytest.raises(SedonaError, match="on this machine; it has cpu"):
        devices.planned(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:0", "", "CPU", "cuda:x"])
def test_absent_or_unknown_is_one_line_with_what_is_here(name: str) -> None:
    with pytest.raises(SedonaError) as caught:
        devices.resolve(name)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(name) in message
    assert all(present in message for present in devices.available())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_never_replaced_by_the_cpu() -> None:
    with pytest.raises(SedonaError, match="no device 'cuda' on this machine; it has cpu"):
        devices.resolve("cuda")


def test_describe_names_device_and_hardware(device: torch.device) -> None:
    text = devices.describe(device)
    assert text.startswith(f"{device.type} (")
    if device.type == "cpu":
        assert f"{torch.get_num_threads()} thread" in text
    else:
        assert torch.cuda.get_device_name(device) in text
    assert "\n" not in text
    assert "()" not in text


def test_peak_memory_sees_an_allocation(device: torch.device) -> None:
    # 64 MB more than ever before: the process's peak may lie far above its present size, so grow until it moves
    before = devices.peak_memory(device)
    kept = []
    while devices.peak_memory(device) == before:
        kept.append(torch.ones(16_000_000, device=device))
        assert len(kept) < 200, "peak memory does not move"
    devices.synchronize(device)
    after = devices.peak_memory(device)
    assert before < after < before + 200e6
    del kept
    assert devices.peak_memory(device) >= after


def test_free_memory_is_positive_and_below_what_there_is(device: torch.device) -> None:
    """Not: falls by what one takes. Other processes come and go, and systems are slow to count."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 50e6 < devices.free_memory(device) <= total


def test_free_memory_respects_a_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(tmp_path / name) for name in ("memory.max", "memory.current")]
    monkeypatch.setattr(devices, "CONTROL_GROUPS", ((*names, "inactive_file"),))
    cpu = torch.device("cpu")
    unlimited = devices.free_memory(cpu)
    for limit, free in (("3000000", 3_000_000 - 1_000_000 + 400_000), ("500", 0), ("max", None)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("1000000\n")
        (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 400000\n")
        found = devices.free_memory(cpu)
        assert found > unlimited / 2 if free is None else found == free
