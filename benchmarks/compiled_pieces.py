"""Would torch.compile make the lean passes faster? Their element-wise pieces compiled, against the same eager.

    python benchmarks/compiled_pieces.py        # VGG-19 0.25x, B = 128: 2 minutes, needs a C++ compiler

One process with one thread, eager and compiled passes in turn, processor time, median of the ratios. Pieces: the
way there and the way back through BatchNorm and ReLU, on chunks of at least `LEAST` numbers (on small ones the
call of compiled code costs more than the work). Convolutions and matrix products are library calls either way.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from sedona_nb.lean.normalization import Normalization, Pullback
from sedona_nb.lean.program import Program
from sedona_nb.networks import NetworkConfig
from sedona_nb.relaxed import relax

LEAST = 1 << 17
ROUNDS = 7


def there(x: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """Values."""
    y = x * scale + shift
    return y.clamp(min=0) if relu else y


def there_with_tangents(x: Tensor, scale: Tensor, shift: Tensor, cross: Tensor, relu: bool) -> Tensor:
    """Values and tangents."""
    values, tangents = x * scale + shift
    tangents = tangents + x[0] * cross
    if relu:
        tangents, values = torch.where(values > 0, tangents, 0.0), values.clamp(min=0)
    return torch.stack([values, tangents])


def back(g: Tensor, x: Tensor, of_g: Tensor, of_x: Tensor, constant: Tensor) -> Tensor:
    """Cotangents of values."""
    return constant + x * of_x + g * of_g


def back_with_tangents(
    g: Tensor, x: Tensor, of_g: Tensor, of_x: Tensor, constant: Tensor, of_xd: Tensor, of_q: Tensor
) -> Tensor:
    """Cotangents of values and tangents."""
    out = constant + g * of_g + x[:1] * of_x
    return torch.stack([out[0] + g[1] * of_q + x[1] * of_xd, out[1]])


class Switch:
    """Puts compiled pieces in the place of the package's, and takes them out again."""

    def __init__(self) -> None:
        self.eager = Normalization.apply, Pullback.apply
        pieces = (there, there_with_tangents, back, back_with_tangents)
        self.there, self.there_dual, self.back, self.back_dual = (
            torch.compile(one, dynamic=True) for one in pieces
        )

    def set(self, compiled: bool) -> None:
        """Choose."""
        switch, (apply, pull) = self, self.eager

        def compiled_apply(self: Normalization, x: Tensor) -> Tensor:
            if x.numel() < LEAST:
                return apply(self, x)
            if self.cross is None:
                return switch.there(x, self.scale, self.shift, self.relu)
            return switch.there_dual(x, self.scale, self.shift, self.cross, self.relu)

        def compiled_pull(self: Pullback, g: Tensor, x: Tensor) -> Tensor:
            if x.numel() < LEAST:
                return pull(self, g, x)
            return (switch.back if len(g) == 1 else switch.back_dual)(g, x, *self.coefficients)

        Normalization.apply = compiled_apply if compiled else apply
        Pullback.apply = compiled_pull if compiled else pull


def main() -> None:
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # a few sizes of chunks, with and without ReLU
    torch.manual_seed(0)
    net = relax(NetworkConfig("vgg19").build(10, 32, 3, seed=0), 10, 0.25, seed=1).train()
    program, rows = Program(net, (3, 32, 32)), net.num_layers - 1
    parameters = dict(net.named_parameters())
    w = program.layout.pack(parameters)
    p, images = torch.randn_like(w), torch.randn(128, 3, 32, 32)
    targets = torch.full((128, 10), 0.1)
    shares = torch.full((rows, 2), 0.5), torch.full((rows, 4), 0.25)
    passes = {
        "plain": lambda: program.mixed_gradient(w, images, targets, *shares),
        "dual": lambda: program.directional(w, p, images, targets, *shares),
    }
    switch = Switch()
    switch.set(True)
    began = time.perf_counter()
    found = {name: run() for name, run in passes.items()}
    print(f"first compiled calls: {time.perf_counter() - began:.0f} s")
    switch.set(False)
    for name, run in passes.items():  # both do the same
        one, other = (result[1 if name == "plain" else 0] for result in (found[name], run()))
        print(f"{name}: relative difference {((one - other).norm() / other.norm()).item():.1e}")
    seconds: dict[tuple[str, bool], list[float]] = {(name, on): [] for name in passes for on in (False, True)}
    for _ in range(ROUNDS):
        for on in (False, True):
            switch.set(on)
            for name, run in passes.items():
                began = time.process_time()
                run()
                seconds[name, on].append(time.process_time() - began)
    for name in passes:
        eager, compiled = seconds[name, False], seconds[name, True]
        ratio = statistics.median(b / a for a, b in zip(eager, compiled, strict=True))
        print(
            f"{name:6s} eager {statistics.median(eager):.2f} s, compiled {statistics.median(compiled):.2f} s, "
            f"compiled / eager {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
