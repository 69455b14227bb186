"""Tables of paper and ours side by side, drawn from records alone: nothing is trained here.

A cell is filled only by a record of exactly the profile's protocol, on exactly these pictures; where there is none
it says so.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

import pandas as pd

from sedona_nb import paper
from sedona_nb.data import ImageData
from sedona_nb.data import load as load_pictures
from sedona_nb.methods import TITLES, run_spec, search_spec
from sedona_nb.profiles import Profile
from sedona_nb.profiles import load as load_profile
from sedona_nb.records import Record, RunSpec
from sedona_nb.runs import RunStore, search_result

TABLE2_METHODS = ("backprop", "predsim", "dgl", "sedona")
NO_RECORD = "no record"


@dataclass(frozen=True)
class Cell:
    """Test errors of one method over seeds, in percent: mean, standard deviation, number of records.

    `best` is the checkpoint with the lowest validation error (what the paper reports), `last` the final weights.
    """

    best: float | None
    last: float | None
    spread: float | None
    n: int

    @classmethod
    def of(cls, records: list[Record]) -> Cell:
        """The cell of the records of one method, one a seed."""
        if not records:
            return cls(None, None, None, 0)
        best, last = ([r.result[which]["test"]["top1"] for r in records] for which in ("best", "last"))
        spread = statistics.stdev(best) if len(best) > 1 else None
        return cls(statistics.fmean(best), statistics.fmean(last), spread, len(records))


def specs(
    method: str, profile: Profile, pictures: ImageData, store: RunStore, num_layers: int, seeds: range
) -> list[RunSpec]:
    """The specs whose records fill the cell of `method`, as far as the store knows the searches behind them."""
    found = []
    for seed in seeds:
        decisions = None
        if method in ("sedona", "continuous"):
            search = store.load(search_spec(profile, pictures, seed))
            if search is None:
                continue
            decisions = search_result(search)
        found.append(run_spec(method, profile, pictures, num_layers, seed, decisions))
    return found


def table2(profile: Profile, pictures: ImageData, store: RunStore, max_seeds: int = 10) -> pd.DataFrame:
    """Table 2 (a): a row a method, error rates in percent.

    Args:
        profile: the protocol that counts as ours.
        pictures: the data set that counts as ours.
        store: where the records are.
        max_seeds: seeds 0 .. max_seeds-1 are looked up.

    Returns:
        columns method, paper (of the profile's network; of VGG-19 where the paper has no such network), best,
        last, spread, n. `attrs` has "paper_network", "protocol", "data", "device" (of the records) and "K".
    """
    network = profile.network.build(pictures.num_classes, pictures.image_size, pictures.in_channels, seed=0)
    printed_network = profile.network.name if profile.network.name in paper.NETWORKS else "vgg19"
    rows, devices = [], set()
    for method in TABLE2_METHODS:
        wanted = specs(method, profile, pictures, store, network.num_layers, range(max_seeds))
        records = [record for record in map(store.load, wanted) if record is not None and not record.diverged]
        devices |= {record.provenance.device for record in records}
        rows.append(
            {"method": TITLES[method], "paper": _printed(printed_network, method), **asdict(Cell.of(records))}
        )
    frame = pd.DataFrame(rows).astype({"best": float, "last": float, "spread": float})
    frame.attrs.update(
        paper_network=printed_network,
        protocol=profile.protocol,
        data=pictures.name,
        device=", ".join(sorted(devices)) or "none",
        K=profile.num_blocks,
    )
    return frame


def _printed(network: str, method: str) -> float:
    """The entry of Table 2 (a)."""
    table = paper.table2()
    chosen = table[(table["data"] == "cifar10") & (table["network"] == network) & (table["method"] == method)]
    return float(chosen["error"].iloc[0])


def summary(profile: str = "small", data: str = "digits") -> str:
    """The table that ends `run_all.sh`: paper against ours, with the protocol of each, as text.

    Raises:
        SedonaError: unknown profile or data, or a store that cannot be read.
    """
    cfg = load_profile(profile, data=data)
    pictures = load_pictures(cfg.data)
    frame = table2(cfg, pictures, RunStore(cfg.results))
    return text(frame)


def protocols(frame: pd.DataFrame) -> str:
    """Two lines that say what the columns of `table2` are, for captions."""
    about = frame.attrs
    return (
        f"paper: {about['paper_network']} 0.25x, CIFAR-10, 64,000 steps of 128\n"
        f"ours:  {about['protocol']}, {about['data']}, {about['device'].split(' (')[0]}"
    )


def text(frame: pd.DataFrame) -> str:
    """`table2` as lines for a terminal."""
    about = frame.attrs
    lines = [
        f"Table 2 (a): test error in %, K = {about['K']} for all but backprop",
        *protocols(frame).splitlines(),
        "",
        f"{'method':<10}{'paper':>8}{'ours: best':>13}{'last':>8}{'spread':>9}{'seeds':>7}",
    ]
    for row in frame.itertuples():
        if row.n == 0:
            lines.append(f"{row.method:<10}{row.paper:>8.2f}{NO_RECORD:>13}")
            continue
        spread = f"{row.spread:.2f}" if row.n > 1 else "-"
        lines.append(f"{row.method:<10}{row.paper:>8.2f}{row.best:>13.2f}{row.last:>8.2f}{spread:>9}{row.n:>7}")
    if about["protocol"] != load_profile("paper").protocol or about["data"] != "cifar10":
        lines.append(
            "\nAnother network, schedule or data set than the paper's: the columns are not to be compared."
        )
    return "\n".join(lines)
