"""Pictures that are read while training: the same batches whoever reads them, with torchvision's crops."""

from __future__ import annotations

import io
import os
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional

from sedona_nb import (
    data,
    evaluate,
    execute,
    picture_stream,
    pipeline,
    run_pictures,
    runs,
    search,
    stream_names,
    training,
)
from sedona_nb.decoupling import Decoupling
from sedona_nb.epoch_order import EpochOrder
from sedona_nb.errors import SedonaError
from sedona_nb.networks import NetworkConfig
from sedona_nb.picture_stream import BatchReader, InOrder, PictureStream, evaluation_stream
from sedona_nb.records import RunSpec
from sedona_nb.search_config import SearchConfig
from sedona_nb.seeds import mix
from sedona_nb.streamed_pictures import MEAN, STD, StreamedPictures
from sedona_nb.train_config import TrainConfig

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
CONFIG = TrainConfig(steps=5, batch_size=8, lr=0.02, evaluate_every=2, held_out=0.0)
CPU = torch.device("cpu")


def encoded(number: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    """A smooth picture of an odd size."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    size = tuple(int(side) for side in random.integers(40, 90, 2))
    stream = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, form)
    return stream.getvalue()


def content() -> dict[str, bytes]:
    """Six classes with eight train and three val pictures each, of all kinds that ImageNet has."""
    files = {}
    for label, name in enumerate(CLASSES):
        kinds = [("JPEG", "RGB")] * 5 + [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")]
        files |= {f"train/{name}/{k}.JPEG": encoded(100 * label + k, *kind) for k, kind in enumerate(kinds)}
        files |= {f"val/{name}/{k}.JPEG": encoded(100 * label + 50 + k) for k in range(3)}
    return files


def write_tree(folder: Path) -> Path:
    for name, payload in content().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(payload)
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Not to be changed."""
    return write_tree(tmp_path_factory.mktemp("pictures") / "animals")


def small(tree: Path) -> StreamedPictures:
    return data.load(f"stream@32:{tree}")


def one_line(call, *arguments, **more) -> str:
    with pytest.raises(SedonaError) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_asked_for_by_name(tree, tmp_path):
    pictures = data.load(f"stream:{tree}")
    assert (pictures.name, pictures.image_size, pictures.classes) == ("animals@224", 224, CLASSES)
    assert (len(pictures.train_labels), len(pictures.test_labels), pictures.num_classes) == (48, 18, 6)
    assert pictures.describe().startswith("animals@224: 48 train and 18 test pictures of 3x224x224, read while")
    assert data.load("stream:animals", root=tree.parent).fingerprint == pictures.fingerprint
    assert data.load(f"stream:{tree}", image_size=64).name == data.load(f"stream@64:{tree}").name == "animals@64"
    (tmp_path / "ImageNet").symlink_to(tree)
    assert data.load("imagenet", root=tmp_path).name == "imagenet"
    assert data.load("stream@64:imagenet", root=tmp_path).name == "imagenet@64"
    assert isinstance(data.load(tree, image_size=32), data.ImageData)  # without the prefix: in memory
    for name in ("stream:", "stream@:x", "stream@0:x", "stream@2.5:x", "stream@-3:x"):
        assert "allowed: stream:<name or path>" in one_line(data.load, name)
    assert "contradict" in one_line(data.load, "stream@64:x", image_size=32)
    assert "no imagenet in" in one_line(data.load, "imagenet", root=tree)
    assert stream_names.parse("digits") is None
    assert stream_names.parse("stream@64:a:b") == ("a:b", 64)


def test_the_command_line_takes_streamed_folders(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    assert execute._parse(["--data", f"stream@64:.{os.sep}animals"]).data == f"stream@64:{tree.resolve()}"
    assert execute._parse(["--data", "imagenet"]).data == "imagenet"
    assert "no file or folder" in one_line(execute._parse, ["--data", f"stream:{tree}/absent"])


def test_the_fingerprint_takes_names_and_sizes_and_no_content(tree, tmp_path):
    kept = small(tree).fingerprint
    copy = shutil.copytree(tree, tmp_path / "copied")
    os.utime(copy / "train/ant/0.JPEG", (0, 0))
    assert small(copy).fingerprint == kept
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for name, payload in content().items():
            archive.writestr(f"animals/{name}", payload)
    assert data.load(f"stream@32:{tmp_path / 'packed.zip'}").fingerprint == kept
    assert data.load(f"stream@33:{tree}").fingerprint != kept
    found = {kept}
    picture = copy / "train/ant/0.JPEG"
    for change in (
        lambda: picture.write_bytes(picture.read_bytes()[:-1]),  # cut off
        lambda: picture.rename(copy / "train/bee/x.JPEG"),
        lambda: (copy / "val/fox/0.JPEG").unlink(),
    ):
        change()
        found.add(small(copy).fingerprint)
    assert len(found) == 4


def test_batches_depend_on_seed_and_number_alone(tree):
    pictures = small(tree)
    before = torch.random.get_rng_state()
    kept, batches = torch.arange(5, 48), {}
    for workers in (0, 1, 2):
        for first in (0, 7):  # 5 batches an epoch
            stream = PictureStream(pictures, kept, 8, 3, stop=11, workers=workers)
            for number in range(first, 11):
                images, labels = stream.batch(number)
                wanted = batches.setdefault(number, (images, labels))
                assert torch.equal(images, wanted[0])
                assert torch.equal(labels, wanted[1])
            stream.close()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert images.shape == (8, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    stream = PictureStream(pictures, kept, 8, 3, workers=0)  # in any order, and past the end that was announced
    for number in (10, 0, 4, 5):
        assert torch.equal(stream.batch(number)[0], batches[number][0])
    for workers in (0, 1):  # as replicas of a block do
        stream = PictureStream(pictures, kept, 8, 3, workers=workers)
        for part in (slice(0, 4), slice(4, 8)):
            for number in (3, 4):
                images, labels = stream.batch(number, part)
                assert torch.equal(images, batches[number][0][part])
                assert torch.equal(labels, batches[number][1][part])
        stream.close()
    other = PictureStream(pictures, kept, 8, 4, workers=0)
    assert not torch.equal(other.batch(0)[0], batches[0][0])
    epoch = torch.cat([EpochOrder(kept, 8, 3).items(number) for number in range(5)])
    assert len(set(epoch.tolist())) == 40
    assert torch.equal(pictures.train_labels[epoch[:8]], batches[0][1])


def test_crops_are_those_of_torchvision_under_the_same_numbers(tree):
    """Against `get_params` of the other generation of transforms, one picture after the other."""
    pictures, reference = data.load(f"stream@48:{tree}"), ImageFolder(tree / "train")
    order = EpochOrder(torch.arange(48), 16, 9)
    reader = BatchReader(pictures, True, order, augment=True, seed=9)
    mirrored = 0
    for number in range(3):
        pixels, labels = reader[number]
        for place, item in enumerate(order.items(number).tolist()):
            picture, label = reference[item]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(9, "crop", number, place))
                box = transforms.RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3))
                mirror = bool(torch.rand(1) < 0.5)
            wanted = functional.resized_crop(picture, *box, [48, 48])
            wanted = functional.hflip(wanted) if mirror else wanted
            assert np.array_equal(pixels[place].numpy(), np.asarray(wanted))
            assert labels[place] == label
            mirrored += mirror
    assert 0 < mirrored < 48


