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


def tile(values: Tensor, length: int) -> Tensor:
    """(..., C) -> (..., R*C), R times the same."""
    channels = values.shape[-1]
    if length == channels:
        return values
    return values[..., None, :].expand(*values.shape[:-1], length // channels, channels).flatten(-2)


def column_sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., columns) -> the sums of g and of g x over everything but the columns.

    These are the gradients of a LayerNorm's bias and weight where mean and deviation are set to 0 and 1: a kernel
    that reads both maps once and stores nothing of their size.
    """
    columns = x.shape[-1]
    g, x = g.view(-1, columns), x.view(-1, columns)
    zeros, ones, row = g.new_zeros(len(g)), g.new_ones(len(g)), x[0]
    _, products, sums = torch.ops.aten.native_layer_norm_backward(
        g, x, [columns], zeros, ones, row, row, [False, True, True]
    )
    return sums, products


def total(chunks: list[list[Tensor]], channels: int) -> Tensor:
    """Sums of every chunk, each (R*C,) -> those of the batch, one row a sum, (sums, C)."""
    stacked = torch.stack([one for sums in chunks for one in sums])
    return stacked.view(len(chunks), len(chunks[0]), -1, channels).sum((0, 2))


@dataclass
class Moments:
    """Sums over a batch that comes in tiled chunks: of x and xd, and of x^2 and x xd."""

    count: int = 0  # pixels
    chunks: list[list[Tensor]] = field(default_factory=list)

    def add(self, x: Tensor, pixels: int) -> None:
        """Take in a chunk (k, n, rows, R*C) of `pixels` pixels in all."""
        self.count += pixels
        self.chunks.append([one for xi in x for one in column_sums(xi, x[0])])

    def result(self, channels: int) -> tuple[Tensor, Tensor]:
        """Means (k, C), and the means of (x - mu)^2 and (x - mu) xd, (k, C)."""
        means = total(self.chunks, channels).div_(self.count)
        firsts, seconds = means[::2], means[1::2]
        return firsts, torch.addcmul(seconds, firsts[:1], firsts, value=-1)


@dataclass
class Normalization:
    """The affine map of one BatchNorm on one batch, ready for chunks; see the module's docstring.

    Attributes:
        count: pixels in the batch.
        mean, variance: of x, (C,), the variance biased.
        c1: C1, (C,).
        tangents: mean of xd, c and gamma', (C,) each; None in a plain pass.
        scale, shift: C1 (R*C,) and C2 (R*C,) or (C2, D3), (2, 1, 1, R*C).
        cross: D2 (R*C,), dual only.
    """

    count: int
    mean: Tensor
    variance: Tensor
    invstd: Tensor
    gamma: Tensor
    c1: Tensor
    tangents: tuple[Tensor, Tensor, Tensor] | None
    relu: bool
    scale: Tensor
    shift: Tensor
    cross: Tensor | None = None

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
        mean, variance = means[0], spreads[0]
        invstd = (variance + eps).rsqrt_()
        c1 = gamma * invstd
        c2 = torch.addcmul(beta, c1, mean, value=-1)
        fixed = moments.count, mean, variance, invstd, gamma, c1
        if direction is None:
            return cls(*fixed, None, relu, tile(c1, length), tile(c2, length))
        c = invstd * spreads[1]
        d2 = torch.addcmul(direction[0], c1, c, value=-1).mul_(invstd)
        d3 = torch.addcmul(direction[1], c1, means[1], value=-1).addcmul_(d2, mean, value=-1)
        shift = tile(torch.stack([c2, d3]), length)[:, None, None]
        tangents = means[1], c, direction[0]
        return cls(*fixed, tangents, relu, tile(c1, length), shift, tile(d2, length))

    def apply(self, x: Tensor) -> Tensor:
        """(k, n, rows, R*C) before -> after BatchNorm and, if one follows, ReLU; a new tensor."""
        y = torch.addcmul(self.shift, x, self.scale)
        if self.cross is None:
            return y.clamp_(min=0) if self.relu else y
        values, tangents = y
        tangents.addcmul_(x[0], self.cross)
        if self.relu:
            torch.ops.aten.threshold_backward.grad_input(tangents, values, 0, grad_input=tangents)
            values.clamp_(min=0)
        return y


class Pullback:
    """The way back through one `Normalization`: add up all chunks, `close`, then map them chunk by chunk."""

    def __init__(self, forward: Normalization):
        self.forward = forward
        self.chunks: list[list[Tensor]] = []  # 2 or 5 sums (R*C,) each

    def add(self, y: Tensor, g: Tensor, x: Tensor, out: Tensor) -> None:
        """Take in a chunk: cotangents g of y = apply(x) are written to `out`, masked, and counted in."""
        if self.forward.relu:
            values = y if len(g) == 1 else y[:1].expand_as(g)
            torch.ops.aten.threshold_backward.grad_input(g, values, 0, grad_input=out)
        else:
            out.copy_(g)
        sums = [one for gi in out for one in column_sums(gi, x[0])]
        if len(out) == 2:
            sums.append(column_sums(out[1], x[1])[1])
        self.chunks.append(sums)

    def close(self, length: int) -> tuple[Tensor, Tensor]:
        """Gradients of gamma and beta, (C,) each; afterwards `apply` may be used."""
        f, n = self.forward, self.forward.count
        r, mu, g, gr = f.invstd, f.mean, f.gamma, f.c1
        s = total(self.chunks, len(g))
        if f.tangents is None:
            to_beta, to_gamma = s.unbind()
            to_gamma = torch.addcmul(to_gamma, mu, to_beta, value=-1).mul_(r)
            of_x = (gr * r).mul_(to_gamma).div_(-n)
            constant = (gr * to_beta).div_(-n).addcmul_(of_x, mu, value=-1)
            self.coefficients = [f.scale, tile(of_x, length), tile(constant, length)]
            return to_gamma, to_beta
        m1, c, dg = f.tangents
        sums, products = s[0:4:2], s[1:4:2]  # of P and Q, the cotangents of values and tangents
        ae = torch.addcmul(products, mu, sums, value=-1).mul_(r)
        (s1, s3), (a, e) = sums.unbind(), ae.unbind()
        ff = torch.addcmul(s[4], m1, s3, value=-1).addcmul_(c, e, value=-1).mul_(r)
        to_gamma = a + ff
        gn, rc = g / n, r * c
        both = torch.stack([s3, e])
        me, k = gn * both
        mq, mx = torch.addcmul(gn * torch.stack([s1, a + ff]), dg / n, both)
        mq = mq.addcmul_(rc, me, value=-1).addcmul_(r * k, m1, value=-1)
        mx = mx.addcmul_(rc, k, value=-2)
        r2 = r * r
        x_in_x, x_in_xd = -r2 * mx, -r2 * k
        coefficients = [
            x_in_x,
            x_in_xd,  # and of xd in xbar
            -torch.addcmul(r * mq, x_in_x, mu),
            -torch.addcmul(r * me, x_in_xd, mu),
            torch.addcmul(dg, rc, g, value=-1).mul_(r),  # of Q in xbar
        ]
        tiled = tile(torch.stack(coefficients), length)
        self.coefficients = [f.scale, tiled[:2, None, None], tiled[2:4, None, None], tiled[1], tiled[4]]
        return to_gamma, s1

    def apply(self, g: Tensor, x: Tensor) -> Tensor:
        """Masked cotangents and x, (k, n, rows, R*C) -> cotangents of x; a new tensor."""
        of_g, of_x, constant, *crossed = self.coefficients
        if not crossed:
            return torch.addcmul(constant, x, of_x).addcmul_(g, of_g)
        out = torch.addcmul(constant, g, of_g).addcmul_(x[:1], of_x)
        of_xd, of_q = crossed
        out[0].addcmul_(g[1], of_q).addcmul_(x[1], of_xd)
        return out
