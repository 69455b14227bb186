import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from sedona_nb import block_costs, paper, playback, schedule, toy_chain, viz
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.playback_charts import PlaybackChart
from sedona_nb.search_config import SearchResult
from sedona_nb.store import RunStore

ALPHA = torch.linspace(-3, 3, 30).reshape(15, 2).flip(0).mul(torch.tensor([1.0, -0.5])) + torch.randn(
    15, 2, generator=torch.Generator().manual_seed(0)
)
BETA = torch.randn(15, 4, generator=torch.Generator().manual_seed(1))
METHODS = pd.DataFrame(
    {"method": ["backprop", "dgl"], "paper": [7.14, 8.3], "ours": [9.0, np.nan], "spread": [0.2, np.nan]}
)
CURVE = pd.DataFrame({"step": [0, 10, 20], "error": [90.0, 40.0, 31.25]})
COSTS = pd.DataFrame(
    [
        (name, t, size * t**power, 0.3 * t)
        for name, size, power in (("unrolled", 150, 1), ("adjoint", 110, 0.1))
        for t in (1, 2, 5)
    ],
    columns=["backend", "steps", "megabytes", "seconds"],
)
SEARCHES = pd.DataFrame(
    [
        (variant, source, share * part, share * (100 - part))
        for variant, share in (("sedona", 1), ("- extra inner steps", 0.4), ("- pretraining", 0.2))
        for source, part in (
            ("paper, GPU days", 3),
            ("paper, days", 16),
            ("ours, higher", 40),
            ("ours, adjoint", 50),
        )
    ],
    columns=["variant", "source", "pretraining", "outer"],
)
RATIOS = pd.DataFrame(
    [
        (network, quantity, factor, 0.7 * factor, 1.4 * factor)
        for quantity, factors in (("paper, days", (1, 2, 3, 5)), ("ours, seconds", (1, 1.7, 3.4, 5.7)))
        for network, factor in zip(paper.NETWORKS, factors, strict=True)
    ],
    columns=["network", "quantity", "ratio", "low", "high"],
)

COUNTED = block_costs.of("vgg19", RunStore("no such folder"))
DRAWINGS = {
    "backward_graphs": viz.backward_graphs,
    "search_space": viz.search_space,
    "search_space of a decoupling": lambda: viz.search_space(
        decoupling=Decoupling(5, (1, 4), ("aux2", "aux4")), num_heads=4
    ),
    "alpha_bars": lambda: viz.alpha_bars(ALPHA),
    "alpha_bars of several": lambda: viz.alpha_bars({"vgg19": ALPHA, "short": ALPHA[:5], "third": ALPHA}),
    "decoupling_diagram": lambda: viz.decoupling_diagram(Decoupling.published("resnet152", 8)),
    "decoupling_diagram of several": lambda: viz.decoupling_diagram(
        {
            "SEDONA": Decoupling.published("vgg19", 4),
            "DGL": Decoupling.uniform(16, 4),
            "1": Decoupling.backprop(16),
        }
    ),
    "depth_profile": lambda: viz.depth_profile({"a": 0.1 * 0.5 ** torch.arange(9), "b": torch.zeros(9)}),
    "search_history": lambda: viz.search_history(ALPHA.expand(6, 15, 2), BETA.expand(6, 15, 4)),
    "search_history of alpha": lambda: viz.search_history(ALPHA.expand(6, 15, 2)),
    "searches_compared": lambda: viz.searches_compared(
        {
            "released": (ALPHA.expand(6, 15, 2), ALPHA.expand(5, 15, 2)),
            "validation": (BETA[:, :2].expand(6, 15, 2),) + (ALPHA.expand(5, 15, 2),),
        },
        "VGG-19 0.25x, cifar10, 5 outer steps",
    ),
    "training_curves": lambda: viz.training_curves({"sedona": CURVE, "empty": CURVE[:0]}),
    "method_bars": lambda: viz.method_bars(METHODS),
    "method_bars of networks": lambda: viz.method_bars(
        pd.concat([METHODS.assign(network=name) for name in ("vgg19", "resnet50", "resnet101")])
    ),
    "search_costs": lambda: viz.search_costs(SEARCHES, "paper: ResNet-101; ours: VGG-11 0.25x, batch 64"),
    "cost_ratios": lambda: viz.cost_ratios(RATIOS, "VGG-19 0.25x, batch 8"),
    "unroll_costs": lambda: viz.unroll_costs(COSTS, "VGG-11 0.25x, batch 32"),
    "configuration_counts": lambda: viz.configuration_counts(num_blocks=4),
    "words": lambda: viz.words(["Nothing to draw, and the reason why takes more than a line. " * 3], "VGG-19"),
    **{
        f"cut_to_scale of {quantity}": lambda q=quantity: viz.cut_to_scale(
            COUNTED, Decoupling.published("vgg19", 8), q
        )
        for quantity in block_costs.QUANTITIES
    },
    "search_at_step": lambda: viz.search_at_step(
        SearchResult(
            ALPHA,
            BETA,
            ALPHA.expand(6, 15, 2),
            BETA.expand(6, 15, 4),
            ALPHA.expand(5, 15, 2),
            torch.ones(5),
            [],
            1.0,
        ),
        3,
        Decoupling.from_search(ALPHA, BETA, 5),
    ),
    "search_progress": lambda: viz.search_progress(
        [2.1, 2.0], 100, [(20, 85.0), (40, 80.0)], 400, [0.51, 0.48, 0.5]
    ),
    "search_progress at the start": lambda: viz.search_progress([], 100, [], 400, []),
    "gradient_mixture": lambda: viz.gradient_mixture(toy_chain.mixtures((0.3, 0.8)), toy_chain.extremes()),
    "playback": lambda: PlaybackChart(
        schedule.asynchronous(playback.blocks_of([playback.BLOCK], (0.1, 0.2, 0.1)), 12, 4), 4
    ).at(0.7),
}


