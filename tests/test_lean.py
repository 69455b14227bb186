"""The explicit program behind the adjoint backend: every piece against PyTorch's own derivatives, in float64."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CLASSES, float64, relative, toy_batch, toy_network, toy_relaxed, toy_weights

from sedona_nb import adjoint, bilevel, data
from sedona_nb import relaxed as relaxation
from sedona_nb.batches import BatchStream
from sedona_nb.bilevel import InnerConfig, Problem, hypergradient
from sedona_nb.errors import SedonaError
from sedona_nb.heads import HeadConfig
from sedona_nb.lean import assembly, convolutions, program, tails, trajectory
from sedona_nb.lean.gates import Channels, Stack
from sedona_nb.lean.junctions import Junction, Selection
from sedona_nb.lean.nodes import Run
from sedona_nb.lean.normalization import Moments, Normalization, Pullback, row_length
from sedona_nb.lean.program import Program
from sedona_nb.losses import smoothed_targets
from sedona_nb.networks import build_network, build_resnet, build_vgg, initialize
from sedona_nb.relaxed import RelaxedNetwork, relax

PICTURE = (3, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestConvolutions:
    CASES = {
        "window": (convolutions.Window(1, 1), (4, 5, 5, 3), (6, 3, 3, 3), 1),
        "window with stride": (convolutions.Window(2, 1), (4, 6, 6, 3), (6, 3, 3, 3), 1),
        "depthwise": (convolutions.Window(2, 1, 6), (4, 6, 6, 6), (6, 1, 3, 3), 6),
        "pointwise": (convolutions.Pointwise(), (4, 5, 5, 6), (7, 6), 1),
        "pointwise groups": (convolutions.PointwiseGroups(), (4, 3, 3, 6), (3, 5, 2), 3),
        "tiny, one pixel": (convolutions.TinyDepthwise(1), (4, 1, 1, 6), (6, 1, 3, 3), 6),
        "tiny, two by two": (convolutions.TinyDepthwise(1), (4, 2, 2, 6), (6, 1, 3, 3), 6),
        "tiny with stride": (convolutions.TinyDepthwise(2), (4, 2, 2, 6), (6, 1, 3, 3), 6),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_map_and_transposes_are_those_of_conv2d(self, case: str) -> None:
        bilinear, x_shape, w_shape, groups = self.CASES[case]
        with float64():
            draw = generator()
            x = torch.randn(x_shape, generator=draw, requires_grad=True)
            w = torch.randn(w_shape, generator=draw, requires_grad=True)
            kernel = w.reshape(-1, *w_shape[-1:], 1, 1) if case.startswith("pointwise") else w
            stride = getattr(bilinear, "stride", 1)
            padding = kernel.shape[-1] // 2
            wanted = F.conv2d(x.permute(0, 3, 1, 2), kernel, None, stride, padding, 1, groups).permute(0, 2, 3, 1)
            found = bilinear.apply(x.detach(), w.detach())
            assert found.is_contiguous()
            torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-12)
            g = torch.randn(wanted.shape, generator=draw)
            wanted_x, wanted_w = torch.autograd.grad(wanted, [x, w], g)
            for asked in ((True, True), (True, False), (False, True)):
                found_x, found_w = bilinear.pull(x.detach(), g, w.detach(), *asked)
                for ask, one, other in zip(asked, (found_x, found_w), (wanted_x, wanted_w), strict=True):
                    if ask:
                        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
                    else:
                        assert one is None or not ask

    def test_choice(self) -> None:
        choose = convolutions.choose
        assert isinstance(choose(1, 1, 0, 1, 8, 64), convolutions.Pointwise)
        assert isinstance(choose(1, 2, 0, 1, 8, 64), convolutions.Window)  # a shortcut with stride
        assert isinstance(choose(3, 1, 1, 8, 8, 4), convolutions.TinyDepthwise)
        assert isinstance(choose(3, 1, 1, 8, 8, 16), convolutions.Window)
        assert isinstance(choose(3, 1, 1, 1, 8, 1), convolutions.Window)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("parts", [[6], [2, 1, 3]])
class TestNormalization:
    """Pairs of values and tangents against automatic derivatives of a BatchNorm written out."""

    SHAPE = (6, 4, 2, 3)  # (n, H, W, C)

    def problem(self, relu: bool) -> dict[str, Tensor]:
        draw = generator(1)
        names = {"x": self.SHAPE, "xd": self.SHAPE, "g": (3,), "b": (3,), "gd": (3,), "bd": (3,)}
        return {name: torch.randn(shape, generator=draw) for name, shape in names.items()}

    @staticmethod
    def normalise(x: Tensor, g: Tensor, b: Tensor, relu: bool) -> Tensor:
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
        y = (x - mean) * (variance + 1e-5).rsqrt() * g + b
        return y.clamp(min=0) if relu else y

    def lean(self, values: dict[str, Tensor], cotangent: Tensor, k: int, parts: list[int], relu: bool):
        """Outputs (k, n, H, W, C) and gradients of x (k, ...), gamma, beta."""
        stacked = torch.stack([values["x"], values["xd"]][:k])
        length = row_length(*self.SHAPE[1:])
        tiled = stacked.view(k, self.SHAPE[0], -1, length)
        chunks, moments = tiled.split(parts, 1), Moments()
        for chunk in chunks:
            moments.add(chunk, chunk.shape[1] * 8)
        direction = (values["gd"], values["bd"]) if k == 2 else None
        norm = Normalization.of(moments, 1e-5, values["g"], values["b"], direction, relu, length)
        outputs = [norm.apply(chunk) for chunk in chunks]
        pullback, masked = Pullback(norm), torch.empty_like(tiled)
        cotangents = cotangent.view_as(tiled).split(parts, 1)
        for y, g, chunk, out in zip(outputs, cotangents, chunks, masked.split(parts, 1), strict=True):
            pullback.add(y, g, chunk, out)
        to_gamma, to_beta = pullback.close(length)
        pairs = zip(masked.split(parts, 1), chunks, strict=True)
        to_x = torch.cat([pullback.apply(g, chunk) for g, chunk in pairs], 1)
        return torch.cat(outputs, 1).view_as(stacked), to_x.view_as(stacked), to_gamma, to_beta

    def test_values(self, relu: bool, parts: list[int]) -> None:
        with float64():
            values = self.problem(relu)
            cotangent = torch.randn(1, *self.SHAPE, generator=generator(2))
            y, to_x, to_gamma, to_beta = self.lean(values, cotangent, 1, parts, relu)
            leaves = [values[name].requires_grad_() for name in ("x", "g", "b")]
            wanted = self.normalise(*leaves, relu)
            found = torch.autograd.grad(wanted, leaves, cotangent[0])
        torch.testing.assert_close(y[0], wanted.detach(), rtol=1e-11, atol=1e-11)
        for one, other in zip((to_x[0], to_gamma, to_beta), found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    def test_tangents(self, relu: bool, parts: list[int]) -> None:
        with float64():
            values = self.problem(relu)
            cotangent = torch.randn(2, *self.SHAPE, generator=generator(3))
            y, to_x, to_gamma, to_beta = self.lean(values, cotangent, 2, parts, relu)

            def pair(x, xd, g, b):
                return torch.func.jvp(
                    lambda x, g, b: self.normalise(x, g, b, relu), (x, g, b), (xd, values["gd"], values["bd"])
                )

            arguments = [values[name] for name in ("x", "xd", "g", "b")]
            wanted, pull = torch.func.vjp(pair, *arguments)
            found = pull((cotangent[0], cotangent[1]))
        torch.testing.assert_close(y, torch.stack(wanted), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(to_x, torch.stack(found[:2]), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(to_gamma, found[2], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(to_beta, found[3], rtol=1e-9, atol=1e-10)


def test_statistics_keep_their_digits_far_from_zero() -> None:
    """float32, mean 1000 times the standard deviation: raw sums of squares would lose the variance."""
    base = build_vgg((4, 4), 1.0, CLASSES, 8, hidden=8)
    initialize(base, 0)
    net = relax(base, CLASSES, 1 / 64, seed=1)
    images = 1000 + torch.randn(16, 3, 8, 8, generator=generator())
    with torch.no_grad():  # the first convolution copies a channel, so that its mean stays 1000
        base.layers[0][0].weight.zero_()
        base.layers[0][0].weight[:, 0, 1, 1] = 1
    lean = Program(net, PICTURE)
    vector = lean.layout.pack(dict(net.named_parameters()))
    field = lean.mixed_gradient(
        vector, images, torch.full((16, CLASSES), 0.2), torch.full((1, 2), 0.5), torch.full((1, 4), 0.25)
    )
    wanted = images[:, 0].double().var()
    found = lean.parts.layers[0].nodes[0].statistics.of(lean.layout.split_statistics(field.statistics[1]))
    assert relative(found.double(), wanted.expand(4)) < 1e-3


def odd_networks() -> dict[str, RelaxedNetwork]:
    """What the two toys do not have: pools elsewhere, the large stem, other readings and sets of heads."""
    after = build_vgg((8, "M", 12, "M"), 1.0, CLASSES, 8, hidden=8, pool="after_cut")
    stem = build_resnet((1, 1), 0.125, CLASSES, 68, name="stem with pooling")
    basic = build_resnet((1, 1), 0.125, CLASSES, 8, bottleneck=False)
    for network in (after, stem, basic):
        initialize(network, 2)
    return {
        "vgg": toy_relaxed("vgg"),
        "resnet": toy_relaxed("resnet"),
        "pool after the cut": relax(after, CLASSES, 1 / 64, seed=3),
        "stem with pooling": relax(stem, CLASSES, 1 / 64, seed=3),
        "basic blocks": relax(basic, CLASSES, 1 / 64, seed=3),
        "two heads, deep one first": relax(toy_network("vgg"), CLASSES, 1 / 64, ("aux4", "aux1"), seed=3),
        "two heads alike": relax(toy_network("vgg"), CLASSES, 1 / 64, ("aux3", "aux1", "aux3"), seed=3),
        "one head": relax(toy_network("resnet"), CLASSES, 1 / 64, ("aux2",), seed=3),
        "guarded strides": relax(
            toy_network("vgg"), CLASSES, 1 / 64, config=HeadConfig(strides="guarded"), seed=3
        ),
        "full inner width": relax(
            toy_network("vgg"), CLASSES, 1 / 64, config=HeadConfig(inner_width="full"), seed=3
        ),
    }


with float64():
    NETWORKS = odd_networks()


class Setting:
    """A network with weights, shares and a batch; the two views of the same mixed gradient."""

    def __init__(self, name: str):
        self.relaxed = NETWORKS[name].train()
        draw = generator(4)
        self.weights = toy_weights(self.relaxed, draw)
        rows, heads = self.relaxed.num_layers - 1, self.relaxed.num_heads
        self.abar = (0.5 * torch.randn(rows, 2, generator=draw)).softmax(1)
        self.bbar = (0.5 * torch.randn(rows, heads, generator=draw)).softmax(1)
        side = 68 if "stem" in name else 8
        self.images = torch.randn(12, 3, side, side, generator=draw)
        self.labels = torch.randint(CLASSES, (12,), generator=draw)
        self.targets = smoothed_targets(self.labels, CLASSES, 0.1, "uniform")
        self.program = Program(self.relaxed, tuple(self.images.shape[1:]))
        self.vector = self.program.layout.pack(self.weights.parameters)

    def reference(self, create_graph: bool = False, abar: Tensor | None = None, bbar: Tensor | None = None):
        """Losses, mixed gradient as a vector, and the buffers after the pass."""
        abar, bbar = self.abar if abar is None else abar, self.bbar if bbar is None else bbar
        buffers = {name: value.clone() for name, value in self.weights.buffers.items()}
        parameters = self.weights.parameters
        outputs = relaxation.forward(self.relaxed, parameters, buffers, self.images, abar, bbar)
        losses = relaxation.local_losses(outputs, self.labels, InnerConfig().loss)
        field = relaxation.mixed_gradient(
            self.relaxed, parameters, outputs.activations, losses, abar, create_graph
        )
        vector = torch.cat([field[name].reshape(-1) for name in self.program.layout.names])
        return torch.stack(losses), vector, buffers

    def apart(self, monkeypatch: pytest.MonkeyPatch) -> Program:
        """The same network with a group of heads for every layer."""
        monkeypatch.setattr(assembly, "TOGETHER", 0)
        return Program(self.relaxed, tuple(self.images.shape[1:]))


@pytest.mark.parametrize("name", NETWORKS)
class TestPasses:
    @pytest.fixture(autouse=True)
    def _double(self):
        with float64():
            yield

    def test_mixed_gradient_and_statistics(self, name: str) -> None:
        setting = Setting(name)
        losses, wanted, buffers = setting.reference()
        field = setting.program.mixed_gradient(
            setting.vector, setting.images, setting.targets, setting.abar, setting.bbar
        )
        torch.testing.assert_close(field.losses, losses.detach(), rtol=1e-12, atol=1e-12)
        assert relative(field.gradient, wanted) < 1e-11
        found = {key: value.clone() for key, value in setting.weights.buffers.items()}
        setting.program.layout.update_statistics(found, field.statistics)
        for key, value in buffers.items():
            torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-11, msg=key)

    def test_directional_derivative(self, name: str) -> None:
        setting = Setting(name)
        p = torch.randn(setting.vector.shape, generator=generator(5))
        abar, bbar = setting.abar.clone().requires_grad_(), setting.bbar.clone().requires_grad_()
        _, field, _ = setting.reference(True, abar, bbar)
        leaves = [setting.weights.parameters[key] for key in setting.program.layout.names]
        *to_weights, to_abar, to_bbar = torch.autograd.grad((field * p).sum(), [*leaves, abar, bbar])
        arguments = setting.images, setting.targets, setting.abar, setting.bbar
        found = setting.program.directional(setting.vector, p, *arguments)
        assert relative(found.to_weights, torch.cat([part.reshape(-1) for part in to_weights])) < 1e-10
        assert relative(found.to_abar, to_abar) < 1e-10
        assert relative(found.to_bbar, to_bbar) < 1e-10
        # The short cut of the first step gives the same shares.
        setting.program.mixed_gradient(setting.vector, *arguments, keep_cotangents=True)
        kept = setting.program.take_cotangents()
        short = setting.program.shares_only(setting.vector, p, *arguments, None, kept)
        assert short.to_weights is None
        assert relative(short.to_abar, to_abar) < 1e-10
        assert relative(short.to_bbar, to_bbar) < 1e-10

    def test_classifier_gradient(self, name: str) -> None:
        setting = Setting(name)
        buffers = {key: value.clone() for key, value in setting.weights.buffers.items()}
        outputs = relaxation.forward(
            setting.relaxed, setting.weights.parameters, buffers, setting.images, None, None
        )
        loss = InnerConfig().loss(outputs.scores[-1], setting.labels)
        leaves = [setting.weights.parameters[key] for key in setting.program.layout.names]
        parts = torch.autograd.grad(loss, leaves, allow_unused=True)
        wanted = torch.cat(
            [(torch.zeros_like(w) if g is None else g).reshape(-1) for w, g in zip(leaves, parts, strict=True)]
        )
        value, found = setting.program.classifier_gradient(setting.vector, setting.images, setting.targets)
        assert value.item() == pytest.approx(loss.item(), rel=1e-12)
        assert relative(found, wanted) < 1e-10

    def test_chunks_and_ways_through_the_tail_do_not_matter(self, name: str, monkeypatch) -> None:
        setting = Setting(name)
        p = torch.randn(setting.vector.shape, generator=generator(6))
        arguments = setting.vector, p, setting.images, setting.targets, setting.abar, setting.bbar
        whole = setting.program.directional(*arguments)
        monkeypatch.setattr(program, "CHUNK", 700)
        monkeypatch.setattr("sedona_nb.lean.head_group.TAIL_CHUNK", 1)
        for masks_from in (0, 10**9):  # always by masks, never by masks
            monkeypatch.setattr(tails, "MASKS_FROM", masks_from)
            found = setting.program.directional(*arguments)
            for one, other in zip(found, whole, strict=True):
                assert relative(one, other) < 1e-10


def by_name(lean: Program, vector: Tensor) -> Tensor:
    """The same order for programs that lay weights out differently."""
    views = lean.layout.unpack(vector)
    return torch.cat([views[name].reshape(-1) for name in sorted(views)])


class TestLayersTogether:
    """Heads of several layers in one group: against one group a layer, and against PyTorch's derivatives."""

    NAMES = ("vgg", "resnet", "two heads, deep one first", "two heads alike", "one head")

    @pytest.fixture(autouse=True)
    def _double(self):
        with float64():
            yield

    def test_which_layers_go_together(self, monkeypatch) -> None:
        setting = Setting("vgg")
        shapes = [layer.output.shape for layer in setting.program.parts.layers]
        assert shapes == [(4, 4, 8), (4, 4, 8), (2, 2, 12), (2, 2, 12)]
        counts = [layer.heads and len(layer.heads.gates) for layer in setting.program.parts.layers]
        assert counts == [None, 2, 1, None]
        counts = [layer.heads and len(layer.heads.gates) for layer in setting.apart(monkeypatch).parts.layers]
        assert counts == [1, 1, 1, None]

    @pytest.mark.parametrize("scaling", relaxation.HEAD_SCALINGS)
    @pytest.mark.parametrize("name", NAMES)
    def test_every_pass_is_as_if_apart(self, name: str, scaling: str, monkeypatch) -> None:
        setting = Setting(name)
        apart = setting.apart(monkeypatch)
        assert sum(layer.heads is not None for layer in apart.parts.layers) > sum(
            layer.heads is not None for layer in setting.program.parts.layers
        )
        scales = adjoint.head_scales(setting.abar, InnerConfig(head_scaling=scaling))
        direction = torch.randn(setting.vector.shape, generator=generator(9))
        coefficients = torch.rand(setting.relaxed.num_layers, generator=generator(10))
        found = []
        for lean in (setting.program, apart):
            w, p = (lean.layout.pack(setting.program.layout.unpack(v)) for v in (setting.vector, direction))
            batch = setting.images, setting.targets
            shares = setting.abar, setting.bbar, scales
            field = lean.mixed_gradient(w, *batch, *shares, keep_cotangents=True)
            short = lean.shares_only(w, p, *batch, *shares, lean.take_cotangents())
            dual = lean.directional(w, p, *batch, *shares)
            mixture = lean.mixture_gradient(w, *batch, coefficients, setting.bbar, scales)
            values = [field.losses, by_name(lean, field.gradient), field.to_bbar]
            values += [by_name(lean, dual.to_weights), dual.to_abar, dual.to_bbar, short.to_abar, short.to_bbar]
            values += [mixture.losses, by_name(lean, mixture.gradient), mixture.to_bbar]
            found.append(values)
        for one, other in zip(*found, strict=True):
            assert relative(one, other) < 1e-10

    @pytest.mark.parametrize("scaling", relaxation.HEAD_SCALINGS)
    @pytest.mark.parametrize("name", NAMES)
    def test_gradient_of_a_mixture_of_losses(self, name: str, scaling: str) -> None:
        setting = Setting(name)
        coefficients = torch.rand(setting.relaxed.num_layers, generator=generator(10))
        bbar = setting.bbar.clone().requires_grad_()
        parameters, buffers = setting.weights.parameters, dict(setting.weights.buffers)
        outputs = relaxation.forward(
            setting.relaxed, parameters, buffers, setting.images, setting.abar, bbar, scaling
        )
        losses = torch.stack(relaxation.local_losses(outputs, setting.labels, InnerConfig().loss))
        leaves = [parameters[key] for key in setting.program.layout.names]
        *parts, to_bbar = torch.autograd.grad((coefficients * losses).sum(), [*leaves, bbar])
        scales = adjoint.head_scales(setting.abar, InnerConfig(head_scaling=scaling))
        found = setting.program.mixture_gradient(
            setting.vector, setting.images, setting.targets, coefficients, setting.bbar, scales
        )
        torch.testing.assert_close(found.losses, losses.detach(), rtol=1e-12, atol=1e-12)
        assert relative(found.gradient, torch.cat([part.reshape(-1) for part in parts])) < 1e-10
        assert relative(found.to_bbar, to_bbar) < 1e-10

    @pytest.mark.parametrize("objective", bilevel.OBJECTIVES)
    @pytest.mark.parametrize("scaling", relaxation.HEAD_SCALINGS)
    def test_hypergradient(self, objective: str, scaling: str) -> None:
        draw = generator(11)
        net = NETWORKS["two heads alike"].train()
        decisions = torch.randn(3, 2, generator=draw), torch.randn(3, 3, generator=draw)
        batches = [toy_batch(draw, 12) for _ in range(3)]
        inner = InnerConfig(steps=3, head_scaling=scaling)
        problem = Problem(net, toy_weights(net, draw), *decisions, batches, toy_batch(draw, 12), 0.02, inner)
        lean = hypergradient(problem, objective)
        unrolled = hypergradient(problem, objective, backend="functional")
        assert relative(lean.alpha, unrolled.alpha) < 1e-9
        assert relative(lean.beta, unrolled.beta) < 1e-9


