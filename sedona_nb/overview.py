"""The results at the top of the README, drawn from records; a test keeps the README equal to them.

python -m sedona_nb.overview          # prints the table
"""

from __future__ import annotations

from math import isnan

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.drawing import label
from sedona_nb.store import RunStore

VARIANTS = {
    "backprop": "backprop",
    "predsim": "PredSim",
    "dgl": "DGL",
    "sedona": "SEDONA, cut as printed",
    "own search": "SEDONA, own search",
    experiments.RELEASED: "own search, released objective",
    "even cost": "blocks of even cost",
}
NETWORKS = ("vgg19", "resnet50")


def table(store: RunStore) -> str:
    """Table 2 (a) as printed, and ours under the short protocol, in Markdown.

    A cell has the mean test error in percent, its standard deviation, and the number of runs.
    """
    lines = [f"| test error in % | {' | '.join(VARIANTS.values())} |", "|---" * (len(VARIANTS) + 1) + "|"]
    for network in NETWORKS:
        protocol = protocols.load("short", network)
        frame = verdicts.side_by_side(experiments.load("table02", protocol, store), store, against=None)
        rows = frame.set_index("variant").loc[list(VARIANTS)]
        printed = ["-" if isnan(value) else f"{value:.2f}" for value in rows["paper"]]
        ours = [_cell(row.ours, row.spread, row.n) for row in rows.itertuples()]
        train = protocol.profile.train
        about = f"{protocol.profile.data}, {train.steps:,} steps of {train.batch_size}"
        lines.append(f"| {label(network)}, paper: CIFAR-10, 64,000 steps of 128 | {' | '.join(printed)} |")
        lines.append(f"| {label(network)}, here: {about} | {' | '.join(ours)} |")
    return "\n".join(lines)


def _cell(mean: float, spread: float, count: int) -> str:
    if not count:
        return verdicts.NO_RECORD
    return f"{mean:.1f}" + ("" if isnan(spread) else f" ± {spread:.1f}") + f" ({count})"


if __name__ == "__main__":
    print(table(RunStore(protocols.load("short").profile.results)))
