"""Batches against a loop over pictures, and what makes them reproducible."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from sedona_nb.augmentation import CIFAR10, TINY_IMAGENET, Augmentation
from sedona_nb.batches import BatchStream, DevicePictures, evaluation_batches
from sedona_nb.errors import SedonaError
from sedona_nb.seeds import mix

COLOUR = Augmentation(padding=3, flip=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def pictures(count: int, channels: int = 3, height: int = 12, width: int = 12) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(count)
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=random)
    return images, torch.randint(10, (count,), generator=random)


def draws(augmentation: Augmentation, seed: int, number: int, count: int) -> list[tuple[int, int, bool, float]]:
    """What batch `number` does to each of its pictures: shift down, shift right, mirrored, degrees."""
    random = np.random.default_rng(mix(seed, "augmentation", number))
    down, right = random.integers(-augmentation.padding, augmentation.padding + 1, size=(2, count))
    mirrored = random.integers(0, 2, size=(1, count))[0].astype(bool) & augmentation.flip
    angles = random.uniform(-augmentation.rotation, augmentation.rotation, size=count)
    return list(zip(down.tolist(), right.tolist(), mirrored.tolist(), angles.tolist(), strict=True))


def slow_twin(images: Tensor, augmentation: Augmentation, steps: list[tuple[int, int, bool, float]]) -> Tensor:
    """Rotate, pad, crop, mirror, normalise, one picture at a time and one step after the other."""
    done = []
    _, _, height, width = images.shape
    padding = augmentation.padding
    for image, (down, right, mirrored, degrees) in zip(images, steps, strict=True):
        if augmentation.rotation:
            image = transforms.rotate(image, degrees, interpolation=InterpolationMode.NEAREST)
        padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + height, padding : padding + width] = image
        top, left = padding + down, padding + right
        cropped = padded[:, top : top + height, left : left + width]
        if mirrored:
            cropped = cropped.flip(2)
        mean, std = torch.tensor(augmentation.mean)[:, None, None], torch.tensor(augmentation.std)[:, None, None]
        done.append((cropped.float() - mean * 255) * (1 / (std * 255)))
    return torch.stack(done)


@pytest.mark.parametrize(
    ("channels", "height", "width", "augmentation"),
    [
        (3, 12, 12, COLOUR),
        (1, 12, 12, Augmentation(padding=2, mean=(0.3,), std=(0.3,))),
        (3, 9, 14, COLOUR),
        (3, 12, 12, Augmentation(flip=True, mean=(0.5,), std=(0.5,))),
        (3, 32, 32, CIFAR10),
    ],
)
def test_a_batch_equals_the_loop_over_pictures_bit_for_bit(channels, height, width, augmentation, device):
    images, labels = pictures(50, channels, height, width)
    stream = BatchStream(images, labels, None, 16, augmentation, seed=5, device=device)
    for number in (0, 1, 7):
        x, y = stream.batch(number)
        items = stream.items(number)
        steps = draws(augmentation, 5, number, 16)
        assert x.shape == (16, channels, height, width)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x.cpu(), slow_twin(images[items], augmentation, steps))
        assert torch.equal(y.cpu(), labels[items])
        assert x.device.type == y.device.type == device.type
    assert not augmentation.flip or {mirrored for _, _, mirrored, _ in steps} == {True, False}
    assert len({down for down, *_ in steps}) > 1 or not augmentation.padding


def test_rotation_is_torchvisions(device):
    augmentation = Augmentation(padding=4, flip=True, rotation=20.0, mean=(0.0,), std=(1 / 255,))
    images, labels = pictures(64, height=64, width=64)
    x, _ = (stream := BatchStream(images, labels, None, 64, augmentation, seed=3, device=device)).batch(2)
    steps = draws(augmentation, 3, 2, 64)
    assert max(abs(degrees) for *_, degrees in steps) > 15
    expected = slow_twin(images[stream.items(2)], augmentation, steps)
    # Where a source lies half-way between two pixels, either one is right; noise shows every such pixel.
    assert (x.cpu().sub(expected).abs() > 1e-3).float().mean() < 2e-3


def test_what_rotation_and_crop_uncover_is_black_before_normalising():
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    for augmentation in (COLOUR, TINY_IMAGENET):
        x, _ = BatchStream(images, torch.zeros(64).long(), None, 64, augmentation, seed=0).batch(0)
        bounds = [[(v - m) / s for m, s in zip(augmentation.mean, augmentation.std, strict=True)] for v in (0, 1)]
        for channel in range(3):
            values = x[:, channel].unique()
            assert values.tolist() == pytest.approx([bounds[0][channel], bounds[1][channel]], abs=1e-5)


def test_a_batch_depends_on_seed_and_number_alone(device):
    images, labels = pictures(70)
    stream = BatchStream(images, labels, None, 8, COLOUR, seed=1, device=device)
    seventh = stream.batch(7)
    for number in (30, 0, 8, 3):
        stream.batch(number)
    fresh = BatchStream(images, labels, None, 8, COLOUR, seed=1, device=device)
    for again in (stream.batch(7), fresh.batch(7)):
        assert torch.equal(again[0], seventh[0])
        assert torch.equal(again[1], seventh[1])


@pytest.mark.parametrize("rotation", [0.0, 10.0])
@pytest.mark.parametrize("augment", [True, False])
def test_parts_of_a_batch_are_the_batch(augment, rotation, device):
    images, labels = pictures(70)
    augmentation = dataclasses.replace(COLOUR, rotation=rotation)
    stream = BatchStream(images, labels, None, 12, augmentation, seed=1, device=device, augment=augment)
    whole = stream.batch(3)
    parts = [stream.batch(3, slice(start, start + 4)) for start in (0, 4, 8)]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces), one)


def test_seeds_epochs_and_batches_have_nothing_in_common():
    images, labels = pictures(80)
    streams = [BatchStream(images, labels, None, 8, COLOUR, seed=seed) for seed in range(3)]
    orders = {tuple(stream.items(number).tolist()) for stream in streams for number in range(40)}
    assert len(orders) == 3 * 40
    chosen = {tuple(draws(COLOUR, seed, number, 8)) for seed in range(3) for number in range(40)}
    assert len(chosen) == 3 * 40


def test_an_epoch_visits_each_index_at_most_once_and_drops_the_short_batch():
    images, labels = pictures(90)
    indices = torch.arange(0, 90, 2)  # 45 pictures: five batches of 8, and 5 left over
    stream = BatchStream(images, labels, indices, 8, COLOUR, seed=0)
    assert (stream.num_items, stream.batches_per_epoch) == (45, 5)
    for epoch in range(3):
        seen = torch.cat([stream.items(epoch * 5 + place) for place in range(5)]).tolist()
        assert len(set(seen)) == 40
        assert set(seen) <= set(indices.tolist())
    whole = BatchStream(images, labels, indices[:40], 8, COLOUR, seed=0)
    assert sorted(torch.cat([whole.items(place) for place in range(5)]).tolist()) == indices[:40].tolist()


def test_without_augmentation_a_stream_only_shuffles():
    images, labels = pictures(40)
    stream = BatchStream(images, labels, None, 16, COLOUR, seed=4, augment=False)
    x, y = stream.batch(1)
    items = stream.items(1)
    assert torch.equal(x, slow_twin(images[items], COLOUR, [(0, 0, False, 0.0)] * 16))
    assert torch.equal(y, labels[items])
    half, _ = BatchStream(images, labels, None, 16, COLOUR, 4, augment=False, dtype=torch.float16).batch(1)
    assert torch.equal(half, x.half())


def test_evaluation_goes_through_all_pictures_in_order(device):
    images, labels = pictures(37)
    batches = list(evaluation_batches(images, labels, None, 10, COLOUR, device))
    assert [len(y) for _, y in batches] == [10, 10, 10, 7]
    plain = slow_twin(images, COLOUR, [(0, 0, False, 0.0)] * 37)
    assert torch.equal(torch.cat([x.cpu() for x, _ in batches]), plain)
    assert torch.equal(torch.cat([y.cpu() for _, y in batches]), labels)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
    chosen = torch.tensor([5, 1, 30])
    x, y = next(iter(evaluation_batches(images, labels, chosen, 10, COLOUR, device)))
    assert torch.equal(y.cpu(), labels[chosen])
    assert list(evaluation_batches(images, labels, chosen[:0], 10, COLOUR, device)) == []


def test_streams_share_the_pictures(device):
    images, labels = pictures(40)
    shared = DevicePictures.prepare(images, device)
    assert len(shared) == 40
    first, second = (BatchStream(shared, labels, None, 8, COLOUR, seed, device) for seed in (0, 1))
    assert first._selection.pictures.pixels.data_ptr() == second._selection.pictures.pixels.data_ptr()
    alone = BatchStream(images, labels, None, 8, COLOUR, 1, device)
    assert torch.equal(second.batch(3)[0], alone.batch(3)[0])
    laid_out = images.contiguous(memory_format=torch.channels_last)  # as `data.load` returns them
    assert DevicePictures.prepare(laid_out, "cpu").pixels.data_ptr() == laid_out.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 41}, "40 pictures are fewer than one batch of 41"),
        ({"batch_size": 0}, "batch size 0"),
        ({"indices": torch.tensor([0, 40])}, "outside the 40 pictures"),
        ({"indices": torch.tensor([-1, 4])}, "outside the 40 pictures"),
        ({"labels": torch.zeros(39).long()}, "40 pictures and 39 labels"),
        ({"images": torch.zeros(40, 3, 12, 12)}, "torch.float32"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 0.5}, "seed 0.5"),
        ({"augmentation": Augmentation(mean=(0.5, 0.5), std=(1.0, 1.0))}, "3 channels"),
        ({"device": "meta", "images": DevicePictures.prepare(pictures(40)[0])}, "prepared on cpu"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(change, message):
    images, labels = pictures(40)
    fitting = {
        "images": images,
        "labels": labels,
        "indices": None,
        "batch_size": 2,
        "augmentation": COLOUR,
        "seed": 0,
    }
    with pytest.raises(SedonaError, match=message) as caught:
        BatchStream(**{**fitting, **change})
    assert "\n" not in str(caught.value)


def test_batch_numbers_are_checked():
    images, labels = pictures(40)
    stream = BatchStream(images, labels, None, 8, COLOUR, seed=0)
    for number in (-1, 1.5, "2"):
        with pytest.raises(SedonaError, match="batch number"):
            stream.batch(number)


def test_augmentations_are_checked_and_described():
    bad = [{"padding": -1}, {"padding": 1.5}, {"rotation": math.nan}, {"rotation": -3}, {"std": (0.0,)}]
    for change in [*bad, {"mean": (0.1, 0.2)}, {"mean": (), "std": ()}]:
        with pytest.raises(SedonaError):
            Augmentation(**change)
    assert CIFAR10.with_padding(2).padding == 2
    assert CIFAR10.padding == 4
    assert TINY_IMAGENET.describe() == "rotation up to 20 degrees, crop after padding by 4, mirror image"
    assert Augmentation().describe() == "none"
