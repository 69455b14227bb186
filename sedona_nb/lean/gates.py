"""What consumers see of a junction: through a gate, some of its channels, several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sedona_nb.lean.junctions import Junction, Selection
from sedona_nb.lean.nodes import Run, Shape, Source


@dataclass
class Channels:
    """Some channels of a junction."""

    source: Junction
    selection: Selection

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return (*self.source.shape[:2], self.selection.parts * (self.selection.last - self.selection.first))

    @property
    def extent(self) -> int:
        """See `Source`."""
        return prod(self.shape)

    def view(self, run: Run, part: slice, heads: int) -> Tensor:
        """The channels in `heads` equal parts, (k, n, H, W, heads, channels); where possible not a copy."""
        found = self.selection.of(self.source.value(run, part))
        return found.reshape(*found.shape[:4], heads, -1)

    def value(self, run: Run, part: slice) -> Tensor:
        """A contiguous copy."""
        return self.selection.of(self.source.value(run, part)).flatten(4).contiguous()

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Add to these channels; g may have them in equal parts, as `view` gives them."""
        selection = self.selection
        g = g.reshape(*g.shape[:4], selection.parts, selection.last - selection.first)
        self.source.add(run, part, g, selection)


@dataclass
class Stack:
    """Maps of sources of one shape, their channels side by side."""

    sources: list[Source]

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        height, width, channels = self.sources[0].shape
        return height, width, len(self.sources) * channels

    @property
    def extent(self) -> int:
        """See `Source`."""
        return sum(source.extent for source in self.sources)

    def value(self, run: Run, part: slice) -> Tensor:
        """Side by side."""
        return torch.cat([source.value(run, part) for source in self.sources], -1)

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """To each source its own channels; only for sources that need no `y`, as gates."""
        for source, one in zip(self.sources, g.chunk(len(self.sources), -1), strict=True):
            source.accept(run, part, None, one)


@dataclass
class Gate:
    """What one consumer sees of a layer's output: the value as it is, its cotangent times a share (Eq. 4).

    In a dual pass the share sits on the tangent, and its own derivative is collected. `scale` divides what the
    consumer sees (`head_scaling` "released").
    """

    source: Junction
    share: Tensor | None = None  # scalar; None: 1, without a derivative
    scale: Tensor | None = None
    to_share: Tensor | None = None  # derivative of a dual pass
    cotangents: Tensor | None = None  # of a plain pass, before the share; kept where they are asked for

    @property
    def shape(self) -> Shape:
        """Of one picture's map."""
        return self.source.shape

    @property
    def extent(self) -> int:
        """See `Source`."""
        return prod(self.shape)

    def value(self, run: Run, part: slice) -> Tensor:
        """Values, and tangents times the share."""
        y = self.source.value(run, part)
        if run.k == 2 and self.share is not None:
            y = y * self._factors(run)
        return y if self.scale is None else y / self.scale

    def accept(self, run: Run, part: slice, y: Tensor, g: Tensor) -> None:
        """Cotangents of values (plain) or tangents (dual) times the share."""
        if self.scale is not None:
            g = g / self.scale
        if self.share is None:
            self.source.add(run, part, g)
            return
        if run.k == 2:
            self.to_share += (self.source.value(run, part)[1] * g[1]).sum()
        elif self.cotangents is not None:
            self.cotangents[:, part] += g
        self.source.add(run, part, g, factor=self._factors(run))

    def _factors(self, run: Run) -> Tensor:
        """The share, or (1, share), to go with (k, n, H, W, C)."""
        if run.k == 1:
            return self.share
        return torch.stack([torch.ones_like(self.share), self.share]).view(2, 1, 1, 1, 1)