def reference_set(folder: Path) -> ImageFolder:
    """torchvision's own way to evaluate on ImageNet."""
    steps = [transforms.Resize(256), transforms.CenterCrop(224)]
    return ImageFolder(folder, transforms.Compose(steps))


def test_evaluation_is_torchvisions(tree):
    pictures, reference = data.load(f"stream:{tree}"), reference_set(tree / "val")
    pixels, labels = BatchReader(pictures, False, InOrder(torch.arange(18), 18), augment=False)[0]
    for place, (wanted, label) in enumerate(reference):
        assert np.array_equal(pixels[place].numpy(), np.asarray(wanted))
        assert labels[place] == label
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    floats = torch.stack([normalise(picture) for picture, _ in reference])
    for workers in (0, 2):
        batches = list(evaluation_stream(pictures, False, torch.arange(18), 7, workers=workers))
        assert [len(part) for part, _ in batches] == [7, 7, 4]
        torch.testing.assert_close(torch.cat([part for part, _ in batches]), floats, rtol=0, atol=2e-6)
        assert torch.cat([part for _, part in batches]).tolist() == reference.targets


def test_real_pictures_out_of_a_zip(real_data_root):
    pictures = data.load("stream:tiny-imagenet-50", root=real_data_root)
    assert (len(pictures.train_labels), len(pictures.test_labels)) == (25_000, 2_500)
    items = torch.arange(0, 2_500, 250)
    ((images, labels),) = evaluation_stream(pictures, False, items, 10, workers=1)
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    steps += [transforms.Normalize(MEAN, STD)]
    with zipfile.ZipFile(real_data_root / "tiny-imagenet-50.zip") as archive:
        for image, item in zip(images, items.tolist(), strict=True):
            picture = Image.open(archive.open(pictures.test_names[item].decode())).convert("RGB")
            wanted = transforms.Compose(steps)(picture)
            torch.testing.assert_close(image, wanted, rtol=0, atol=2e-6)
    assert labels.tolist() == list(range(0, 50, 5))
    one, other = (PictureStream(pictures, torch.arange(500), 4, 0, workers=workers) for workers in (0, 1))
    assert torch.equal(one.batch(3)[0], other.batch(3)[0])
    other.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named(workers, tmp_path):
    folder = write_tree(tmp_path / "animals")
    bad = folder / "train" / "cat" / "3.JPEG"
    bad.write_bytes(bad.read_bytes()[:-200])
    stream = PictureStream(small(folder), torch.arange(48), 48, 0, workers=workers)
    message = one_line(stream.batch, 0)
    assert "picture 'train/cat/3.JPEG' is damaged (image file is truncated" in message
    bad.unlink()
    assert f"cannot read {bad.resolve()}" in one_line(stream.batch, 0)
    bad.write_bytes(encoded(7))
    assert stream.batch(0)[0].shape == (48, 3, 32, 32)
    stream.close()
    assert psutil.Process().children() == []


