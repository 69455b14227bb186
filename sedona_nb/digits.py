"""scikit-learn's handwritten digits as pictures: a data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from sedona_nb.picture_cache import DecodedPictures

DIGITS_SPLIT_SEED = 2021  # one fixed split of the digits, whatever seed a run has


def read() -> DecodedPictures:
    """scikit-learn's 1,797 digits, 8x8 with 17 grey values, enlarged to 32x32, in fixed halves of 1,437 and 360.

    Bilinear, since nearest would make blocks of 4x4 equal pixels, and the first 3x3 kernels of a network would see
    nothing but their edges. All steps are exact in single precision, so the pixels are the same on every machine.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None]  # (1797, 1, 8, 8), 0..16
    large = torch.nn.functional.interpolate(grey, scale_factor=4, mode="bilinear", align_corners=False)
    pictures = (large * (255 / 16)).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(bunch.target).long()
    # Shuffled, then sorted by class: every fifth one is a test set with all classes in proportion.
    shuffled = np.random.default_rng(DIGITS_SPLIT_SEED).permutation(len(labels))
    by_class = torch.from_numpy(shuffled[np.argsort(bunch.target[shuffled], kind="stable")])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[::5]] = True
    return DecodedPictures.measure(
        pictures[~chosen],
        labels[~chosen],
        pictures[chosen],
        labels[chosen],
        tuple(str(digit) for digit in range(10)),
    )
