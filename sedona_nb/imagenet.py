"""The paper's training runs on ImageNet as settings (Section 4.3, Appendix E.2); the pictures are `data.load`'s.

    pictures = data.load("imagenet", root="~/data")
    network = imagenet.network("resnet101")
    spec = RunSpec(pictures.name, pictures.fingerprint, network, "sedona", imagenet.schedule("resnet101"), cut)

As in the released code, the val pictures select the checkpoint and are the test pictures, too: nothing is held
out. The paper trains in mixed precision (Apex), which is `precision="float16"`; the default here is float32.
"""

from __future__ import annotations

from sedona_nb.errors import choose
from sedona_nb.networks import NetworkConfig
from sedona_nb.train_config import TrainConfig

TRAIN_PICTURES = 1_281_167
RATES = {"resnet101": (0.1, 1e-4), "resnet152": (0.05, 1e-5)}  # first and last learning rate of the cosine
BATCH = 256


def network(name: str) -> NetworkConfig:
    """The base network at full width.

    Raises:
        SedonaError: another network than those of `RATES`.
    """
    return NetworkConfig(choose(name, RATES, "network on ImageNet"), width=1.0)


def schedule(name: str, **changes: object) -> TrainConfig:
    """600,000 steps of 256 pictures, evaluated every 5,000 (Appendix E.2).

    Args:
        name: of the network; the deeper one has smaller learning rates.
        changes: fields of `TrainConfig` to set otherwise, such as `precision="float16"`.

    Raises:
        SedonaError: another network than those of `RATES`.
    """
    lr, lr_min = RATES[choose(name, RATES, "network on ImageNet")]
    settings = {
        "steps": 600_000,
        "batch_size": BATCH,
        "lr": lr,
        "lr_min": lr_min,
        "weight_decay": 5e-5,
        "held_out": 0.0,
        "evaluate_every": 5_000,
    }
    return TrainConfig(**{**settings, **changes})


def dgl_schedule(**changes: object) -> TrainConfig:
    """DGL's own setting, for the comparison of Table 5: 50 epochs of 256, the rate a tenth after every 10 epochs.

    The paper gives rate and weight decay; labels are smoothed as in its other runs, and errors are taken once an
    epoch: neither is said for this table.

    Args:
        changes: fields of `TrainConfig` to set otherwise.
    """
    epoch = TRAIN_PICTURES // BATCH  # 5,004 steps; the last short batch is dropped
    settings = {
        "steps": 50 * epoch,
        "batch_size": BATCH,
        "lr": 0.1,
        "decay_every": 10 * epoch,
        "weight_decay": 1e-4,
        "held_out": 0.0,
        "evaluate_every": epoch,
    }
    return TrainConfig(**{**settings, **changes})
