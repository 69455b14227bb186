import pytest
import torch

from sedona_nb import paper, released
from sedona_nb.atomic import save_tensors
from sedona_nb.errors import SedonaError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("SEDONA_RELEASED", str(tmp_path))
    return tmp_path


def test_every_published_network_has_its_files(released_root, monkeypatch):
    monkeypatch.setenv("SEDONA_RELEASED", str(released_root))
    for network in paper.NETWORKS:
        alpha, beta = released.load(network)
        rows = paper.NUM_LAYERS[network] - 1
        assert (alpha.shape, beta.shape) == ((rows, 2), (rows, 4))


def test_what_is_saved_is_loaded(here):
    alpha, beta = torch.rand(3, 2), torch.rand(3, 4)
    save_tensors(here / "toy" / "alpha.pt", alpha)
    save_tensors(here / "toy" / "beta.pt", beta)
    found = released.load("toy")
    assert torch.equal(found.alpha, alpha)
    assert torch.equal(found.beta, beta)


def test_without_files_there_is_none(here, monkeypatch):
    assert released.load("resnet152") is None
    monkeypatch.setenv("SEDONA_RELEASED", str(here / "no such folder"))
    assert released.folder() is None
    assert released.load("resnet152") is None


def test_half_a_result_or_another_file_is_one_line(here):
    save_tensors(here / "toy" / "alpha.pt", torch.rand(3, 2))
    with pytest.raises(SedonaError, match=r"beta\.pt"):
        released.load("toy")
    save_tensors(here / "toy" / "beta.pt", [1, 2])
    with pytest.raises(SedonaError, match="holds list"):
        released.load("toy")
