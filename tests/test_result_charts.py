"""Charts of records: each draws what its frame says, says in one line what it cannot draw, and never nothing."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from sedona_nb import drawing, inference_charts, message_charts, result_charts
from sedona_nb.errors import SedonaError

CURVES = pd.DataFrame(
    [
        ("vgg19", variant, run, 0, step, 80 - step + 10 * run)
        for variant, runs in (("dgl", 2), ("random", 3))
        for run in range(runs)
        for step in (10, 20)
    ],
    columns=["network", "variant", "run", "seed", "step", "error"],
)
BLOCKS = pd.DataFrame(
    [
        ("vgg19", "backprop", 1, 12.0, 30.0, 1.0),
        ("vgg19", "dgl", 4, np.nan, 35.0, np.nan),
        ("vgg19", "dgl", 2, np.nan, 33.0, 0.5),
        ("vgg19", "sedona", 2, 11.0, np.nan, np.nan),
    ],
    columns=["network", "variant", "K", "paper", "ours", "spread"],
)
COSINES = pd.DataFrame(
    [
        (variant, run, layer, interval, 0.1 * layer + 0.2 * run)
        for variant in ("dgl", "sedona")
        for run in (0, 1)
        for interval in ("all", "0-10", "10-20")
        for layer in (1, 2, 3)
    ],
    columns=["variant", "run", "layer", "interval", "cosine"],
)
GAPS = pd.DataFrame(
    [("paper", "backprop", 5.0, 21.0), ("paper", "dgl", 7.0, 23.0), ("ours", "dgl", 30.0, 35.0)],
    columns=["source", "row", "train", "other"],
)
ESTIMATES = pd.DataFrame(
    [("dgl", 1.0, 0.5, 1.5, "a"), ("second", np.nan, np.nan, np.nan, "b"), ("third", -1.0, -2.0, 0.0, "b")],
    columns=["row", "estimate", "low", "high", "group"],
)
SEARCH = pd.DataFrame({"budget": [1, 2, 3], "error": [38.0, 37.0, 36.5]})
FEATURES = pd.DataFrame(
    {"depth": [1.0, 2.0, 2.5], "split": [3, 6, 9], "cosine": [np.nan] * 3, "test": [30.0, 31, 29]}
)
NAMES = {"depth": "mean depth", "split": "first split (layer)", "cosine": "mean cosine"}
CHOICES = pd.DataFrame(
    [("printed", "aux1", 30.0), ("printed", "aux1", 32.0), ("printed", "aux4", 37.0), ("even", "aux4", 35.0)],
    columns=["group", "choice", "test"],
)
AUX = ("aux1", "aux2", "aux4")
PATHS = pd.DataFrame({"delay": [0, 0, 3, 3], "step": [0, 1, 0, 1], "distance": [1.0, 0.8, 1.0, 0.9]})
LIMITS = pd.DataFrame({"delay": [0, 3], "rate": [2.0, 0.445]})
LINES = {"sedona": (36.0, 35.0, 37.0), "backprop": (34.0, np.nan, np.nan)}

DRAWINGS = {
    "seed_curves": lambda: result_charts.seed_curves(CURVES, "n = 5 runs"),
    "errors_by_blocks": lambda: result_charts.errors_by_blocks(BLOCKS, "note"),
    "configurations": lambda: result_charts.configurations(
        {"backprop": [30.0, 31.0], "random": list(np.linspace(33, 40, 30))}, {"printed": 32.0}, "note"
    ),
    "alignment_by_layer": lambda: result_charts.alignment_by_layer(COSINES, {"dgl": (1, 2)}, "note"),
    "generalization": lambda: result_charts.generalization(GAPS, "note"),
    "intervals": lambda: inference_charts.intervals(ESTIMATES, "difference (points)", "note"),
    "random_search": lambda: inference_charts.random_search(SEARCH, LINES, {"a search": 2.4}, "note"),
    "error_by_feature": lambda: inference_charts.error_by_feature(FEATURES, NAMES, "note"),
    "error_by_choice": lambda: inference_charts.error_by_choice(CHOICES, AUX, "head", protocol="note"),
    "delayed_descent": lambda: inference_charts.delayed_descent(PATHS, LIMITS, "note"),
}


def legends(figure: matplotlib.figure.Figure) -> list[str]:
    figure.canvas.draw()
    found = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in found for text in legend.get_texts()]


def titles(figure: matplotlib.figure.Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_chart_fits_on_its_page_and_carries_its_note(name):
    figure = DRAWINGS[name]()
    figure.canvas.draw()
    assert figure.get_supxlabel() in ("note", "n = 5 runs")
    page = figure.bbox.padded(1.5)
    for axes in figure.axes:
        if not axes.axison:
            continue
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *(t for t in axes.get_xticklabels())):
            if text.get_visible() and text.get_text():
                box = text.get_window_extent()
                assert page.y0 <= box.y0, text.get_text()
                assert box.y1 <= page.y1, text.get_text()
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        box = legend.get_window_extent()
        assert page.x0 <= box.x0 <= box.x1 <= page.x1


def test_panels_that_share_an_axis_show_all_of_every_panel():
    later = CURVES.assign(network="another", error=90.0 + CURVES["run"].astype("category").cat.codes)
    figure = result_charts.seed_curves(pd.concat([CURVES, later]))
    figure.canvas.draw()
    for axes in figure.axes:
        drawn = np.concatenate([line.get_ydata() for line in axes.lines])
        assert len(drawn)
        low, high = axes.get_ylim()
        assert low == 0
        assert drawn.max() < high < 1.1 * max(later["error"])


def test_the_legend_names_what_any_panel_shows_and_counts_runs_over_panels():
    fewer = CURVES[(CURVES["variant"] == "random") & CURVES["run"].isin(CURVES["run"].unique()[-2:])]
    figure = result_charts.seed_curves(pd.concat([CURVES, fewer.assign(network="another")]))
    count = fewer["run"].nunique()
    assert 0 < count < 3
    assert legends(figure) == ["DGL (n = 2)", f"random (n = {count} to 3)"]


def test_a_marker_at_the_top_is_whole():
    alike = pd.DataFrame({"run": "K = 4", "block": [1, 2, 3], "error": [47.2, 47.3, 46.9]})
    figure = message_charts.head_errors(alike)
    figure.canvas.draw()
    (axes,) = figure.axes
    (line,) = axes.lines
    tops = line.get_transform().transform(line.get_xydata())[:, 1] + line.get_markersize() * figure.dpi / 144
    assert tops.max() < axes.bbox.y1


def test_a_curve_is_a_thin_line_a_run_and_a_thick_one_for_the_mean():
    (axes,) = result_charts.seed_curves(CURVES).axes
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    thick = [line for line in axes.lines if line.get_linewidth() > 1]
    assert len(thin) == 5  # the three draws share a seed and stay three
    assert [line.get_label() for line in thick] == ["DGL (n = 2)", "random (n = 3)"]
    np.testing.assert_allclose(thick[1].get_ydata(), [80.0, 70.0])


def test_errors_by_blocks_put_backprop_across_and_printed_numbers_in_outline():
    figure = result_charts.errors_by_blocks(BLOCKS)
    (axes,) = figure.axes
    assert legends(figure) == ["Backprop", "Backprop, paper", "DGL", "SEDONA"]
    across = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert across == [30.0, 12.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4"]
    white = [line.get_ydata() for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert 11.0 in np.concatenate(white)
    ours = next(line for line in axes.lines if list(line.get_ydata()) == [33.0, 35.0])  # by K, not as listed
    np.testing.assert_allclose(np.diff(ours.get_xdata()), 1)


def colours(figure, names):
    """Colour of what the legend calls so, counts left away."""
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    drawn = {}
    for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
        colour = handle.get_color()
        drawn[text.get_text().split(" (")[0]] = colour if isinstance(colour, str) else to_hex(colour[0])
    return {name: drawn[name].lower() for name in names}


def test_a_method_has_its_colour_in_every_chart_whoever_stands_beside_it():
    more = BLOCKS.assign(variant=BLOCKS["variant"].replace("dgl", "features-replay"))
    seen = [
        colours(result_charts.errors_by_blocks(BLOCKS), ["DGL", "SEDONA"]),
        colours(result_charts.errors_by_blocks(more), ["Features Replay", "SEDONA"]),
        colours(result_charts.seed_curves(CURVES.replace("random", "sedona")[::-1]), ["DGL", "SEDONA"]),
    ]
    assert len({one["SEDONA"] for one in seen}) == len({one["DGL"] for one in (seen[0], seen[2])}) == 1
    assert len({*seen[0].values(), *seen[1].values()}) == 3


@pytest.mark.parametrize("count", [3, 7, 20])
def test_other_names_take_the_looks_that_methods_leave(count):
    names = [*(f"run {i}" for i in range(count - 1)), "dgl"]
    found = drawing.looks([*names, "dgl"])
    assert [look[0] for look in found] == names
    assert found[-1][1:] == drawing.looks(["dgl"])[0][1:]
    assert len({look[1:] for look in found}) == min(count, len(drawing.CYCLE))
    assert drawing.looks(["K = 2"])[0][1] == drawing.BLUE
    assert len(drawing.METHODS) == len(drawing.CYCLE) == len(drawing.DASHES) == len(drawing.MARKERS)


def test_configurations_are_dots_side_by_side_around_their_mean():
    figure = result_charts.configurations({"sedona": [30.0, 34.0], "empty": [], "random": [33.0] * 5})
    (axes,) = figure.axes
    figure.canvas.draw()
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names == ["SEDONA\nn = 2", "random\nn = 5"]
    dots = axes.lines[1]
    assert len(set(np.round(dots.get_xdata(), 6))) == 5  # equal errors do not hide one another
    assert [text.get_text() for text in axes.texts] == ["32.0", "33.0"]
    assert not legends(figure)
    assert legends(result_charts.configurations({"a": [1.0]}, {"printed": 2.0})) == ["printed"]


def test_cosines_are_averaged_over_runs_and_blocks_end_between_layers():
    figure = result_charts.alignment_by_layer(COSINES, {"dgl": (1, 2)})
    left, right = figure.axes
    assert titles(figure) == ["DGL", "SEDONA"]
    thick = next(line for line in left.lines if line.get_label() == "all steps")
    np.testing.assert_allclose(thick.get_ydata(), [0.2, 0.3, 0.4])
    ends = [line.get_xdata()[0] for line in left.lines if list(line.get_ydata()) == [0, 1]]
    assert ends == [1.5, 2.5]
    assert not [line for line in right.lines if list(line.get_ydata()) == [0, 1]]
    assert legends(figure) == ["steps 0-10", "steps 10-20", "all steps"]


def test_a_gap_is_a_line_from_training_to_other_pictures():
    figure = result_charts.generalization(GAPS)
    assert titles(figure) == ["paper", "ours"]
    segments = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[5, 21], [7, 23]])
    assert legends(figure) == ["training pictures", "others"]


def test_more_than_three_panels_stand_two_in_a_row():
    sources = [GAPS.assign(source=f"network {number}") for number in range(5)]
    figure = result_charts.generalization(pd.concat(sources, ignore_index=True))
    assert titles(figure) == [f"network {number}" for number in range(5)]
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
    ]


@pytest.mark.parametrize("last", [(33.0, 34.0), (0.0, 0.0), (99.0, 100.0)])
def test_a_gap_of_one_point_has_one_length_in_all_panels(last):
    few = pd.DataFrame([("paper", "backprop", 5.0, 21.0), ("ours", "dgl", *last)], columns=GAPS.columns)
    figure = result_charts.generalization(few)
    spans = [np.ptp(axes.get_xlim()) for axes in figure.axes]
    assert spans == [pytest.approx(1.24 * 16)] * 2
    for axes, row in zip(figure.axes, few.itertuples(), strict=True):
        left, right = axes.get_xlim()
        assert -2 < left < row.train <= row.other < right


def test_intervals_stand_one_below_the_other_and_a_missing_one_leaves_no_gap():
    figure = inference_charts.intervals(ESTIMATES, "points")
    (axes,) = figure.axes
    assert legends(figure) == ["a", "b"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["DGL", "third"]
    segments = np.concatenate([c.get_segments() for c in axes.collections])
    np.testing.assert_allclose(segments, [[[0.5, 0], [1.5, 0]], [[-2, -1], [0, -1]]])
    assert axes.get_ylim()[0] < -1 < 0 < axes.get_ylim()[1]  # the first row is on top
    assert not legends(inference_charts.intervals(ESTIMATES.drop(columns="group"), "points"))


def test_a_random_search_is_drawn_beside_means_with_bands_where_they_have_any():
    figure = inference_charts.random_search(SEARCH, LINES, {"a search": 2.4})
    (axes,) = figure.axes
    assert legends(figure) == ["best of n random", "SEDONA", "Backprop", "a search"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), SEARCH["error"])
    (band,) = axes.patches
    np.testing.assert_allclose([band.get_y(), band.get_y() + band.get_height()], [35.0, 37.0])


def test_a_feature_without_values_has_no_panel():
    figure = inference_charts.error_by_feature(FEATURES, NAMES)
    assert [axes.get_xlabel() for axes in figure.axes] == ["mean depth", "first split (layer)"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xdata(), [3, 6, 9])
    four = {**dict.fromkeys(("depth", "split"), "x"), "test": "y", "copy": "z"}
    panels = inference_charts.error_by_feature(FEATURES.assign(copy=1.0), four).axes
    assert [axes.axison for axes in panels] == [True] * 4 + [False] * 2


def test_choices_stand_in_their_order_with_a_dot_a_run_and_a_line_through_means():
    figure = inference_charts.error_by_choice(CHOICES, AUX, "first head")
    (axes,) = figure.axes
    assert legends(figure) == ["printed (n = 3)", "even (n = 1)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["Aux 1", "Aux 2", "Aux 4"]
    dots, line = axes.lines[0], axes.lines[1]
    np.testing.assert_allclose(dots.get_ydata(), [30.0, 32.0, 37.0])
    np.testing.assert_allclose(np.round(dots.get_xdata()), [0, 0, 2])
    np.testing.assert_allclose(line.get_ydata(), [31.0, 37.0])
    np.testing.assert_allclose(np.round(line.get_xdata()), [0, 2])
    apart = inference_charts.error_by_choice(CHOICES, AUX, "first head", joined=False)
    assert len(apart.axes[0].lines) == len(axes.lines) - 2


def test_a_run_of_a_choice_without_a_place_is_refused():
    with pytest.raises(SedonaError, match="no place for aux4; allowed: aux1, aux2"):
        inference_charts.error_by_choice(CHOICES, ("aux1", "aux2"), "first head")


def test_delays_have_a_path_each_and_a_largest_rate_each():
    figure = inference_charts.delayed_descent(PATHS, LIMITS)
    left, right = figure.axes
    assert legends(figure) == ["delay 0", "delay 3"]
    assert left.get_yscale() == "log"
    np.testing.assert_allclose(right.lines[0].get_ydata(), [2.0, 0.445])


FRAMES = {  # chart: (draw, frame, a column that it needs)
    "seed_curves": (result_charts.seed_curves, CURVES, "run"),
    "errors_by_blocks": (result_charts.errors_by_blocks, BLOCKS, "paper"),
    "alignment_by_layer": (lambda table: result_charts.alignment_by_layer(table, {}), COSINES, "layer"),
    "generalization": (result_charts.generalization, GAPS, "other"),
    "intervals": (lambda table: inference_charts.intervals(table, "x"), ESTIMATES, "low"),
    "random_search": (lambda table: inference_charts.random_search(table, {}), SEARCH, "budget"),
    "error_by_feature": (lambda table: inference_charts.error_by_feature(table, NAMES), FEATURES, "test"),
    "error_by_choice": (lambda table: inference_charts.error_by_choice(table, AUX, "head"), CHOICES, "choice"),
    "delayed_descent": (lambda table: inference_charts.delayed_descent(table, LIMITS), PATHS, "distance"),
    "limits of delayed_descent": (lambda table: inference_charts.delayed_descent(PATHS, table), LIMITS, "rate"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_an_empty_frame_is_refused_never_a_plot_of_nothing(name):
    draw, table, _ = FRAMES[name]
    with pytest.raises(SedonaError, match="nothing to draw"):
        draw(table[:0])


@pytest.mark.parametrize("name", FRAMES)
def test_a_missing_column_is_named_in_one_line(name):
    draw, table, column = FRAMES[name]
    with pytest.raises(SedonaError, match=f"no column {column}") as error:
        draw(table.drop(columns=column))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: result_charts.configurations({}),
        lambda: result_charts.configurations({"sedona": [], "random": []}, {"printed": 12.31}),
        lambda: result_charts.errors_by_blocks(BLOCKS.assign(paper=np.nan, ours=np.nan)),
        lambda: inference_charts.intervals(ESTIMATES.assign(estimate=np.nan), "x"),
        lambda: inference_charts.error_by_feature(FEATURES, {"cosine": "mean cosine"}),
    ],
)
def test_rows_without_a_number_are_nothing_either(draw):
    with pytest.raises(SedonaError, match="nothing to draw"):
        draw()
