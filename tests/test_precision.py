"""Convolutions in bfloat16, everything else in float32: how far results may move, and what stays as it is."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from sedona_nb import adjoint, bilevel, data, search
from sedona_nb.batches import BatchStream
from sedona_nb.bilevel import InnerConfig, Problem
from sedona_nb.decoding import decode
from sedona_nb.errors import SedonaError
from sedona_nb.lean.convolutions import Pointwise, Reduced, TinyDepthwise, Window
from sedona_nb.lean.program import Program
from sedona_nb.networks import NetworkConfig, build_network
from sedona_nb.records import SearchSpec, spec_hash
from sedona_nb.relaxed import relax
from sedona_nb.search_config import SearchConfig


@pytest.mark.parametrize(
    ("convolution", "weight"),
    [(Window(2, 1), (6, 4, 3, 3)), (Pointwise(), (6, 4)), (TinyDepthwise(1), (4, 1, 3, 3))],
    ids=["window", "pointwise", "tiny depthwise"],
)
def test_reduced_is_the_same_map_on_rounded_numbers(convolution, weight) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 2, 2, 4, generator=draw), torch.randn(weight, generator=draw)
    low = Reduced(convolution, torch.bfloat16)
    y = low.apply(x, w)
    assert y.dtype == torch.float32
    assert torch.equal(y, convolution.apply(x.bfloat16(), w.bfloat16()).float())
    assert not torch.equal(y, convolution.apply(x, w))
    g = torch.randn(y.shape, generator=draw)
    found = low.pull(x, g, w)
    wanted = convolution.pull(x.bfloat16(), g.bfloat16(), w.bfloat16())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other.float())
    assert low.pull(x, g, w, to_x=False)[0] is None
    assert low.pull(x, g, w, to_w=False)[1] is None


def test_hypergradient_of_a_warm_network_keeps_its_direction() -> None:
    """Measured: cosines of 0.95 to 0.98 here, 0.94 to 0.98 on VGG-19 and ResNet-18, and losses within 0.006."""
    pictures = data.load("digits")
    net = relax(build_network("vgg11", 0.125, 10, 32, 1, seed=0), 10, 0.125, seed=1).train()
    stream = BatchStream(
        pictures.train_images, pictures.train_labels, None, 32, pictures.augmentation, 0, torch.device("cpu")
    )
    full, low = Program(net, (1, 32, 32)), Program(net, (1, 32, 32), "bfloat16")
    weights, rows = bilevel.initial_weights(net), net.num_layers - 1
    shares = torch.full((rows, 2), 0.5), torch.full((rows, 4), 0.25)
    inner = InnerConfig(steps=3, batch_size=32)
    for step in range(40):
        weights, _ = adjoint.inner_step(full, weights, *shares, stream.batch(step), 0.05, inner, overwrite=True)
    draw = torch.Generator().manual_seed(3)
    decisions = 0.5 * torch.randn(rows, 2, generator=draw), 0.5 * torch.randn(rows, 4, generator=draw)
    batches = [stream.batch(100 + t) for t in range(3)]
    problem = Problem(net, weights, *decisions, batches, stream.batch(200), 0.01, inner)
    wanted, found = (adjoint.adjoint_hypergradient(problem, "validation", program) for program in (full, low))
    for one, other in zip(found[:2], wanted[:2], strict=True):
        assert one.dtype == torch.float32
        assert 0.9 < F.cosine_similarity(one.flatten(), other.flatten(), dim=0) < 0.9999
    assert abs(found.outer_loss - wanted.outer_loss) < 0.01


CONFIG = SearchConfig(
    pretrain_steps=6,
    snapshot_every=3,
    memory_size=2,
    outer_steps=2,
    outer_batch_size=32,
    inner=InnerConfig(steps=2),
)


def test_search_in_bfloat16() -> None:
    pictures, network = data.load("digits"), NetworkConfig("vgg11", 0.125)
    found = search.run(pictures, network, replace(CONFIG, precision="bfloat16"))
    plain = search.run(pictures, network, CONFIG)
    assert found.alpha.dtype == found.beta.dtype == torch.float32
    assert not torch.equal(found.outer_losses, plain.outer_losses)
    torch.testing.assert_close(found.outer_losses, plain.outer_losses, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "half"}, "unknown precision 'half'; allowed: float32, bfloat16"),
        (
            {"precision": "bfloat16", "backend": "functional"},
            "precision 'bfloat16' needs backend 'adjoint', not 'functional'",
        ),
    ],
)
def test_bad_precision(changes: dict, message: str) -> None:
    with pytest.raises(SedonaError, match=message):
        SearchConfig(**changes)


def test_records_of_before_keep_their_names_and_are_read() -> None:
    """The field came later: a record without it is one in float32."""
    spec = SearchSpec("digits", "0" * 12, NetworkConfig("vgg11", 0.125), CONFIG)
    assert spec_hash(spec) == "116241a864c4"  # as before there was the field
    low = replace(spec, search=replace(CONFIG, precision="bfloat16"))
    assert spec_hash(low) != spec_hash(spec)
    content = asdict(low)
    assert decode(SearchSpec, content) == low
    del content["search"]["precision"]
    assert decode(SearchSpec, content) == spec