class _Given:
    """A source with a fixed value, and what it accepted."""

    def __init__(self, maps: Tensor):
        self.maps, self.shape, self.extent = maps, tuple(maps.shape[2:]), maps[0, 0].numel()
        self.accepted = torch.zeros_like(maps)

    def value(self, run: Run, part: slice) -> Tensor:
        return self.maps[:, part]

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        self.accepted[:, part] += g


class TestChannelsSideBySide:
    def test_stack(self) -> None:
        sources = [_Given(torch.randn(2, 5, 3, 3, 4, generator=generator(index))) for index in range(3)]
        stack, run = Stack(sources), Run(2, 5, [torch.zeros(1)])
        assert (stack.shape, stack.extent) == ((3, 3, 12), 3 * 36)
        part = slice(1, 4)
        wanted = torch.cat([source.maps for source in sources], -1)
        assert torch.equal(stack.value(run, part), wanted[:, part])
        g = torch.randn(2, 3, 3, 3, 12, generator=generator(3))
        stack.accept(run, part, None, g)
        for source, one in zip(sources, g.split(4, -1), strict=True):
            assert torch.equal(source.accepted[:, part], one)
            assert not source.accepted[:, :1].any()

    def test_channels_of_several_parts(self) -> None:
        """Channels 0 and 1 of each of three parts of four leave, 2 and 3 go on; both hand cotangents back."""
        source = _Given(torch.randn(1, 5, 2, 2, 12, generator=generator(4)))
        junction, run = Junction(source, keep=True), Run(1, 5, [torch.zeros(1)])
        junction.forward(run)
        leaving, going = (Channels(junction, Selection(3, first, first + 2)) for first in (0, 2))
        places = torch.tensor([0, 1, 4, 5, 8, 9])
        assert leaving.shape == going.shape == (2, 2, 6)
        wanted = torch.zeros(1, 5, 2, 2, 12)
        for part in (slice(0, 3), slice(3, 5)):
            for channels, at in ((leaving, places), (going, places + 2)):
                found = channels.value(run, part)
                assert found.is_contiguous()
                assert torch.equal(found, source.maps[:, part][..., at])
                assert torch.equal(channels.view(run, part, 3).flatten(4), found)
                for _ in range(2):
                    g = torch.randn(found.shape, generator=generator(5))
                    channels.accept(run, part, None, g)
                    wanted[:, part, ..., at] += g
        junction.backward(run)
        torch.testing.assert_close(source.accepted, wanted)