def test_a_reader_that_is_killed_ends_the_run_in_one_line(tree, monkeypatch):
    """As when memory runs out."""
    monkeypatch.setattr(BatchReader, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    stream = PictureStream(small(tree), torch.arange(48), 8, 0, workers=1)
    assert "a process that reads pictures ended: DataLoader worker" in one_line(stream.batch, 0)
    assert psutil.Process().children() == []


def test_how_many_processes_read(monkeypatch):
    monkeypatch.delenv("SEDONA_WORKERS", raising=False)
    assert 1 <= picture_stream.worker_count() <= picture_stream.MOST_WORKERS
    monkeypatch.setenv("SEDONA_WORKERS", "0")
    assert picture_stream.worker_count() == 0
    monkeypatch.setenv("SEDONA_WORKERS", "many")
    assert "SEDONA_WORKERS='many' is not allowed" in one_line(picture_stream.worker_count)


def test_who_selects_and_who_tests(tree, monkeypatch):
    monkeypatch.setenv("SEDONA_WORKERS", "0")
    pictures = small(tree)

    def seen(prepared, split: str) -> torch.Tensor:
        return torch.cat([images for images, _ in prepared.evaluation(split, 10)])

    everyone = run_pictures.prepare(pictures, CONFIG, 0, CPU)  # as in the paper: val is both
    assert torch.equal(seen(everyone, "validation"), seen(everyone, "test"))
    assert len(seen(everyone, "test")) == 18
    apart = run_pictures.prepare(pictures, replace(CONFIG, held_out=0.25), 0, CPU)
    assert len(seen(apart, "validation")) == 12
    assert torch.equal(seen(apart, "test"), seen(everyone, "test"))
    held_out, kept = data.split(48, 0.25, 0)
    assert apart.held_out.equal(held_out)
    drawn = torch.cat([apart.stream._reader.order.items(number) for number in range(4)])
    assert set(drawn.tolist()) <= set(kept.tolist())
    assert "unknown split 'val'; allowed: validation, test, train" in one_line(everyone.evaluation, "val", 1)
    assert "no train pictures to test on" in one_line(everyone.evaluation, "train", 1)
    for share in (0.0, 0.25):  # as they are, centred, in the order in which they were split
        learned = run_pictures.prepare(pictures, replace(CONFIG, held_out=share, train_pictures=20), 0, CPU)
        items = data.split(48, share, 0)[1][:20]
        ((wanted, labels),) = evaluation_stream(pictures, True, items, 20, workers=0)
        assert torch.equal(seen(learned, "train"), wanted)
        assert torch.equal(labels, pictures.train_labels[items])
    many = run_pictures.prepare(pictures, replace(CONFIG, held_out=0.25, train_pictures=1000), 0, CPU)
    assert len(seen(many, "train")) == 36
    assert "allowed with streamed ones: None" in one_line(
        run_pictures.prepare, pictures, replace(CONFIG, padding=2), 0, CPU
    )
    assert "a search needs pictures in memory" in one_line(
        search.run, pictures, NetworkConfig("vgg11"), SearchConfig()
    )
    assert "held_out 0.001 of 48 pictures is none" in one_line(
        run_pictures.prepare, pictures, replace(CONFIG, held_out=0.001), 0, CPU
    )
    digits = data.load("digits")
    prepared = run_pictures.prepare(digits, CONFIG, 0, CPU)
    assert len(seen(prepared, "validation")) == len(digits.test_labels)


def test_both_trainers_stream_the_same_pictures(tree, tmp_path, monkeypatch, one_thread):
    """Serial, interrupted and taken up again without worker processes; and asynchronous: all bit for bit."""
    monkeypatch.setenv("SEDONA_WORKERS", "1")
    name, pictures = f"stream@32:{tree}", small(tree)
    cut = Decoupling.uniform(8, 2, head="aux1")
    network = NetworkConfig("vgg11", 1 / 16)
    config = replace(CONFIG, train_pictures=20)
    spec = RunSpec(pictures.name, pictures.fingerprint, network, "given", config, cut, seed=1)
    undisturbed = runs.build(spec, pictures)
    wanted = training.train(undisturbed, pictures, config, spec.seed)
    assert psutil.Process().children() == []
    assert wanted.best.validation == wanted.best.test
    assert wanted.last.test.count == 18
    assert len(wanted.last.test.heads) == len(wanted.last.test.ensembles) == 2
    assert wanted.last.test.top5 is not None
    items = data.split(48, config.held_out, spec.seed)[1][:20]
    by_hand = evaluate.errors(undisturbed, evaluation_stream(pictures, True, items, 7, workers=0))
    assert wanted.last.train == by_hand
    assert wanted.best.train.count == 20

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        training.train(runs.build(spec, pictures), pictures, config, spec.seed, folder=tmp_path, on_step=stop)
    assert psutil.Process().children() == []
    monkeypatch.setenv("SEDONA_WORKERS", "0")
    resumed = runs.build(spec, pictures)
    found = training.train(resumed, pictures, config, spec.seed, folder=tmp_path)
    monkeypatch.setenv("SEDONA_WORKERS", "1")
    apart = pipeline.train(spec, name, tmp_path / "blocks", threads=1)
    for outcome in (found, apart):
        assert (outcome.curve, outcome.best, outcome.last) == (wanted.curve, wanted.best, wanted.last)
    for one, other in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []
