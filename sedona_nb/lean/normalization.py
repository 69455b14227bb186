"""BatchNorm with ReLU on chunks of a batch, in two sweeps each way, for values and for (value, tangent) pairs.

With statistics of the whole batch at hand, BatchNorm is affine per channel, also for tangents:

    y = C1 x + C2,        yd = C1 xd + D2 x + D3,        both masked by y > 0 if a ReLU follows

with r = 1/sqrt(var + eps), m1 = mean(xd), c = r mean((x - mu) xd), and primes for the tangents of gamma and beta:

    C1 = gamma r,  C2 = beta - C1 mu,  D2 = r (gamma' - gamma r c),  D3 = beta' - gamma r m1 - D2 mu

`Normalization` holds these coefficients. Backward, chunks of the masked cotangents first add to a few sums a
channel, from which the coefficients of the cotangents of x and xd follow (`Pullback`).

A chunk is tiled: (k, n, rows, R*C), R neighbouring pixels to a row, so that rows are long enough for vector
instructions whatever C is (`row_length`). The x here are a convolution's results minus a shift close to their mean
(BatchNorm does not see it), so that raw sums of squares lose no digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LANES = 256  # numbers a row should have


def row_length(height: int, width: int, channels: int) -> int:
    """R*C for maps of this size."""
    together = 1
    while together * channels < LANES and height * width % (2 * together) == 0:
        together *= 2
    return together * channels


def fold(sums: Tensor, channels: int) -> Tensor:
    """(..., R*C) -> (..., C): add what a row holds side by side."""
    return sums if sums.shape[-1] == channels else sums.unflatten(-1, (-1, channels)).sum(-2)


@dataclass
class Moments:
    """Sums over a batch that comes in tiled chunks: of x and xd, and of x^2 and x xd."""

    count: int = 0  # pixels
    firsts: list[Tensor] = field(default_factory=list)  # (k, R*C) each
    seconds: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, pixels: int) -> None:
        """Take in a chunk (k, n, rows, R*C) of `pixels` pixels in all."""
        self.count += pixels
        self.firsts.append(x.sum((1, 2)))
        self.seconds.append((x * x[:1]).sum((1, 2)))

    def result(self, channels: int) -> tuple[Tensor, Tensor]:
        """Means (k, C), and the means of (x - mu)^2 and (x - mu) xd, (k, C)."""
        sums = torch.stack([torch.stack(self.firsts).sum(0), torch.stack(self.seconds).sum(0)])
        firsts, seconds = fold(sums, channels) / self.count
        return firsts, seconds - firsts[:1] * firsts


@dataclass
class Normalization:
    """The affine map of one BatchNorm on one batch, ready for chunks; see the module's docstring.

    Attributes:
        count: pixels in the batch.
        mean, variance: of x, (C,), the variance biased.
        tangents: mean of xd, c and gamma', (C,) each; None in a plain pass.
        scale, shift: C1 (R*C,) and C2 or (C2, D3), (k, 1, 1, R*C).
        cross: D2 (R*C,), dual only.
    """

    count: int
    mean: Tensor
    variance: Tensor
    invstd: Tensor
    gamma: Tensor
    tangents: tuple[Tensor, Tensor, Tensor] | None
    relu: bool
    scale: Tensor
    shift: Tensor
    cross: Tensor | None

    @classmethod
    def of(
        cls,
        moments: Moments,
        eps: float,
        gamma: Tensor,
        beta: Tensor,
        direction: tuple[Tensor, Tensor] | None,
        relu: bool,
        length: int,
    ) -> Normalization:
        """From a batch's moments, gamma and beta (C,), and in a dual pass their tangents; rows of `length`."""
        means, spreads = moments.result(gamma.shape[0])
        invstd = (spreads[0] + eps).rsqrt()
        c1 = gamma * invstd
        coefficients = [c1, beta - c1 * means[0]]
        tangents = None
        if direction is not None:
            c = invstd * spreads[1]
            d2 = invstd * (direction[0] - c1 * c)
            coefficients += [direction[1] - c1 * means[1] - d2 * means[0], d2]
            tangents = means[1], c, direction[0]
        tiled = torch.stack(coefficients).repeat(1, length // gamma.shape[0])
        shift, cross = tiled[1:3, None, None], tiled[3] if tangents else None
        return cls(moments.count, means[0], spreads[0], invstd, gamma, tangents, relu, tiled[0], shift, cross)

    def apply(self, x: Tensor) -> Tensor:
        """(k, n, rows, R*C) before -> after BatchNorm and, if one follows, ReLU; a new tensor."""
        y = torch.addcmul(self.shift, x, self.scale)
        values = y
        if self.cross is not None:
            values, tangents = y
            tangents.addcmul_(x[0], self.cross)
            if self.relu:
                torch.ops.aten.threshold_backward.grad_input(tangents, values, 0, grad_input=tangents)
        if self.relu:
            values.clamp_(min=0)
        return y


class Pullback:
    """The way back through one `Normalization`: add up all chunks, `close`, then map them chunk by chunk."""

    def __init__(self, forward: Normalization):
        self.forward = forward
        self.sums: list[Tensor] = []  # (2 or 5, R*C) each

    def add(self, y: Tensor, g: Tensor, x: Tensor, out: Tensor) -> None:
        """Take in a chunk: cotangents g of y = apply(x) are written to `out`, masked, and counted in."""
        if self.forward.relu:
            torch.ops.aten.threshold_backward.grad_input(g, y[:1].expand_as(g), 0, grad_input=out)
        else:
            out.copy_(g)
        g = out
        sums = [g.sum((1, 2)), (g * x[:1]).sum((1, 2))]
        if g.shape[0] == 2:
            sums.append((g[1:] * x[1:]).sum((1, 2)))
        self.sums.append(torch.cat(sums))

    def close(self, length: int) -> tuple[Tensor, Tensor]:
        """Gradients of gamma and beta, (C,) each; afterwards `apply` may be used."""
        f, n = self.forward, self.forward.count
        r, mu, g = f.invstd, f.mean, f.gamma
        s = fold(torch.stack(self.sums).sum(0), g.shape[0])
        if f.tangents is None:
            to_beta, to_gamma = s[0], r * (s[1] - mu * s[0])
            of_x = -g * r * r * to_gamma / n
            coefficients = [g * r, of_x, -g * r * s[0] / n - of_x * mu]
        else:
            m1, c, dg = f.tangents
            s1, s3 = s[0], s[1]  # of P and Q, the cotangents of values and tangents
            a, e = r * (s[2] - mu * s1), r * (s[3] - mu * s3)
            ff = r * (s[4] - m1 * s3 - c * e)
            to_gamma, to_beta = a + ff, s1
            k, me = g * e / n, g * s3 / n
            mq = (g * s1 + dg * s3) / n - r * c * me - r * k * m1
            mx = (g * a + dg * e) / n - 2 * r * c * k + g * ff / n
            coefficients = [
                g * r,  # of P in xbar, of Q in xdbar
                -r * r * mx,  # of x in xbar
                -r * r * k,  # of x in xdbar, of xd in xbar
                r * r * mx * mu - r * mq,
                r * r * k * mu - r * me,
                r * (dg - r * c * g),  # of Q in xbar
            ]
        self.coefficients = torch.stack(coefficients).repeat(1, length // g.shape[0])
        return to_gamma, to_beta

    def apply(self, g: Tensor, x: Tensor) -> Tensor:
        """Masked cotangents and x, (k, n, rows, R*C) -> cotangents of x; a new tensor."""
        if g.shape[0] == 1:
            of_g, of_x, constant = self.coefficients
            return torch.addcmul(constant, x, of_x).addcmul_(g, of_g)
        table = self.coefficients
        out = torch.addcmul(table[3:5, None, None], g, table[0])
        out.addcmul_(x[:1], table[1:3, None, None])
        out[0].addcmul_(g[1], table[5]).addcmul_(x[1], table[2])
        return out