def test_memory_is_used_again_and_results_stay() -> None:
    with float64():
        setting = Setting("resnet")
        arguments = setting.images, setting.targets, setting.abar, setting.bbar
        first = setting.program.mixed_gradient(setting.vector, *arguments)
        copies = [value.clone() for value in first]
        held = sum(memory.numel() for memory in setting.program.workspace.free)
        setting.program.directional(setting.vector, torch.ones_like(setting.vector), *arguments)
        setting.program.classifier_gradient(setting.vector, *arguments[:2])
        again = setting.program.mixed_gradient(setting.vector, *arguments)
    for value, copied, other in zip(first, copies, again, strict=True):
        assert torch.equal(value, copied)
        assert torch.equal(value, other)
    assert held > 0


@pytest.mark.parametrize("scaling", relaxation.HEAD_SCALINGS)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_inner_step_is_the_reference_step(kind: str, scaling: str) -> None:
    with float64():
        setting = Setting(kind)
        inner = InnerConfig(steps=1, head_scaling=scaling)
        batch = setting.images, setting.labels
        shares = setting.abar, setting.bbar
        reference = setting.weights._replace(buffers={n: b.clone() for n, b in setting.weights.buffers.items()})
        lean = setting.weights._replace(buffers={n: b.clone() for n, b in setting.weights.buffers.items()})
        given = {name: value.detach().clone() for name, value in setting.weights.parameters.items()}
        for overwrite in (False, True):
            reference, losses = bilevel.inner_step(setting.relaxed, reference, *shares, batch, 0.05, inner)
            before = {name: value.clone() for name, value in lean.parameters.items()}
            kept = lean
            lean, found = adjoint.inner_step(
                setting.program, lean, *shares, batch, 0.05, inner, overwrite=overwrite
            )
            torch.testing.assert_close(found, losses, rtol=1e-11, atol=1e-12)
            if not overwrite:
                assert all(torch.equal(kept.parameters[name], value) for name, value in before.items())
    for part, wanted in zip(lean, reference, strict=True):
        assert set(part) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(part[name], value.detach(), rtol=1e-9, atol=1e-11, msg=name)
    for name, value in given.items():
        assert torch.equal(setting.weights.parameters[name], value)


