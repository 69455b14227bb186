"""The README's tables of results are what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import save_made

from sedona_nb import experiments, overview, protocols
from sedona_nb.errors import SedonaError
from sedona_nb.store import RunStore

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.mark.parametrize(("mark", "table"), [("results", overview.table), ("poster", overview.poster_table)])
def test_the_readme_shows_what_the_records_say(mark, table):
    store = RunStore(protocols.load("short").profile.results)
    text = README.read_text(encoding="utf-8")
    shown = text.partition(f"<!-- {mark} -->\n")[2].partition(f"\n<!-- /{mark} -->")[0]
    assert shown == table(store), "python -m sedona_nb.refresh puts there what belongs there"


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


def test_the_posters_rows_hold_errors_and_ours(tmp_path):
    store = RunStore(tmp_path)
    protocol = protocols.load("short", "transformer20")
    for method in ("backprop", "block-local"):
        for spec in protocol.tuning(method).values():
            save_made(store, spec, test=33.0)
    for spec in experiments.load("poster_figure3", protocol, store)[-1].runs:
        save_made(store, spec, test=1.5)
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in overview.poster_table(store).splitlines()
    ]
    assert rows[2] == ["ResNet-50, poster: CIFAR-10, schedule not said", "6.0", "29.7", "7.6", "7.4"]
    assert rows[3][1:] == ["no record"] * 4
    assert rows[-1][0].startswith("Transformer, 20 blocks, wrong digits")
    assert rows[-1][1:] == ["no record", "-", "-", "1.5 ± 0.0 (3)"]


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path):
    store = RunStore(tmp_path)
    page = "top\n\n<!-- results -->\nold\n<!-- /results -->\nbetween\n<!-- poster -->\n\n<!-- /poster -->\nend\n"
    filled = overview.filled(page, store)
    expected = page.replace("\nold\n", f"\n{overview.table(store)}\n")
    expected = expected.replace("poster -->\n\n", f"poster -->\n{overview.poster_table(store)}\n")
    assert filled == expected
    assert overview.filled(filled, store) == filled
    with pytest.raises(SedonaError, match=r"<!-- poster --> and <!-- /poster -->"):
        overview.filled(page.replace("<!-- poster -->", ""), store)
