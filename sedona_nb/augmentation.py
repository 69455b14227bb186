"""What happens to a picture on its way into the network, as one value; `batches` carries it out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from sedona_nb.errors import SedonaError


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, then random crop, then random mirror image, then normalisation.

    The order is that of the released code (dataset.py, AVAILABLE_TRANSFORMS). What rotation or crop uncovers is
    black, and black before normalising, as with torchvision's transforms on pictures. Evaluation only normalises.

    Raises:
        SedonaError: a negative padding or rotation, a std of 0, mean and std of different length.
    """

    padding: int = 0  # pixels of black on each side, from which a crop of the original size is cut
    flip: bool = False  # mirror left and right with probability 1/2
    rotation: float = 0.0  # degrees: uniform in [-rotation, rotation], nearest pixel (torchvision's default)
    mean: tuple[float, ...] = (0.0,)  # a channel each, or one for all; in units of the brightest value (0..1)
    std: tuple[float, ...] = (1.0,)  # likewise

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int) or self.padding < 0:
            raise SedonaError(f"padding {self.padding!r} is not allowed; allowed: whole pixels, at least 0")
        if not (math.isfinite(self.rotation) and 0 <= self.rotation <= 180):
            raise SedonaError(f"rotation {self.rotation!r} is not allowed; allowed: 0 to 180 degrees")
        if not self.mean or len(self.mean) != len(self.std):
            raise SedonaError(f"mean has {len(self.mean)} values and std {len(self.std)}; both need one a channel")
        if not (all(map(math.isfinite, self.mean)) and all(math.isfinite(s) and s > 0 for s in self.std)):
            raise SedonaError(f"mean {self.mean} or std {self.std} is not allowed; std must be above 0")

    def with_padding(self, padding: int) -> Augmentation:
        """The same with another crop padding, e.g. the 2 pixels of the released code on CIFAR-10."""
        return dataclasses.replace(self, padding=padding)

    def describe(self) -> str:
        """One line for people: what is done at random."""
        steps = [f"rotation up to {self.rotation:g} degrees"] if self.rotation else []
        steps += [f"crop after padding by {self.padding}"] if self.padding else []
        steps += ["mirror image"] if self.flip else []
        return ", ".join(steps) or "none"


# The paper crops CIFAR-10 "as in Nøkland & Eidnes", whose code pads by 4; SEDONA's released code pads by 2
# (dataset.py:179), which is `CIFAR10.with_padding(2)`. Mean and std are those of the released code.
CIFAR10 = Augmentation(padding=4, flip=True, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
# Released code, dataset.py:184-190.
TINY_IMAGENET = Augmentation(
    padding=4, flip=True, rotation=20.0, mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)
)


def recipe(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Augmentation:
    """The augmentation that goes with a data set.

    Args:
        name: as in `ImageData.name`.
        mean: of the train pictures, used where no source prints one; 0..1, one a channel.
        std: likewise.

    CIFAR-10 and Tiny-ImageNet follow the released code. Neither source says anything about the others:
    digits are shifted by 2 pixels and never mirrored (a mirrored digit is another sign); Fashion-MNIST is padded
    by 2, as in the code of Nøkland & Eidnes, and mirrored; any other tree of pictures is padded by 4 and mirrored.
    The paper's RandomResizedCrop for ImageNet needs pictures of their original size: see `streamed_pictures`.
    """
    if name in ("cifar10", "cifar10-jpeg"):
        return CIFAR10
    if name.startswith("tiny-imagenet"):
        return TINY_IMAGENET
    if name == "digits":
        return Augmentation(padding=2, mean=mean, std=std)
    return Augmentation(padding=2 if name == "fashion-mnist" else 4, flip=True, mean=mean, std=std)