def test_parameters_as_one_vector() -> None:
    with float64():
        setting = Setting("vgg")
    layout = setting.program.layout
    assert sorted(layout.names) == sorted(setting.weights.parameters)
    views = layout.unpack(setting.vector)
    assert all(torch.equal(views[name], value) for name, value in setting.weights.parameters.items())
    assert layout.pack(views).data_ptr() == setting.vector.data_ptr()  # no copy
    assert layout.pack(views, copy=True).data_ptr() != setting.vector.data_ptr()
    assert not layout.packed(dict(views))
    views[layout.names[3]] = views[layout.names[3]].clone()
    packed = layout.pack(views)
    assert packed.data_ptr() != setting.vector.data_ptr()
    assert torch.equal(packed, setting.vector)


class TestUnknownLayers:
    def refuse(self, network: RelaxedNetwork, match: str) -> None:
        with pytest.raises(SedonaError, match=match) as caught:
            Program(network, PICTURE)
        text = str(caught.value)
        assert "'functional' and 'higher'" in text
        assert "\n" not in text

    def test_dropout(self) -> None:
        base = build_vgg((8, 8), 1.0, CLASSES, 8, hidden=8, dropout=0.5)
        self.refuse(relax(base, CLASSES, 1 / 64, seed=0), r"Dropout\(p=0.5")

    def test_other_heads(self) -> None:
        self.refuse(relax(toy_network("vgg"), CLASSES, 1 / 64, ("aux1", "mlp-sr"), seed=0), "Sequential")

    def test_other_layers(self) -> None:
        base = toy_network("vgg")
        base.layers[1][2] = nn.Hardswish()
        self.refuse(relax(base, CLASSES, 1 / 64, seed=0), "Hardswish")
        base = toy_network("vgg")
        base.layers[2][0] = nn.Conv2d(8, 12, 3, padding=1)  # with a bias
        self.refuse(relax(base, CLASSES, 1 / 64, seed=0), r"Conv2d\(8, 12")

    def test_the_hypergradient_says_so_too(self) -> None:
        base = build_vgg((8, 8), 1.0, CLASSES, 8, hidden=8, dropout=0.5)
        net = relax(base, CLASSES, 1 / 64, seed=0)
        draw = generator()
        batch = toy_batch(draw, 8)
        zeros = torch.zeros(1, 2), torch.zeros(1, 4)
        problem = Problem(net, toy_weights(net, draw), *zeros, [batch], batch, 0.1, InnerConfig(steps=1))
        with pytest.raises(SedonaError, match="does not know the layer Dropout"):
            hypergradient(problem)


