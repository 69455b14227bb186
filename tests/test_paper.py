import inspect
from math import comb

import numpy as np
import pandas as pd
import pytest

from sedona_nb import paper
from sedona_nb.errors import SedonaError
from sedona_nb.heads import ALL_HEADS

SHAPES = {
    "table1": (6, 3),
    "table2": (32, 5),
    "table3": (14, 7),
    "table4": (6, 4),
    "table5": (3, 4),
    "table6": (12, 3),
    "table7": (6, 5),
    "table8": (7, 6),
    "table9": (8, 4),
    "table10": (16, 3),
    "table11": (16, 3),
    "table12": (15, 3),
    "table13": (15, 3),
    "table14": (4, 6),
    "table15": (10, 4),
    "poster_table1": (12, 4),
}


def values(frame: pd.DataFrame, column: str, *index: str) -> pd.Series:
    return frame.set_index(list(index))[column]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_sources_and_docstrings(name):
    table = getattr(paper, name)
    frame = table()
    assert frame.shape == SHAPES[name]
    number = name.removeprefix("poster_").removeprefix("table")
    assert f"Table {number}" in frame.attrs["source"]
    assert f"Table {number}" in inspect.getdoc(table)
    assert not frame.duplicated().any()


def test_a_caller_cannot_change_the_paper():
    mine = paper.table2()
    mine["error"] = 0.0
    assert paper.table2()["error"].min() == 6.13


def test_nothing_is_missing_but_what_is_not_printed():
    missing = {name: int(getattr(paper, name)().isna().sum().sum()) for name in SHAPES}
    # Table 3: four ensemble rows and DGL at K = 2; Table 8: dashes; Table 9: plain layers' strides.
    assert {name: count for name, count in missing.items() if count} == {"table3": 5, "table8": 10, "table9": 9}


def test_speedups_of_table3_are_ratios_of_table15():
    key = ["network", "method", "num_blocks"]
    hours = values(paper.table15(), "hours", *key)
    single = paper.table3().query("not ensemble")
    disagree = {}
    for network, method, num_blocks, speedup in single[[*key, "speedup"]].itertuples(index=False):
        ratio = hours[network, "backprop", 1] / hours[network, method, num_blocks]
        if np.isnan(speedup) or abs(ratio - speedup) > 0.005 + 1e-9:
            disagree[network, method, num_blocks] = (speedup, round(ratio, 2))
    assert set(disagree) == {("resnet101", "sedona", 2), ("resnet152", "dgl", 2)}
    assert disagree["resnet101", "sedona", 2] == (1.67, 1.69)
    assert disagree["resnet152", "dgl", 2][1] == 1.51


def test_gpu_days_of_table14_add_up():
    t = paper.table14()
    sums = t["pretraining_gpus"] * t["pretraining_days"] + t["bilevel_gpus"] * t["bilevel_days"]
    off = t[(sums - t["gpu_days"]).abs() > 0.01]
    assert off["network"].tolist() == ["resnet101"]
    assert sums[2] == pytest.approx(9.9)


def test_tables_that_repeat_each_other_agree():
    table2 = paper.table2().query("data == 'cifar10'")
    errors = values(table2, "error", "network", "method")
    for network, method, error in paper.table6().itertuples(index=False):
        if method != "continuous":
            assert errors[network, method] == error
    for network, variant, error, _ in paper.table4().itertuples(index=False):
        if variant == "sedona":
            assert errors[network, "sedona"] == error
    table8 = values(paper.table8(), "cifar10_error", "variant")
    assert all(table8[m] == errors["resnet101", m] for m in ("sedona", "backprop", "predsim", "dgl"))
    table3 = values(paper.table3().query("not ensemble"), "top1_error", "network", "method", "num_blocks")
    for network, method, num_blocks, _, validation in paper.table7().itertuples(index=False):
        assert table3[network, method, num_blocks] == validation
    assert values(paper.table14(), "gpu_days", "network")["resnet101"] == table8_days("sedona")


def table8_days(variant: str) -> float:
    return values(paper.table8(), "gpu_days", "variant")[variant]


def test_what_the_text_says_of_the_tables():
    errors = values(paper.table2(), "error", "data", "network", "method").unstack("method")
    assert (errors["sedona"] < errors.drop(columns="sedona").min(axis=1)).all()  # "significantly outperforms"
    assert paper.table3()["top1_error"].min() == 20.20  # "the top-1 validation error of 20.20% by SEDONA"
    train = values(paper.table7(), "train_error", "network", "method").unstack("method")
    assert (train["sedona"] > train["backprop"]).all()  # the text of C.4 says smaller


@pytest.mark.parametrize("network", paper.NETWORKS)
def test_learned_layers(network):
    frame = paper.learned_layers(network)
    assert frame["layer"].is_unique
    assert frame["layer"].between(1, paper.NUM_LAYERS[network] - 1).all()
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    assert set(frame["head"]) <= set(ALL_HEADS)
    assert frame.equals(getattr(paper, f"table{paper.LEARNED_TABLE[network]}")())


def test_unknown_network():
    with pytest.raises(SedonaError, match="resnet18"):
        paper.learned_layers("resnet18")


def test_figures_and_appendix_a():
    frame = paper.figures()
    assert frame.query("source == 'sedona'")["figure"].tolist() == [str(i) for i in range(1, 9)]
    silent = frame.query("printed_numbers == 'none'")["figure"]
    assert {"3", "7", "8"} <= set(silent)
    assert comb(15, 3) * 4**3 == 29120  # what Figure 6 draws its 30 configurations from
