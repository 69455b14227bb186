"""The README's table of results is what the records say."""

from __future__ import annotations

from pathlib import Path

from toys import save_made

from sedona_nb import experiments, overview, protocols
from sedona_nb.store import RunStore

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_readme_shows_what_the_records_say():
    store = RunStore(protocols.load("short").profile.results)
    shown = (
        README.read_text(encoding="utf-8").partition("<!-- results -->\n")[2].partition("\n<!-- /results -->")[0]
    )
    assert shown == overview.table(store), "python -m sedona_nb.overview prints what belongs there"


def test_cells_hold_mean_spread_and_count_or_say_that_there_is_nothing(tmp_path):
    store = RunStore(tmp_path)
    protocol = protocols.load("short", "resnet50")
    assert overview.table(store).splitlines()[-1].count("no record") == len(overview.VARIANTS)
    for spec in protocol.tuning("backprop").values():
        save_made(store, spec, test=33.0)
    backprop = experiments.load("table02", protocol, store)[0]
    for spec, error in zip(backprop.runs[:2], (30.0, 32.0), strict=True):
        save_made(store, spec, test=error)
    cells = [cell.strip() for cell in overview.table(store).splitlines()[-1].strip("|").split("|")]
    assert cells[0] == "ResNet-50, here: cifar10-jpeg, 1,500 steps of 32"
    assert cells[1] == "31.0 ± 1.4 (2)"
    assert set(cells[2:]) == {"no record"}