def test_trajectory_waits_on_disk_and_comes_back() -> None:
    vectors = [torch.full((5,), float(index)) for index in range(trajectory.IN_MEMORY + 3)]
    stack = trajectory.Trajectory()
    freed = [stack.push(vector) for vector in vectors]
    assert [value for value in freed if value is not None] == vectors[:3]
    assert stack.file is not None
    for wanted in (value.clone() for value in reversed(vectors)):
        assert torch.equal(stack.pop(torch.empty(5)), wanted)


def test_trajectory_says_when_the_disk_is_full() -> None:
    code = (
        "import resource, signal, torch\n"
        "from sedona_nb.lean import trajectory\n"
        "trajectory.IN_MEMORY = 1\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "stack = trajectory.Trajectory()\n"
        "for _ in range(5): stack.push(torch.zeros(1000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("sedona_nb.errors.SedonaError: no room for the weights of 1 inner steps")
    )


def test_double_precision_needs_no_default() -> None:
    """A float64 problem under PyTorch's default of float32: nothing on the way is rounded to float32."""
    with float64():
        draw = generator(8)
        decisions = torch.randn(3, 2, generator=draw), torch.randn(3, 4, generator=draw)
        net, batch = toy_relaxed("vgg").train(), toy_batch(draw, 16)
        problem = Problem(net, toy_weights(net, draw), *decisions, [batch], batch, 0.05, InnerConfig(steps=1))
        wanted = hypergradient(problem)
    found = hypergradient(problem)
    assert relative(found.alpha, wanted.alpha) < 1e-13


