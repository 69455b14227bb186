"""The results at the top of the README, drawn from records; a test keeps the README equal to them.

python -m sedona_nb.overview          # prints the tables
python -m sedona_nb.refresh           # puts them there, and draws the notebooks anew
"""

from __future__ import annotations

from math import isnan

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.drawing import label
from sedona_nb.errors import SedonaError
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
POSTER = ("backprop", "feedback-alignment", "predsim", "block-local")


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
        lines.append(f"| {label(network)}, paper: CIFAR-10, 64,000 steps of 128 | {' | '.join(printed)} |")
        lines.append(f"| {label(network)}, here: {_about(protocol)} | {' | '.join(ours)} |")
    return "\n".join(lines)


def poster_table(store: RunStore) -> str:
    """The poster's Table 1 as errors, and its sequence task, with ours under the short protocol, in Markdown."""
    titles = [label(variant) for variant in POSTER]
    lines = [f"| test error in % | {' | '.join(titles)} |", "|---" * (len(POSTER) + 1) + "|"]
    for network, data, name in (
        ("resnet50", None, "CIFAR-10"),
        ("resnet50", "fashion-mnist", "Fashion-MNIST"),
        ("resnet18", "fashion-mnist", "Fashion-MNIST"),
    ):
        protocol = protocols.load("short", network, store, data)
        entries = experiments.load("poster_table1", protocol, store)
        rows = verdicts.side_by_side(entries, store, against=None).set_index("variant").loc[list(POSTER)]
        printed, ours = (
            (f"{v:.1f}" for v in rows["paper"]),
            (_cell(r.ours, r.spread, r.n) for r in rows.itertuples()),
        )
        lines.append(f"| {label(network)}, poster: {name}, schedule not said | {' | '.join(printed)} |")
        lines.append(f"| {label(network)}, here: {_about(protocol)} | {' | '.join(ours)} |")
    protocol = protocols.load("short", "transformer20", store)
    frame = verdicts.side_by_side(experiments.load("poster_figure3", protocol, store), store, against=None)
    whole, deepest = frame.iloc[0], frame.iloc[-1]
    cells = [_cell(whole.ours, whole.spread, whole.n), "-", "-", _cell(deepest.ours, deepest.spread, deepest.n)]
    name = f"{label('transformer20')}, {deepest.K} blocks, wrong digits, here: {_about(protocol)}"
    return "\n".join([*lines, f"| {name} | {' | '.join(cells)} |"])


def filled(text: str, store: RunStore | None = None) -> str:
    """The page with both tables as the records of `store` (default: the suite's own) say them.

    Raises:
        SedonaError: the page has no pair of marks for one of them.
    """
    store = store or RunStore(protocols.load("short").profile.results)
    for mark, draw in (("results", table), ("poster", poster_table)):
        begin, end = f"<!-- {mark} -->\n", f"\n<!-- /{mark} -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise SedonaError(
                f"no place for a table: allowed is one pair of lines {begin.strip()} and {end.strip()}"
            )
        text = before + begin + draw(store) + end + after
    return text


def _about(protocol: protocols.Protocol) -> str:
    train = protocol.profile.train
    return f"{protocol.profile.data}, {train.steps:,} steps of {train.batch_size}"


def _cell(mean: float, spread: float, count: int) -> str:
    if not count:
        return verdicts.NO_RECORD
    return f"{mean:.1f}" + ("" if isnan(spread) else f" ± {spread:.1f}") + f" ({count})"


if __name__ == "__main__":
    records = RunStore(protocols.load("short").profile.results)
    print(table(records), poster_table(records), sep="\n\n")
