"""Where tests find real pictures and the authors' released search results; both may be absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def _folder(variable: str, beside: str) -> Path:
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / beside)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder with cifar10.zip and tiny-imagenet-50.zip."""
    return _folder("SEDONA_DATA", "data")


@pytest.fixture(scope="session")
def released_root() -> Path:
    """The folder with the authors' <network>/{alpha,beta}.pt."""
    return _folder("SEDONA_RELEASED", "released")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread, as in a child process that asks for one: sums in the same order, so the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device this machine has: a test that takes it runs on the CPU and, where present, on CUDA."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)
