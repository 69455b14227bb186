"""Named data sets, splits, and what a person is told when data is missing."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision import datasets

from sedona_nb import data, protocols, torchvision_sets
from sedona_nb.augmentation import CIFAR10, TINY_IMAGENET
from sedona_nb.errors import SedonaError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, also where `load` looks by itself."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEDONA_CACHE", str(folder))
    monkeypatch.delenv("SEDONA_DATA", raising=False)
    return folder


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory) -> Path:
    """One cache for the tests of real pictures: decoding takes seconds."""
    return tmp_path_factory.mktemp("decoded")


def write_fashion(root: Path, train: int = 30, test: int = 20) -> np.ndarray:
    """Fashion-MNIST's files with fewer pictures, noise; returns the train pictures."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("t10k", test), ("train", train)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return pixels


def write_cifar(root: Path, monkeypatch) -> np.ndarray:
    """CIFAR-10's files with 4 pictures each, whose checksums torchvision is told; returns the test pictures."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def pixels() -> np.ndarray:
        return random.integers(0, 256, (4, 3072), dtype=np.uint8)

    train = [write(f"data_batch_{part}", {"data": pixels(), "labels": [0, 1, 2, 9]}) for part in range(1, 6)]
    last = pixels()
    test = [write("test_batch", {"data": last, "labels": [9, 1, 2, 0]})]
    meta = write("batches.meta", {"label_names": [f"class{number}" for number in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return last


def one_line(name, **arguments) -> str:
    """The error that loading brings up, checked to be one line."""
    with pytest.raises(SedonaError) as caught:
        data.load(name, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_are_there_offline(cache):
    first = data.load("digits", root="nowhere")
    again = data.load("digits")
    for pictures in (first, again):  # decoded, then from the cache
        assert (pictures.name, pictures.num_classes, pictures.in_channels, pictures.image_size) == (
            "digits",
            10,
            1,
            32,
        )
        assert pictures.train_images.shape == (1437, 1, 32, 32)
        assert pictures.test_images.shape == (360, 1, 32, 32)
        assert pictures.train_images.dtype == torch.uint8
        assert pictures.train_labels.dtype == torch.int64
        assert pictures.fingerprint == "27c6215336539eaa"  # the same on every machine
    assert torch.equal(first.train_images, again.train_images)
    assert int(first.train_images.max()) == 255
    for labels, share in ((first.train_labels, 0.8), (first.test_labels, 0.2)):
        assert (
            labels.bincount() - torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]) * share
        ).abs().max() < 1
    assert not first.augmentation.flip
    values = first.train_images.double() / 255
    assert first.mean == (pytest.approx(values.mean().item(), abs=1e-4),)
    assert first.std == (pytest.approx(values.std(correction=0).item(), abs=1e-4),)
    assert first.describe() == (
        "digits: 1,437 train and 360 test pictures of 1x32x32, 10 classes, fingerprint 27c6215336539eaa"
    )


def test_splits_are_disjoint_complete_and_seeded():
    held_out, kept = data.split(1000, 0.4, seed=3)
    assert (len(held_out), len(kept)) == (400, 600)
    assert held_out.dtype == kept.dtype == torch.int64
    assert torch.cat([held_out, kept]).sort().values.equal(torch.arange(1000))
    assert data.split(1000, 0.4, seed=3)[0].equal(held_out)
    assert not data.split(1000, 0.4, seed=4)[0].equal(held_out)
    assert len(data.split(10, 0.0, seed=0)[0]) == 0
    for num_items, fraction, seed in (
        (10, 1.0, 0),
        (10, -0.1, 0),
        (10, float("nan"), 0),
        (-1, 0.5, 0),
        (10, 0.5, -1),
    ):
        with pytest.raises(SedonaError):
            data.split(num_items, fraction, seed)


def test_fashion_mnist_gets_a_black_border(tmp_path, cache):
    write_fashion(tmp_path)
    pictures = data.load("fashion-mnist", root=tmp_path)
    assert pictures.train_images.shape == (30, 1, 32, 32)
    assert pictures.test_images.shape == (20, 1, 32, 32)
    assert pictures.classes == tuple(datasets.FashionMNIST.classes)
    original = datasets.FashionMNIST(tmp_path, train=True).data
    assert torch.equal(pictures.train_images[:, 0, 2:30, 2:30], original)
    assert int(pictures.train_images.sum()) == int(original.sum())
    assert pictures.augmentation.flip


def test_fashion_mnist_is_taken_as_its_authors_give_it_away(tmp_path, cache, monkeypatch):
    write_fashion(tmp_path / "torchvision")
    expected = data.load("fashion-mnist", root=tmp_path / "torchvision")
    for folder in (tmp_path / "given" / "fashion-mnist", tmp_path / "debian"):
        folder.mkdir(parents=True)
        for path in (tmp_path / "torchvision" / "FashionMNIST" / "raw").iterdir():
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    pictures = data.load("fashion-mnist", root=tmp_path / "given")
    assert pictures.fingerprint == expected.fingerprint
    assert torch.equal(pictures.train_images, expected.train_images)
    assert pictures.augmentation == expected.augmentation
    monkeypatch.setitem(torchvision_sets.DISTRIBUTED, "fashion-mnist", ("fashion-mnist", str(tmp_path / "debian")))
    assert data.load("fashion-mnist", root=tmp_path / "nothing").fingerprint == expected.fingerprint
    whole = (tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    for damage in (whole[:-9], b"not packed"):
        (tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
        message = one_line("fashion-mnist", root=tmp_path / "nothing")
        assert "debian is incomplete or damaged" in message
        assert message.endswith("remove it and put complete files there")
    (tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "incomplete or damaged" in one_line("fashion-mnist", root=tmp_path / "nothing")
    monkeypatch.setitem(torchvision_sets.DISTRIBUTED, "fashion-mnist", ("fashion-mnist",))
    assert "looked for FashionMNIST/, fashion-mnist/)" in one_line("fashion-mnist", root=tmp_path / "nothing")


@pytest.mark.skipif(
    not Path(torchvision_sets.DISTRIBUTED["fashion-mnist"][-1]).is_dir(),
    reason="the Debian package dataset-fashion-mnist is not installed",
)
def test_debians_fashion_mnist_is_the_whole_of_it(real_cache, tmp_path):
    pictures = data.load("fashion-mnist", root=tmp_path, cache=real_cache)
    assert pictures.train_images.shape == (60_000, 1, 32, 32)
    assert pictures.test_images.shape == (10_000, 1, 32, 32)
    assert pictures.train_labels.bincount().tolist() == [6_000] * 10
    assert pictures.test_labels.bincount().tolist() == [1_000] * 10
    assert pictures.train_labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # as everybody knows it
    inside = pictures.train_images[:, :, 2:30, 2:30].double() / 255
    assert inside.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert inside.std().item() == pytest.approx(0.3530, abs=1e-4)
    assert pictures.fingerprint == protocols.FINGERPRINTS["fashion-mnist"]


def test_a_damaged_download_is_one_line(tmp_path, cache):
    write_fashion(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    assert "incomplete or damaged" in one_line("fashion-mnist", root=tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert "incomplete or damaged" in one_line("cifar10", root=tmp_path)
    assert not cache.exists()


def test_cifar10_is_torchvisions(tmp_path, cache, monkeypatch):
    last = write_cifar(tmp_path, monkeypatch)
    pictures = data.load("cifar10", root=tmp_path)
    assert pictures.name == "cifar10"
    assert pictures.train_images.shape == (20, 3, 32, 32)
    assert torch.equal(pictures.test_images, torch.from_numpy(last).view(4, 3, 32, 32))
    assert pictures.test_labels.tolist() == [9, 1, 2, 0]
    assert pictures.augmentation == CIFAR10
    assert "no cifar10-jpeg in" in one_line("cifar10-jpeg", root=tmp_path)  # not even where the original is
    assert "32x32" in one_line("cifar10", root=tmp_path, image_size=64)
    assert data.load("cifar10", root=tmp_path).fingerprint == pictures.fingerprint


def test_nothing_is_downloaded_unasked_and_nothing_half_written_stays(tmp_path, cache, monkeypatch):
    message = one_line("cifar10", root=tmp_path)
    for part in (str(tmp_path), "cifar-10-batches-py", "cifar10.zip", "download=True", "SEDONA_DATA"):
        assert part in message
    assert "SEDONA_DATA" in one_line("tiny-imagenet", root=tmp_path)
    absent = tmp_path / "absent"
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "no-such-file.tar.gz").as_uri())
    assert "cannot download cifar10" in one_line("cifar10", root=absent, download=True)
    (tmp_path / "bad.tar.gz").write_bytes(b"not the archive")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/bad.tar.gz")
    assert "cannot download cifar10" in one_line("cifar10", root=absent, download=True)
    server.shutdown()
    server.server_close()
    assert list(absent.iterdir()) == []
    assert not cache.exists()


def test_names_that_mean_nothing_are_one_line(tmp_path, cache):
    assert "did you mean 'digits'" in one_line("digit", root=tmp_path)
    assert "cifar10, cifar10-jpeg" in one_line("mnist-of-the-moon", root=tmp_path)
    assert "no folder or zip of pictures at" in one_line(tmp_path / "absent.zip")
    assert "no folder or zip of pictures at" in one_line("./absent")
    assert "unknown data set ''" in one_line("", root=tmp_path)
    for size in (0, -8, 1.5):
        assert "image_size" in one_line("digits", image_size=size)


def test_real_cifar10_says_it_is_jpeg(real_data_root, real_cache, monkeypatch):
    pictures = data.load("cifar10", root=real_data_root, cache=real_cache)
    assert pictures.name == "cifar10-jpeg"
    assert pictures.train_images.shape == (50_000, 3, 32, 32)
    assert pictures.test_images.shape == (10_000, 3, 32, 32)
    assert pictures.train_labels.bincount().tolist() == [5000] * 10
    assert pictures.test_labels.bincount().tolist() == [1000] * 10
    assert pictures.classes[:2] == ("airplane", "automobile")
    assert pictures.augmentation == CIFAR10
    means = pictures.test_images.double().mean((0, 2, 3)) / 255  # really CIFAR-10: its known colours
    assert torch.allclose(means, torch.tensor(CIFAR10.mean).double(), atol=0.01)
    monkeypatch.setenv("SEDONA_DATA", str(real_data_root))
    for name in ("cifar10-jpeg", real_data_root / "cifar10.zip", str(real_data_root / "cifar10.zip")):
        same = data.load(name, cache=real_cache)
        assert (same.name, same.fingerprint) == ("cifar10-jpeg", pictures.fingerprint)
    assert len(list(real_cache.glob("cifar10*"))) == 1


def test_real_tiny_imagenet(real_data_root, real_cache):
    pictures = data.load("tiny-imagenet", root=real_data_root, cache=real_cache)
    assert pictures.name == "tiny-imagenet-50"
    assert pictures.train_images.shape == (25_000, 3, 64, 64)
    assert pictures.test_images.shape == (2_500, 3, 64, 64)
    assert pictures.train_labels.bincount().tolist() == [500] * 50
    assert pictures.test_labels.bincount().tolist() == [50] * 50
    assert pictures.augmentation == TINY_IMAGENET
    named = data.load("tiny-imagenet-50", root=real_data_root, cache=real_cache)
    assert (named.name, named.fingerprint) == (pictures.name, pictures.fingerprint)
