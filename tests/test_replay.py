"""Passes recorded and replayed: on a CPU with a stand-in for CUDA graphs, on a GPU with the real thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tape import record_on_tape
from torch import Tensor
from toys import float64, relative, toy_batch, toy_relaxed, toy_weights

from sedona_nb import adjoint, data, search
from sedona_nb.bilevel import InnerConfig, Problem
from sedona_nb.errors import SedonaError
from sedona_nb.lean.program import Program
from sedona_nb.lean.replay import RecordedProgram, Replay
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig


@pytest.mark.parametrize("objective", ["validation", "released"])
@pytest.mark.parametrize("scaling", ["none", "released"])
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_replayed_hypergradients_are_the_programs(kind: str, scaling: str, objective: str) -> None:
    """Other weights, pictures, decisions and rates each time: nothing of the first call may have stuck."""
    with float64():
        draw = torch.Generator().manual_seed(1)
        relaxed = toy_relaxed(kind).train()
        recorded = RecordedProgram(relaxed, (3, 8, 8), record=record_on_tape)
        plain = Program(relaxed, (3, 8, 8))
        for size, lr in ((6, 0.05), (4, 0.1), (6, 0.02)):
            shape = relaxed.num_layers - 1, relaxed.num_heads
            problem = Problem(
                relaxed,
                toy_weights(relaxed, draw),
                torch.randn(shape[0], 2, generator=draw),
                torch.randn(shape, generator=draw),
                [toy_batch(draw, size) for _ in range(4)],
                toy_batch(draw, 10),
                lr,
                InnerConfig(steps=4, batch_size=size, head_scaling=scaling),
            )
            found = adjoint.adjoint_hypergradient(problem, objective, recorded)
            wanted = adjoint.adjoint_hypergradient(problem, objective, plain)
            assert torch.equal(found.alpha, wanted.alpha)
            assert torch.equal(found.beta, wanted.beta)
            assert found.outer_loss == wanted.outer_loss


def test_replayed_steps_leave_earlier_results_alone() -> None:
    with float64():
        draw = torch.Generator().manual_seed(2)
        relaxed = toy_relaxed("vgg").train()
        recorded = RecordedProgram(relaxed, (3, 8, 8), record=record_on_tape)
        plain = Program(relaxed, (3, 8, 8))
        inner, shares = InnerConfig(batch_size=6), [torch.full((3, 2), 0.5), torch.full((3, 4), 0.25)]
        start = toy_weights(relaxed, draw)
        batches = [toy_batch(draw) for _ in range(5)]
        chains = []
        for program in (recorded, plain):
            weights, losses = start, []
            for batch in batches:
                weights, values = adjoint.inner_step(program, weights, *shares, batch, 0.1, inner)
                losses.append(values)
            chains.append((torch.stack(losses), program.layout.pack(weights.parameters)))
        for one, other in zip(*chains, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: (x * x.sum().item(),),
        lambda x: (x + torch.tensor([1.0, 2.0]),),
        lambda x: (x[x > 0].sum(),),
    ],
    ids=["asks for a number", "brings numbers along", "has a shape that depends on numbers"],
)
def test_stand_in_refuses_what_a_graph_cannot_do(wrong) -> None:
    x = torch.tensor([1.0, -2.0])  # not inside: making it could not be recorded either
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        record_on_tape(lambda: wrong(x))
    record_on_tape(lambda: (x * 2,))  # and what a graph can do, it takes


def test_stand_in_shows_what_stuck() -> None:
    """A factor that Python keeps is recorded as it was: why results are compared at several inputs."""
    factors = iter([1.0, 1.0, 2.0])

    def scaled(x: Tensor) -> tuple[Tensor]:
        return (x * next(factors),)

    replay = Replay(scaled, record_on_tape, Tensor.clone)
    assert replay(torch.tensor(3.0)) == (torch.tensor(3.0),)
    assert replay(torch.tensor(3.0)) == (torch.tensor(3.0),)  # without a recording it would be 6


SEARCH = SearchConfig(
    pretrain_steps=4,
    snapshot_every=2,
    memory_size=2,
    outer_steps=3,
    outer_batch_size=32,
    inner=InnerConfig(steps=3),
)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "adjoint"), ("cuda", "functional")])
def test_graphs_where_there_are_none(device: str, backend: str) -> None:
    with pytest.raises(SedonaError, match="graphs need device 'cuda' and backend 'adjoint', not"):
        search.run(
            data.load("digits"),
            NetworkConfig("vgg11", 0.125),
            replace(SEARCH, backend=backend),
            device=device,
            graphs=True,
        )


@pytest.mark.cuda
def test_cuda_graphs_search_as_without() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pictures, network = data.load("digits"), NetworkConfig("vgg11", 0.125)
    found, wanted = (
        search.run(pictures, network, SEARCH, device="cuda", graphs=graphs) for graphs in (True, False)
    )
    # Not the same bits: outside of a graph libraries may choose other kernels, and atomic additions have no order.
    assert relative(found.alpha_gradients, wanted.alpha_gradients) < 1e-2
    torch.testing.assert_close(found.outer_losses, wanted.outer_losses, rtol=1e-3, atol=1e-3)