def texts(figure: matplotlib.figure.Figure) -> list[matplotlib.text.Text]:
    """Every text that a reader sees."""
    figure.canvas.draw()
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    beyond = set()  # labels of ticks outside the axes exist, but are not painted
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [t for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9]
        ticks = outside if axis.axes.axison else axis.get_major_ticks()
        beyond |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    return [t for t in found if t not in beyond]


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_neither_overlap_nor_leave_the_page(name):
    figure = DRAWINGS[name]()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    assert boxes
    page = figure.bbox.padded(1.5)
    for i, (text, box) in enumerate(boxes):
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
        for other, there in boxes[:i]:
            assert not box.padded(-1).overlaps(there.padded(-1)), (text, other)


def test_drawing_leaves_global_settings_and_pyplot_alone():
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    for draw in DRAWINGS.values():
        draw().canvas.draw()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_save_writes_three_files_with_the_same_bytes_every_time(tmp_path):
    data = {"layer": [1, 2], "share": [0.25, 1 / 3]}
    first = viz.save(viz.alpha_bars(ALPHA), "alpha", tmp_path / "one", data)
    second = viz.save(viz.alpha_bars(ALPHA), "alpha", tmp_path / "two", pd.DataFrame(data))
    assert [path.name for path in first] == ["alpha.svg", "alpha.png", "alpha.csv"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in first)
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()
    assert pd.read_csv(first[2])["share"].tolist() == data["share"]
    assert len(viz.save(viz.backward_graphs(), "graphs", tmp_path)) == 2


def test_saving_one_figure_twice_is_the_same(tmp_path):
    figure = viz.search_space()
    assert [p.read_bytes() for p in viz.save(figure, "a", tmp_path)] == [
        p.read_bytes() for p in viz.save(figure, "b", tmp_path)
    ]


def test_a_figure_shows_itself_in_jupyter():
    formats, metadata = DisplayFormatter().format(viz.backward_graphs())
    assert formats["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] == round(7.6 * 110)


def test_alpha_bars_names_the_splits(released_root):
    alphas = {name: torch.load(released_root / name / "alpha.pt", weights_only=True) for name in paper.NETWORKS}
    shown = [t.get_text() for t in texts(viz.alpha_bars(alphas))]
    assert {"K = 4: 6, 13, 14", "K = 4: 10, 11, 12", "K = 4: 7, 11, 12", "K = 4: 11, 13, 17"} <= set(shown)
    assert "K = 8 adds: 19, 22, 23, 25" in shown


def test_search_space_counts_what_it_shows():
    assert "27 configurations" in viz.search_space().get_suptitle()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: viz.search_space(num_heads=5),
        lambda: viz.search_space(4, 5),
        lambda: viz.search_space(16, 4),
        lambda: viz.search_space(decoupling=Decoupling(4, (2,), ("mlp-sr",))),
        lambda: viz.decoupling_diagram([]),
        lambda: viz.depth_profile({}),
        lambda: viz.training_curves({"a": pd.DataFrame({"step": [1]})}),
        lambda: viz.search_costs(SEARCHES.drop(columns="outer")),
        lambda: viz.search_costs(SEARCHES.assign(source=range(len(SEARCHES)))),
        lambda: viz.cost_ratios(RATIOS.assign(ratio=0)),
        lambda: viz.unroll_costs(COSTS.drop(columns="seconds")),
        lambda: viz.method_bars(METHODS.drop(columns="ours")),
        lambda: viz.alpha_bars(ALPHA.T),
        lambda: viz.alpha_bars({}),
        lambda: viz.search_history(ALPHA),
        lambda: viz.configuration_counts(num_blocks=0),
        lambda: viz.cut_to_scale(COUNTED, Decoupling.published("vgg19", 4), "colour"),
        lambda: viz.cut_to_scale(COUNTED, Decoupling.published("resnet101", 4)),
        lambda: viz.gradient_mixture([], (0.0, 1.0)),
        lambda: PlaybackChart([], 4),
    ],
)
def test_mistakes_get_one_line(draw):
    with pytest.raises(SedonaError):
        draw()
