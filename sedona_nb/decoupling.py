"""A decoupling as a value: where a network is cut into blocks, and which head teaches each block.

The search ends in one, the baselines are others, and trainers take nothing else. Layers are 1-based, as in the
paper's tables: a split at layer l ends a block there. The last layer is never a split: the classifier is its head.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import comb
from operator import index
from pathlib import Path

from torch import Tensor

from sedona_nb import atomic
from sedona_nb.discretization import Ranking, check_blocks, discretize, rank_layers
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import ALL_HEADS, HEADS, NO_HEAD

__all__ = ["CONVENTIONS", "Decoupling", "Ranking", "count_configurations", "rank_layers"]

CONVENTIONS = ("released", "dgl")  # what "uniform" means: SEDONA's code for the baselines, or DGL's own


def count_configurations(num_layers: int, num_blocks: int, num_heads: int = len(HEADS)) -> int:
    """Number of ways to cut L layers into K blocks and give K-1 of them a head: C(L-1, K-1) * M^(K-1) (Section 1).

    Raises:
        SedonaError: K outside 1..L, or no head to choose from.
    """
    check_blocks(num_layers, num_blocks)
    if num_heads < 1:
        raise SedonaError(f"num_heads is {num_heads}; allowed: 1 or more")
    return comb(num_layers - 1, num_blocks - 1) * num_heads ** (num_blocks - 1)


@dataclass(frozen=True)
class Decoupling:
    """K blocks of an L-layer network and the heads of the first K-1 of them.

    num_layers: L. splits: last layer of each block but the last, 1-based, ascending. heads: one name a split.
    source: where it comes from, for captions; decouplings with the same cuts and heads are equal whatever it says.

    Raises:
        SedonaError: splits unsorted, repeated or outside 1..L-1, not one head a split, or an unknown head.
    """

    num_layers: int
    splits: tuple[int, ...]
    heads: tuple[str, ...]
    source: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        # Lists, as JSON has them, and integers of NumPy and torch become plain tuples and int.
        object.__setattr__(self, "num_layers", _whole(self.num_layers, "num_layers"))
        object.__setattr__(self, "splits", tuple(_whole(split, "a split") for split in self.splits))
        object.__setattr__(self, "heads", tuple(self.heads))
        last = self.num_layers - 1
        if last < 0:
            raise SedonaError(f"num_layers is {self.num_layers}; allowed: 1 or more")
        if not all(1 <= split <= last for split in self.splits):
            raise SedonaError(f"splits are {self.splits}; allowed for {self.num_layers} layers: 1..{last}")
        if list(self.splits) != sorted(set(self.splits)):
            raise SedonaError(f"splits are {self.splits}; allowed: ascending, each layer once")
        if len(self.heads) != len(self.splits):
            raise SedonaError(f"{len(self.heads)} heads for {len(self.splits)} splits; allowed: one a split")
        for head in self.heads:
            if head != NO_HEAD:  # not advertised: it is for one method alone
                choose(head, ALL_HEADS, "head")

    @property
    def num_blocks(self) -> int:
        """K: one more than there are splits."""
        return len(self.splits) + 1

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(first, last) layer of each block, 1-based, both inside."""
        edges = (0, *self.splits, self.num_layers)
        return tuple((before + 1, last) for before, last in zip(edges, edges[1:], strict=False))

    def require(self, num_layers: int, name: str) -> None:
        """See that a network called `name` has the layers that this decoupling speaks of.

        Raises:
            SedonaError: it has more or fewer.
        """
        if self.num_layers != num_layers:
            raise SedonaError(f"the decoupling is for {self.num_layers} layers, {name} has {num_layers}")

    def __str__(self) -> str:
        ranges = [str(first) if first == last else f"{first}-{last}" for first, last in self.blocks]
        named = " | ".join(f"{r} {head}" for r, head in zip(ranges, (*self.heads, "classifier"), strict=True))
        layers, blocks = self.num_layers, self.num_blocks
        return f"{layers} layer{'s'[: layers > 1]}, {blocks} block{'s'[: blocks > 1]}: {named}"

    @classmethod
    def backprop(cls, num_layers: int) -> Decoupling:
        """One block, no head: end-to-end backpropagation."""
        return cls(num_layers, (), (), "backprop")

    @classmethod
    def from_search(cls, alpha: Tensor, beta: Tensor, num_blocks: int, source: str = "search") -> Decoupling:
        """Discretize alpha (L-1, 2) and beta (L-1, 4) for any K in 1..L: see `discretization.discretize`.

        For Table 4, random alpha is `from_search(torch.rand(L-1, 2), beta, K)`, random beta `with_random_heads`.
        """
        splits, heads = discretize(alpha, beta, num_blocks)
        return cls(len(alpha) + 1, splits, heads, source)

    @classmethod
    def from_files(cls, alpha_path: Path | str, beta_path: Path | str, num_blocks: int) -> Decoupling:
        """`from_search` on two tensor files, for example the ones that the authors released."""
        alpha, beta = atomic.load_tensors(alpha_path), atomic.load_tensors(beta_path)
        return cls.from_search(alpha, beta, num_blocks, source=f"files of {Path(alpha_path).parent.name}")

    @classmethod
    def published(cls, network: str, num_blocks: int) -> Decoupling:
        """The first K-1 layers of Tables 10-13 as printed, for "vgg19", "resnet50", "resnet101" or "resnet152".

        Raises:
            SedonaError: no such table, or more splits than the 15 or 16 layers that it prints.
        """
        from sedona_nb import paper  # not at the top: it needs pandas, and nothing else here does

        choose(network, paper.NETWORKS, "network with a published decoupling")
        num_layers, (layers, heads) = paper.NUM_LAYERS[network], paper.LEARNED[network]
        table = f"Table {paper.LEARNED_TABLE[network]}"
        if type(num_blocks) is not int or not 1 <= num_blocks <= len(layers) + 1:
            allowed = f"1..{len(layers) + 1}, as {table} prints {len(layers)} of {num_layers - 1} layers"
            raise SedonaError(f"num_blocks is {num_blocks!r}; allowed for the published {network}: {allowed}")
        chosen = sorted(zip(layers[: num_blocks - 1], heads[: num_blocks - 1], strict=True))
        splits, named = tuple(layer for layer, _ in chosen), tuple(f"aux{m}" for _, m in chosen)
        return cls(num_layers, splits, named, f"paper, {table}")

    @classmethod
    def uniform(
        cls, num_layers: int, num_blocks: int, head: str = "mlp-sr", convention: str = "released"
    ) -> Decoupling:
        """Blocks of equal depth, as DGL and PredSim cut.

        convention "released": SEDONA's code for these baselines; block k ends at layer floor(k*L/K). (The code
        gets there by a float32 linspace, whose rounding moves a split at L = 16, K = 14; no K of the paper's.)
        convention "dgl": DGL's own ResNets count the stem as one more layer, give each block d = ceil((L+1)/K) of
        them and the last block the rest; block k ends at layer k*d - 1.
        At K = 4 ResNet-152 is cut at 12, 25, 37 by the first, at 12, 25, 38 by the second.

        Raises:
            SedonaError: K outside 1..L, unknown head or convention, or DGL's rule leaves a block without layers.
        """
        check_blocks(num_layers, num_blocks)
        choose(convention, CONVENTIONS, "convention")
        if convention == "released":
            splits = [k * num_layers // num_blocks for k in range(1, num_blocks)]
        else:
            depth = -(-(num_layers + 1) // num_blocks)  # rounded up
            splits = [k * depth - 1 for k in range(1, num_blocks)]
            if splits and splits[-1] >= num_layers:
                raise SedonaError(f"DGL's rule cuts {num_layers} layers into fewer than {num_blocks} blocks")
        return cls(num_layers, tuple(splits), (head,) * len(splits), f"uniform ({convention})")

    @classmethod
    def random(cls, num_layers: int, num_blocks: int, seed: int, heads: Sequence[str] = HEADS) -> Decoupling:
        """One of all `count_configurations` with equal chance, as in Figure 6; the same for the same seed."""
        check_blocks(num_layers, num_blocks)
        draw = random.Random(seed).random  # the one method whose numbers Python promises never to change
        shuffled = sorted(range(1, num_layers), key=lambda _: draw())
        splits = tuple(sorted(shuffled[: num_blocks - 1]))
        return cls(num_layers, splits, _draw_heads(draw, heads, len(splits)), f"random, seed {seed}")

    def with_heads(self, heads: Sequence[str] | str) -> Decoupling:
        """The same splits with other heads: one name a split, or one name for all."""
        heads = (heads,) * len(self.splits) if isinstance(heads, str) else tuple(heads)
        return replace(self, heads=heads, source=f"{self.source}, other heads")

    def with_random_heads(self, seed: int, heads: Sequence[str] = HEADS) -> Decoupling:
        """The same splits, each head drawn with equal chance: Table 4's random beta."""
        drawn = _draw_heads(random.Random(seed).random, heads, len(self.splits))
        return replace(self, heads=drawn, source=f"{self.source}, random heads, seed {seed}")

    def to_json(self) -> str:
        """The four fields as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Decoupling:
        """Read what `to_json` wrote.

        Raises:
            SedonaError: not a JSON object, or fields unknown, missing or of a wrong type.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise SedonaError(f"not JSON: {error}") from None
        kinds = {"num_layers": int, "splits": list, "heads": list, "source": str}
        if not isinstance(content, dict) or content.keys() != kinds.keys():
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise SedonaError(f"a decoupling in JSON has the fields {', '.join(kinds)}; found: {found or 'none'}")
        for name, kind in kinds.items():
            if type(content[name]) is not kind:
                raise SedonaError(f"{name} in a decoupling's JSON is {content[name]!r}; allowed: {kind.__name__}")
        return cls(**content)

    def save(self, path: Path | str) -> Path:
        """Write `to_json` to a file, atomically."""
        return atomic.write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Decoupling:
        """Read a file that `save` wrote; SedonaError where there is none, or it holds something else."""
        if not Path(path).is_file():
            raise SedonaError(f"no file {path}")
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _whole(value: int, what: str) -> int:
    try:
        return index(value) if not isinstance(value, bool) else index(None)
    except TypeError:
        raise SedonaError(f"{what} is {value!r}; allowed: whole numbers") from None


def _draw_heads(draw: Callable[[], float], heads: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` heads, each with equal chance; `draw` gives numbers in [0, 1)."""
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    if not names:
        raise SedonaError(f"no heads to draw from; allowed: {', '.join(ALL_HEADS)}")
    return tuple(names[int(draw() * len(names))] for _ in range(count))
