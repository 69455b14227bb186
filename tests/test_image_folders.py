"""Trees of pictures, on disk and in zips, whole and damaged; and the cache of what was decoded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from sedona_nb import data
from sedona_nb.errors import SedonaError
from sedona_nb.image_folders import available_memory, check_memory

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEDONA_CACHE", str(folder))
    monkeypatch.setenv("SEDONA_DATA", str(tmp_path))
    return folder


def picture(number: int, size: tuple[int, int] = (16, 16), form: str = "JPEG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def members(test: str = "test") -> dict[str, bytes]:
    """Three classes with five train and two test pictures each."""
    train = {f"train/{name}/{i}.jpg": picture(10 * c + i) for c, name in enumerate(CLASSES) for i in range(5)}
    held = {f"{test}/{name}/{i}.JPEG": picture(10 * c + i + 5) for c, name in enumerate(CLASSES) for i in range(2)}
    return {
        **train,
        **held,
        "classes.txt": b"some notes",
        "train/.DS_Store": b"x",
        "__MACOSX/train/ant/0.jpg": b"x",
    }


def write_tree(folder: Path, content: dict[str, bytes]) -> Path:
    for name, payload in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(payload)
    return folder


def write_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in content.items():
            archive.writestr(name, payload)
    return path


def same(first: data.ImageData, second: data.ImageData) -> bool:
    tensors = ("train_images", "train_labels", "test_images", "test_labels")
    equal = all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors)
    return equal and first.classes == second.classes and first.fingerprint == second.fingerprint


def refused(path: Path, **arguments) -> str:
    """The one line that loading `path` brings up; nothing may be left in the cache."""
    with pytest.raises(SedonaError) as caught:
        data.load(path, **arguments)
    cache = path.parent / "cache"
    assert not cache.exists() or list(cache.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tree_and_a_zip_of_it_are_the_same_and_are_what_torchvision_reads(tmp_path):
    tree = data.load(write_tree(tmp_path / "insects", members()))
    assert (tree.name, tree.classes, tree.num_classes, tree.image_size) == ("insects", CLASSES, 3, 16)
    assert (len(tree.train_labels), len(tree.test_labels)) == (15, 6)
    for part, images, labels in (
        ("train", tree.train_images, tree.train_labels),
        ("test", tree.test_images, tree.test_labels),
    ):
        reference = ImageFolder(tmp_path / "insects" / part, allow_empty=True)
        assert labels.tolist() == reference.targets
        for image, (expected, _) in zip(images, reference, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert same(tree, data.load(write_zip(tmp_path / "plain.zip", members())))
    wrapped = {f"insects/{name}": payload for name, payload in members().items()}
    assert same(tree, data.load(write_zip(tmp_path / "wrapped.zip", wrapped)))
    assert same(tree, data.load("insects"))  # by the name it has below SEDONA_DATA
    assert same(tree, data.load("plain"))
    values = tree.train_images.double() / 255
    assert tree.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert tree.std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_val_is_the_test_set_where_there_is_no_labelled_test(tmp_path):
    val = data.load(write_zip(tmp_path / "val.zip", members("val")))
    assert same(val, data.load(write_zip(tmp_path / "test.zip", members("test"))))
    unlabelled = {**members("val"), **{f"test/images/test_{i}.JPEG": picture(90 + i) for i in range(3)}}
    assert same(val, data.load(write_zip(tmp_path / "unlabelled.zip", unlabelled)))


def test_tiny_imagenet_as_distributed(tmp_path):
    plain = members("val")
    content = {name.replace("/ant/", "/ant/images/"): p for name, p in plain.items() if name.startswith("train/")}
    notes = []
    for name, payload in plain.items():
        if name.startswith("val/"):
            _, label, file = name.split("/")
            content[f"val/images/{label}_{file}"] = payload
            notes.append(f"{label}_{file}\t{label}\t0\t0\t62\t62")
    content |= {"val/val_annotations.txt": "\n".join(notes).encode(), "test/images/test_0.JPEG": picture(99)}
    official = write_zip(
        tmp_path / "tiny-imagenet-200.zip", {f"tiny-imagenet-200/{n}": p for n, p in content.items()}
    )
    tiny = data.load("tiny-imagenet")
    assert tiny.name == "tiny-imagenet"
    assert tiny.augmentation.rotation == 20
    assert same(tiny, data.load(write_zip(tmp_path / "plain.zip", plain)))
    official.unlink()
    write_tree(tmp_path / "tiny-imagenet-200", content)
    assert same(tiny, data.load("tiny-imagenet"))


def test_other_picture_formats_and_colours(tmp_path):
    content = members() | {
        "train/ant/grey.jpg": picture(70, mode="L"),
        "train/bee/palette.png": picture(71, form="PNG", mode="P"),
        "train/cat/cmyk.jpg": picture(72, mode="CMYK"),
    }
    images = data.load(write_zip(tmp_path / "mixed.zip", content)).train_images
    assert images.shape == (18, 3, 16, 16)
    assert torch.equal(images[5, 0], images[5, 1])


def test_resizing_keeps_the_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # a white square between two black ones
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    content = members() | {"train/ant/wide.png": stream.getvalue()}
    path = write_zip(tmp_path / "sizes.zip", content)
    message = refused(path)
    assert "'train/ant/wide.png' is 60x20" in message
    assert "image_size" in message
    images = data.load(path, image_size=10).train_images
    assert images.shape == (16, 3, 10, 10)
    assert (images[5][:, :, 2:8] == 255).all()


def test_pictures_must_be_square(tmp_path):
    path = write_zip(tmp_path / "first.zip", members() | {"train/ant/+.jpg": picture(80, size=(16, 12))})
    assert "'train/ant/+.jpg' is 16x12, not square" in refused(path)


@pytest.mark.parametrize(
    "name", ["../train/ant/9.jpg", "train/../../x.jpg", "/etc/x.jpg", "C:/x.jpg", "..\\x.jpg"]
)
def test_a_member_outside_the_zip_is_refused(tmp_path, name):
    message = refused(write_zip(tmp_path / "evil.zip", members() | {name: picture(1)}))
    assert repr(name) in message
    assert "lies outside the zip" in message


@pytest.mark.parametrize("damage", [b"", b"no picture", picture(3)[:200], picture(3, form="PNG")[:150]])
def test_a_damaged_picture_is_named(tmp_path, damage):
    message = refused(write_zip(tmp_path / "damaged.zip", members() | {"train/bee/3.jpg": damage}))
    assert "'train/bee/3.jpg' is damaged" in message
    assert "'train/bee/3.jpg' is damaged" in refused(
        write_tree(tmp_path / "damaged", members() | {"train/bee/3.jpg": damage})
    )


def test_a_member_whose_checksum_is_wrong_is_named(tmp_path):
    path = write_zip(tmp_path / "flipped.zip", members())
    content = bytearray(path.read_bytes())
    content[content.index(members()["train/cat/2.jpg"]) + 300] ^= 1
    path.write_bytes(content)
    assert "cannot read member 'train/cat/2.jpg'" in refused(path)


def test_what_is_no_zip_or_no_tree_is_refused(tmp_path):
    path = write_zip(tmp_path / "cut.zip", members())
    path.write_bytes(path.read_bytes()[:-200])
    assert "not a readable zip" in refused(path)
    path.write_bytes(b"")
    assert "not a readable zip" in refused(path)
    assert "no pictures in train/<class>/" in refused(write_zip(tmp_path / "a.zip", {"notes.txt": b"x"}))
    train = {name: p for name, p in members().items() if name.startswith("train/")}
    assert "no labelled pictures in test/<class>/ or val/<class>/" in refused(write_zip(tmp_path / "b.zip", train))
    stranger = members() | {"test/dog/0.jpg": picture(1)}
    assert "class 'dog', which train/ lacks" in refused(write_zip(tmp_path / "c.zip", stranger))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures in train/<class>/" in refused(empty)


def test_pictures_that_do_not_fit_into_memory_are_refused_beforehand(tmp_path):
    check_memory(60_000, 32, available=10**9)
    check_memory(60_000, 32, available=None)
    with pytest.raises(
        SedonaError, match="1,281,167 pictures of 224x224 need 192.9 GB .* 16.0 GB .* image_size=61 "
    ) as e:
        check_memory(1_281_167, 224, available=16 * 10**9)
    assert "\n" not in str(e.value)
    check_memory(1_281_167, 61, available=16 * 10**9)
    assert 2**24 < available_memory() < 2**50
    huge = write_zip(tmp_path / "huge.zip", members())
    assert "would fit" in refused(huge, image_size=1_000_000)


def test_the_cache_is_used_renewed_and_rebuilt(tmp_path, cache):
    path = write_zip(tmp_path / "insects.zip", members())
    first = data.load(path)
    (kept,) = cache.iterdir()
    written = kept.stat().st_mtime_ns
    assert same(first, data.load(path))
    assert kept.stat().st_mtime_ns == written
    for damage in (b"", b"rubbish", kept.read_bytes()[:3000]):
        kept.unlink()
        kept.write_bytes(damage)
        assert same(first, data.load(path))
        assert [file.name for file in cache.iterdir()] == [kept.name]
    torch.save({"layout": 0}, kept)  # as an older version might have left it
    assert same(first, data.load(path))
    write_zip(path, members() | {"train/ant/9.jpg": picture(77)})
    assert len(data.load(path).train_labels) == 16  # the zip changed: its old pictures are not shown
    tree = write_tree(tmp_path / "tree", members())
    assert same(first, data.load(tree))
    (tree / "train" / "ant" / "0.jpg").write_bytes(picture(78))
    assert data.load(tree).fingerprint != first.fingerprint


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    path = write_zip(tmp_path / "insects.zip", members())
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.warns(UserWarning, match="cannot write"):
        pictures = data.load(path, cache=blocked)
    assert len(pictures.train_labels) == 15


def test_pictures_from_the_cache_can_be_changed_without_changing_the_cache(tmp_path):
    path = write_zip(tmp_path / "insects.zip", members())
    changed: Tensor = data.load(path).train_images
    before = changed.clone()
    changed.zero_()
    assert torch.equal(data.load(path).train_images, before)