def test_many_steps_agree_with_the_unroll() -> None:
    """More steps than the trajectory keeps in memory."""
    with float64():
        draw = generator(7)
        net = toy_relaxed("vgg").train()
        steps = trajectory.IN_MEMORY + 3
        batches = [toy_batch(draw, 16) for _ in range(steps)]
        decisions = torch.randn(3, 2, generator=draw), torch.randn(3, 4, generator=draw)
        inner = InnerConfig(steps=steps)
        problem = Problem(net, toy_weights(net, draw), *decisions, batches, toy_batch(draw, 16), 0.01, inner)
        lean, unrolled = hypergradient(problem), hypergradient(problem, backend="functional")
    assert relative(lean.alpha, unrolled.alpha) < 1e-9
    assert relative(lean.beta, unrolled.beta) < 1e-9


def double(value):
    """Tensors, and whatever holds them, in double precision."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: double(part) for name, part in value.items()}
    return type(value)(map(double, value)) if isinstance(value, list) else tuple(map(double, value))


def test_warm_network_in_float32_points_where_float64_points() -> None:
    """Real weights after some steps on pictures with structure, single precision.

    The judge is the unroll in double precision: in single precision the unroll itself is off by up to 3e-4 here,
    a hundred times more than the adjoint.
    """
    pictures = data.load("digits")
    net = relax(build_network("vgg11", 0.125, 10, 32, 1, seed=0), 10, 0.125, seed=1).train()
    stream = BatchStream(
        pictures.train_images, pictures.train_labels, None, 32, pictures.augmentation, 0, torch.device("cpu")
    )
    weights = bilevel.initial_weights(net)
    rows = net.num_layers - 1
    shares = torch.full((rows, 2), 0.5), torch.full((rows, 4), 0.25)
    lean = Program(net, (1, 32, 32))
    inner = InnerConfig(steps=3, batch_size=32)
    for step in range(40):
        weights, _ = adjoint.inner_step(lean, weights, *shares, stream.batch(step), 0.05, inner, overwrite=True)
    draw = generator(3)
    decisions = 0.5 * torch.randn(rows, 2, generator=draw), 0.5 * torch.randn(rows, 4, generator=draw)
    batches, outer = [stream.batch(100 + t) for t in range(3)], stream.batch(200)
    found = hypergradient(Problem(net, weights, *decisions, batches, outer, 0.01, inner))
    with float64():
        exact = bilevel.Weights(*map(double, weights))
        problem = Problem(
            copy.deepcopy(net).double(),
            exact,
            *map(double, decisions),
            double(batches),
            double(outer),
            0.01,
            inner,
        )
        wanted = hypergradient(problem, backend="functional")
    for one, other in zip(found[:2], wanted[:2], strict=True):
        assert F.cosine_similarity(one.double().flatten(), other.flatten(), dim=0) > 0.9999


MEMORY_OF_STEPS = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from sedona_nb import bilevel
from sedona_nb.batches import BatchStream
from sedona_nb.bilevel import InnerConfig, Problem
from sedona_nb.networks import build_network
from sedona_nb.relaxed import relax
steps = int(sys.argv[1])
net = relax(build_network("vgg11", 0.25, 10, 32, seed=0), 10, 0.25, seed=1).train()
batch = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
outer = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
weights = bilevel.initial_weights(net)
def peak():  # not ru_maxrss, which begins with that of the parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
zeros = torch.zeros(net.num_layers - 1, 2), torch.zeros(net.num_layers - 1, 4)
bilevel.hypergradient(Problem(net, weights, *zeros, [batch] * steps, outer, 0.01, InnerConfig(steps=steps)))
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_steps() -> None:
    """What twenty steps add to the memory of the process is at most 1.25 times what five add."""

    def peak(steps: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_OF_STEPS, str(steps)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    five, twenty = peak(5), peak(20)
    assert five > 50e6  # the measurement sees something
    assert twenty < 1.25 * five


def test_on_every_device(device: torch.device) -> None:
    """Float32 there agrees with float64 on the CPU."""
    with float64():
        setting = Setting("resnet")
        _, wanted, _ = setting.reference()
        net = copy.deepcopy(setting.relaxed)
    there = Program(net.to(device).float(), PICTURE)
    arguments = setting.vector, setting.images, setting.targets, setting.abar, setting.bbar
    field = there.mixed_gradient(*(value.to(device).float() for value in arguments))
    assert relative(field.gradient.cpu().double(), wanted) < 1e-3
