"""The paper's protocols beside CIFAR-10's: ImageNet (Tables 3, 5 and 7) and Tiny-ImageNet (Table 2 (b)).

All at full width, in mixed precision (Apex there, `precision="float16"` here, which needs CUDA), and with nothing
held out: the val pictures choose the checkpoint and are the test pictures, as in the released code. The paper
speaks of one run each, so there is one seed. Nothing searches here: the decouplings are those found on CIFAR-10.
"""

from __future__ import annotations

from dataclasses import replace

from sedona_nb import imagenet
from sedona_nb.networks import NetworkConfig
from sedona_nb.profiles import Profile
from sedona_nb.profiles import load as load_profile
from sedona_nb.protocols import Protocol, Setting
from sedona_nb.train_config import TrainConfig

NETWORKS = {
    "tiny-imagenet": ("vgg19", "resnet50", "resnet101", "resnet152"),
    "imagenet": ("resnet101", "resnet152"),
    "imagenet-dgl": ("resnet152",),
}


def load(name: str, network: str) -> Protocol:
    """The protocol `name`, a key of `NETWORKS`, with one of its networks; whose pictures are not known yet.

    tiny-imagenet: 30,000 steps of 256, otherwise as on CIFAR-10. imagenet: Appendix E.2. imagenet-dgl: Table 5's
    setting, 50 epochs. Errors on training pictures, for Table 7, are taken on 50,000 of them, as many as val has;
    the paper does not say.
    """
    if name == "tiny-imagenet":
        decay = 2e-4 if network == "resnet152" else 1e-4
        train = TrainConfig(
            steps=30_000, batch_size=256, lr=0.1, weight_decay=decay, held_out=0.0, precision="float16"
        )
        config, data = NetworkConfig(network, width=1.0), "tiny-imagenet"
    else:
        config, data = imagenet.network(network), "imagenet"
        if name == "imagenet":
            train = imagenet.schedule(network, precision="float16", train_pictures=50_000)
        else:
            train = imagenet.dgl_schedule(precision="float16")
    blocks = 2 if name == "imagenet-dgl" else 4
    paper = load_profile("paper")
    profile = Profile(
        name, data, config, paper.search, train, blocks, results=paper.results, figures=paper.figures
    )
    return replace(Protocol(name, profile, ""), seeds=(0,), settings=(Setting(train.lr, train.warmup_steps),))
