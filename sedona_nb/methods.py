"""The methods that the tables compare, each as the spec of a training run (Section 4.1, Appendix E.2).

backprop    one block
predsim     K equal blocks, PredSim heads, no label smoothing
dgl         K equal blocks, MLP-SR heads
sedona      K blocks and heads as a search chose them, or as the paper prints them
    given       a decoupling that somebody chose: by hand, at random
    continuous  no blocks: alpha and beta of a search as they are (Table 6)
features-replay  K equal blocks, no heads, gradients of the one loss that come late (Figure 7)
feedback-alignment  one block, errors travel back through fixed random weights (poster, Table 1)
block-local  K equal blocks, no heads, losses from feedback blocks (poster)
"""

from __future__ import annotations

from dataclasses import replace

from sedona_nb.block_local import BlockLocalConfig
from sedona_nb.data import ImageData, Pictures
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import NO_HEAD
from sedona_nb.profiles import Profile
from sedona_nb.records import HEADLESS, METHODS, RunSpec, SearchSpec
from sedona_nb.search_config import SearchResult

EQUAL_BLOCKS = {"dgl": "mlp-sr", "predsim": "predsim", **dict.fromkeys(HEADLESS, NO_HEAD)}  # and their heads
TITLES = {
    "backprop": "Backprop",
    "predsim": "PredSim",
    "dgl": "DGL",
    "sedona": "SEDONA",
    "given": "given decoupling",
    "continuous": "SEDONA (Cont.)",
    "features-replay": "Features Replay",
    "feedback-alignment": "FA",
    "block-local": "BLL",
}


def search_spec(profile: Profile, pictures: ImageData, seed: int = 0) -> SearchSpec:
    """The search that `profile` asks for."""
    return SearchSpec(pictures.name, pictures.fingerprint, profile.network, profile.search, profile.heads, seed)


def run_spec(
    method: str,
    profile: Profile,
    pictures: Pictures,
    num_layers: int,
    seed: int = 0,
    found: SearchResult | None = None,
    decoupling: Decoupling | None = None,
    block_local: BlockLocalConfig | None = None,
) -> RunSpec:
    """The training run of `method` under `profile`.

    Args:
        method: one of `METHODS`.
        profile: network, schedule and K.
        pictures: the data set.
        num_layers: L of the profile's network.
        seed: of weights, split and batches.
        found: a search's result, for "sedona" and "continuous".
        decoupling: for "given"; for "sedona", where it does not come from `found` but from the paper.
        block_local: settings of "block-local"; default: those of `BlockLocalConfig`.

    Raises:
        SedonaError: unknown method, a search-based method without the search's result, or "given" without a
            decoupling.
    """
    choose(method, METHODS, "method")
    train = profile.train
    alpha = beta = None
    if method in ("sedona", "continuous") and found is None and decoupling is None:
        raise SedonaError(f"method {method!r} needs the result of a search")
    if method == "given" and decoupling is None:
        raise SedonaError('method "given" needs a decoupling')
    if method == "continuous":
        decoupling = None
        alpha, beta = (tuple(map(tuple, value.tolist())) for value in (found.alpha, found.beta))
    elif method in ("backprop", "feedback-alignment"):
        decoupling = Decoupling.backprop(num_layers)
    elif method == "sedona":
        decoupling = decoupling or Decoupling.from_search(found.alpha, found.beta, profile.num_blocks)
    elif method in EQUAL_BLOCKS:
        decoupling = Decoupling.uniform(num_layers, profile.num_blocks, EQUAL_BLOCKS[method])
    if method == "predsim":  # Appendix E.2: labels are smoothed for backprop, DGL and SEDONA
        train = replace(train, loss=replace(train.loss, smoothing=0.0))
    return RunSpec(
        data=pictures.name,
        fingerprint=pictures.fingerprint,
        network=profile.network,
        method=method,
        train=train,
        decoupling=decoupling,
        alpha=alpha,
        beta=beta,
        heads=profile.heads,
        seed=seed,
        block_local=(block_local or BlockLocalConfig()) if method == "block-local" else None,
    )
