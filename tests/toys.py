"""Small networks and random batches in float64, for derivatives to many digits; and records made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from torch import Tensor

from sedona_nb.bilevel import Batch, Weights, initial_weights
from sedona_nb.evaluate import Errors
from sedona_nb.networks import LayeredNetwork, build_resnet, build_vgg, initialize
from sedona_nb.provenance import Provenance
from sedona_nb.records import Record, RunSpec, SearchSpec, Spec
from sedona_nb.relaxed import RelaxedNetwork, relax
from sedona_nb.runs import as_json
from sedona_nb.store import RunStore

CLASSES = 5
LAYERS = {"vgg11": 8, "vgg19": 16, "resnet50": 16, "resnet101": 33, "resnet152": 50}


@contextmanager
def float64() -> Iterator[None]:
    """Build modules and draw numbers in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def toy_network(kind: str) -> LayeredNetwork:
    """ "vgg": 4 layers with pooling; "resnet": 4 bottlenecks with stride and projection. BatchNorm in both."""
    if kind == "vgg":
        network = build_vgg((8, "M", 8, 12, "M", 12), 1.0, CLASSES, 8, hidden=8, name="toy vgg")
    else:
        network = build_resnet((1, 2, 1), 0.125, CLASSES, 8, name="toy resnet")
    initialize(network, 3)
    return network


def toy_relaxed(kind: str) -> RelaxedNetwork:
    """The toy with all four heads on its first three layers."""
    return relax(toy_network(kind), CLASSES, width=1 / 64, seed=5)


def toy_weights(relaxed: RelaxedNetwork, generator: torch.Generator) -> Weights:
    """Its weights, with momenta that are not zero."""
    weights = initial_weights(relaxed)
    momenta = {
        n: 0.01 * torch.randn(m.shape, generator=generator, dtype=m.dtype) for n, m in weights.momenta.items()
    }
    parameters = {name: value.requires_grad_() for name, value in weights.parameters.items()}
    return Weights(parameters, momenta, weights.buffers)


def toy_batch(generator: torch.Generator, size: int = 6) -> Batch:
    """`size` random 8x8 pictures and labels."""
    images = torch.randn(size, 3, 8, 8, generator=generator)
    return images, torch.randint(CLASSES, (size,), generator=generator)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return ((found - wanted).norm() / wanted.norm()).item()


def made_record(spec: Spec, validation: float = 50.0, test: float = 60.0) -> Record:
    """A record of `spec` as if it had run: training errors in percent as given, a search's decisions drawn."""
    origin = Provenance("cpu", 1, 1.5, 10**8, "3.12", "2.11", "0.26", "0.1.0", None, "made")
    if isinstance(spec, SearchSpec):
        generator, rows = (
            torch.Generator().manual_seed(1000 + spec.seed),
            LAYERS[spec.network.name] - 1,
        )
        alpha = torch.randn(rows, 2, generator=generator)
        beta = torch.randn(rows, 4, generator=generator)
        result = {
            **{"alpha": alpha, "beta": beta, "alpha_history": alpha[None], "beta_history": beta[None]},
            **{"alpha_gradients": torch.zeros(0, rows, 2), "outer_losses": torch.zeros(0)},
        }
        numbers = {name: value.tolist() for name, value in result.items()}
        return Record(spec, as_json({**numbers, "pretraining": [(1, 2.0, 80.0)], "seconds": 1.5}), origin)
    heads = 1 if spec.decoupling is None else spec.decoupling.num_blocks

    def errors(value: float) -> Errors:
        return Errors(value, value / 2, (value,) * heads, (value,) * heads, 360, (value / 2,) * heads)

    point = {"step": spec.train.steps, "validation": asdict(errors(validation)), "test": asdict(errors(test))}
    point["train"] = asdict(errors(validation / 2)) if spec.train.train_pictures else None
    rows = [(spec.train.steps, (2.0,) * heads, validation)]
    return Record(spec, as_json({"best": point, "last": {**point}, "curve": rows}), origin)


def save_made(store: RunStore, *specs: RunSpec | SearchSpec, **numbers: float) -> None:
    """Put a made record of each spec into `store`."""
    for spec in specs:
        store.save(made_record(spec, **numbers))


def save_diverged(store: RunStore, spec: RunSpec) -> None:
    """A record of `spec` as if it had diverged."""
    reason = "the loss of classifier is nan at step 7; lower the learning rate (here 0.1)"
    store.save(replace(made_record(spec), result={"diverged": reason}))
