"""Widgets in both modes: what moves, what it shows, and what is said where there is nothing to show."""

from __future__ import annotations

import dataclasses
import gc
import io
import itertools
import json
import statistics
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import pytest
import torch
from ipywidgets import HTML, Button, Checkbox, Dropdown, Image, IntSlider, Play, VBox, Widget
from matplotlib.figure import Figure
from toys import made_record

from sedona_nb import (
    block_costs,
    cut_sources,
    drawing,
    errors_by_k,
    live_panel,
    panels,
    playback,
    progress,
    protocols,
    released,
    schedule,
    toy_chain,
    views,
    viz,
    widgets,
)
from sedona_nb.backgrounds import Backgrounds
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, TieWarning
from sedona_nb.live_folder import AT_REST, AT_WORK, STATES, Status
from sedona_nb.playback_charts import PlaybackChart
from sedona_nb.runs import search_result
from sedona_nb.search_config import SearchResult
from sedona_nb.store import RunStore

REPOSITORY = Path(__file__).resolve().parent.parent
ALPHA = torch.randn(15, 2, generator=torch.Generator().manual_seed(0))
BETA = torch.randn(15, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def interactive(monkeypatch):
    monkeypatch.setattr(progress, "headless", lambda: False)
    yield
    Widget.close_all()


@pytest.fixture
def without_released(monkeypatch, tmp_path):
    monkeypatch.setenv(released.VARIABLE, str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def store() -> RunStore:
    return RunStore(REPOSITORY / "results")


@pytest.fixture(scope="module")
def found(store) -> SearchResult:
    """A recorded search of VGG-19."""
    record = cut_sources.search_of("vgg19", cut_sources.searches(store))
    if record is None:
        pytest.skip("no recorded search of vgg19")
    return search_result(record)


def parts(widget: VBox, kind: type) -> list:
    """Every part of a kind, in the order of the page."""
    inside = [widget] if isinstance(widget, kind) else []
    return inside + [part for child in getattr(widget, "children", ()) for part in parts(child, kind)]


def control(widget: VBox, words: str) -> Widget:
    (one,) = [part for part in parts(widget, Widget) if words in (getattr(part, "description", "") or "")]
    return one


def picture(widget: VBox) -> bytes:
    (one,) = parts(widget, Image)
    return bytes(one.value)


def words(widget: VBox) -> str:
    return " ".join(part.value for part in parts(widget, HTML))


LIVE = {
    "explore_decoupling": lambda **more: widgets.explore_decoupling(ALPHA, BETA),
    "explore_configurations": lambda **more: widgets.explore_configurations(),
    "decoupling_explorer": lambda store, **more: widgets.decoupling_explorer(store=store),
    "trajectory_scrubber": lambda found, **more: widgets.trajectory_scrubber(found),
    "gradient_mix": lambda **more: widgets.gradient_mix(),
    "timeline_player": lambda **more: widgets.timeline_player(),
    "error_against_k": lambda store, **more: widgets.error_against_k(store=store),
    "live_search": lambda folder, **more: widgets.live_search(folder),
}


def test_every_widget_is_here():
    assert set(LIVE) == set(widgets.__all__)


@pytest.mark.parametrize("name", LIVE)
def test_headless_a_widget_is_a_figure_and_its_words(name, store, found, tmp_path, capsys):
    assert progress.headless()  # as under nbval: pytest is enough
    figure = LIVE[name](store=store, found=found, folder=tmp_path)
    assert isinstance(figure, Figure)
    assert capsys.readouterr().out.strip()
    first = viz.Drawing._repr_png_(figure)[0]
    assert first == viz.Drawing._repr_png_(LIVE[name](store=store, found=found, folder=tmp_path))[0]


@pytest.mark.parametrize("name", LIVE)
def test_interactive_a_widget_is_controls_a_picture_words_and_a_caption(name, store, found, tmp_path, interactive):
    widget = LIVE[name](store=store, found=found, folder=tmp_path)
    assert isinstance(widget, VBox)
    assert picture(widget).startswith(b"\x89PNG")
    caption = widget.children[-1]
    assert isinstance(caption, HTML)
    assert len(caption.value) > 60
    for part in parts(widget, Widget):
        if hasattr(part, "continuous_update"):
            assert not part.continuous_update
        if isinstance(part, Dropdown | IntSlider | Checkbox | Button):
            assert len(part.description) > 2  # in words


# -- what a move shows is what the pure function gives -----------------------------------------------------------


def shown(view: panels.View) -> bytes:
    return viz.screen_picture(view.figure)


def test_a_move_of_k_draws_the_search_s_cut(interactive):
    widget = widgets.explore_decoupling(ALPHA, BETA)
    before = picture(widget)
    control(widget, "blocks K").value = 7
    cut = Decoupling.from_search(ALPHA, BETA, 7)
    assert picture(widget) == viz.screen_picture(viz.decoupling_diagram(cut)) != before
    assert str(cut) in words(widget)


def test_a_tie_is_said_in_words(interactive):
    alpha, beta = torch.zeros(3, 2), torch.eye(4)[:3]
    with pytest.warns(TieWarning):
        Decoupling.from_search(alpha, beta, 2)
    assert "Tie: layers 1-3 are equal" in words(widgets.explore_decoupling(alpha, beta, 2))


def test_k_waits_at_l_until_its_slider_follows(interactive):
    widget = widgets.explore_configurations()
    control(widget, "blocks K").value = 9
    control(widget, "heads M").value = 2
    control(widget, "layers L").value = 4
    assert "L = 4, K = 4, M = 2: 8 configurations" in words(widget)
    assert picture(widget) == viz.screen_picture(viz.configuration_counts(4, 2, 4))


def test_the_explorer_draws_what_costs_say(interactive, store):
    widget = widgets.decoupling_explorer("vgg19", 4, store=store)
    seen = {picture(widget)}
    control(widget, "blocks K").value = 6
    control(widget, "width").value = "time"
    costs = block_costs.of("vgg19", store)
    cut = Decoupling.published("vgg19", 6)
    assert picture(widget) == viz.screen_picture(viz.cut_to_scale(costs, cut, "time"))
    assert f"{schedule.limit(costs.times.of(cut)):.2f} times" in words(widget)
    seen.add(picture(widget))
    control(widget, "network").value = "resnet50"
    assert picture(widget) == viz.screen_picture(
        viz.cut_to_scale(block_costs.of("resnet50", store), Decoupling.published("resnet50", 6), "time")
    )
    assert len({*seen, picture(widget)}) == 3


def test_the_slider_of_k_ends_where_the_network_does(interactive, store):
    widget = widgets.decoupling_explorer("resnet152", 40, "even cost", store=store)
    slider = control(widget, "blocks K")
    assert (slider.max, slider.value) == (50, 40)
    control(widget, "network").value = "vgg19"
    assert (slider.max, slider.value) == (16, 16)
    assert "16 layers, 16 blocks" in words(widget)


def test_the_scrubber_shows_the_search_at_its_step(interactive, found):
    widget = widgets.trajectory_scrubber(found, 4)
    before = picture(widget)
    control(widget, "outer step").value = 20
    control(widget, "blocks K").value = 3
    cut = Decoupling.from_search(found.alpha_history[20], found.beta_history[20], 3)
    assert picture(widget) == viz.screen_picture(viz.search_at_step(found, 20, cut)) != before
    assert f"After 20 of {len(found.outer_losses)} outer steps: {cut}" in words(widget)
    control(widget, "outer step").value = 0  # nothing is decided there
    assert "Tie: " in words(widget)


def test_the_mix_shows_eq_4(interactive):
    widget = widgets.gradient_mix()
    before = picture(widget)
    control(widget, "layer 2").value = 1.0
    control(widget, "layer 1").value = 0.25
    rows = toy_chain.mixtures((0.25, 1.0))
    assert picture(widget) == viz.screen_picture(viz.gradient_mixture(rows, toy_chain.extremes())) != before
    assert "Layer 1: 0.25 x 1.00 (own) + 0.75 x 0.00 (from above) = 0.25; of it 0.25 from loss 1." in words(widget)


def test_the_player_plays_the_schedule(interactive):
    widget = widgets.timeline_player(num_blocks=3, depth=2)
    costs = [part for part in parts(widget, Widget) if "ms a step" in (getattr(part, "description", "") or "")]
    assert [slider.layout.display for slider in costs] == [None] * 3 + ["none"] * 3
    seen = [picture(widget)]
    costs[1].value = 200.0
    seen.append(picture(widget))
    control(widget, "slots").value = 1
    control(widget, "blocks K").value = 2
    control(widget, "time (%").value = 80
    blocks = playback.blocks_of([playback.BLOCK], (0.1, 0.2))
    spans = schedule.asynchronous(blocks, playback.STEPS, 1)
    end = max(span.end for span in spans)
    assert picture(widget) == PlaybackChart(spans, 1).frame(0.8 * end)
    assert f"{1000 * schedule.seconds_per_step(spans):.0f} ms a step" in words(widget)
    assert "block 1 50 %" in words(widget)  # it waits for the other half of the time
    assert len({*seen, picture(widget)}) == 3
    (play,) = parts(widget, Play)
    assert (play.min, play.max) == (0, 100)


def test_a_move_of_the_cursor_paints_what_a_new_chart_paints():
    spans = schedule.asynchronous(playback.blocks_of([playback.BLOCK], (0.1, 0.15)), 8, 2)
    player = PlaybackChart(spans, 2)
    frames = [player.frame(time) for time in (0.1, 0.5, 0.1)]
    assert frames[0] == frames[2] != frames[1]
    assert frames[1] == PlaybackChart(spans, 2).frame(0.5)


def test_errors_of_the_methods_that_are_ticked(interactive, store):
    widget = widgets.error_against_k("vgg19", "short", store=store)
    before = picture(widget)
    for box in parts(widget, Checkbox):
        box.value = box.description in ("Backprop", "DGL")
    points = errors_by_k.load("vgg19", "short", store)
    view = views.errors(points, ["backprop", "dgl"], store, "vgg19")
    assert picture(widget) == shown(view) != before
    rows = points.table[points.table["variant"].isin(["backprop", "dgl"])]
    assert f"{int(rows['n'].sum())} runs" in words(widget)
    for box in parts(widget, Checkbox):
        box.value = False
    assert "No method is chosen" in words(widget)


def test_callbacks_in_threads_of_their_own_draw_as_in_one(interactive, store):
    """JupyterLab hands each control's message to a thread of its own; matplotlib's settings are global."""
    costs = block_costs.of("vgg19", store)
    cuts = [Decoupling.published("vgg19", k) for k in (2, 4, 6, 8)]
    wanted = [viz.screen_picture(viz.cut_to_scale(costs, cut)) for cut in cuts]
    settings = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda cut: viz.screen_picture(viz.cut_to_scale(costs, cut)), 4 * cuts))
    assert found == 4 * wanted
    assert dict(matplotlib.rcParams) == settings

    widget = widgets.decoupling_explorer("vgg19", 4, store=store)
    moves = [("blocks K", 7), ("where cuts", "even cost"), ("width", "time")]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda move: setattr(control(widget, move[0]), "value", move[1]), moves))
    cut = cut_sources.find("even cost", "vgg19", 7).cut
    assert picture(widget) == viz.screen_picture(viz.cut_to_scale(costs, cut, "time"))


# -- whatever is chosen, words and no exception ------------------------------------------------------------------


@pytest.mark.parametrize("network", cut_sources.NETWORKS)
@pytest.mark.parametrize("full", [True, False], ids=["records", "empty store"])
def test_every_source_of_every_network_gives_words(network, full, store, tmp_path, without_released):
    some = store if full else RunStore(tmp_path)
    recorded, costs = cut_sources.searches(some), block_costs.of(network, some)
    assert bool(costs.measured) is full
    layers = protocols.NUM_LAYERS[network]
    for source, blocks in itertools.product(cut_sources.SOURCES, (1, 4, layers) if full else (4,)):
        one = cut_sources.find(source, network, blocks, recorded)
        view = views.decoupling(costs, one, "time")
        assert all(view.words)
        if one.cut is None:
            assert "No decoupling from this source" in view.words[0]
        else:
            assert one.cut.num_blocks == blocks == len(view.table)
            assert ("recorded layer times" if full else "counted memory traffic") in view.words[-1]
        missing = source == "released" or (source == "own search" and not (full and network == "vgg19"))
        missing |= source == "published" and blocks > 17
        assert (one.cut is None) is missing, (source, blocks)


def test_released_files_are_a_source_where_they_are(released_root, monkeypatch):
    monkeypatch.setenv(released.VARIABLE, str(released_root))
    one = cut_sources.find("released", "vgg19", 4)
    assert one.cut == Decoupling.published("vgg19", 4)


@pytest.mark.parametrize("full", [True, False], ids=["records", "empty store"])
def test_every_filter_of_errors_gives_words(full, store, tmp_path, interactive):
    widget = widgets.error_against_k(store=store if full else RunStore(tmp_path))
    for network, protocol in itertools.product(errors_by_k.NETWORKS, protocols.MAIN):
        control(widget, "network").value = network
        control(widget, "protocol").value = protocol
        said = words(widget)
        assert "no record" in said or "Nothing to draw" in said or full, (network, protocol)
        impossible = (protocol != "paper" and network in ("resnet101", "resnet152")) or (
            protocol == "paper" and network == "transformer20"
        )
        assert ("Nothing to draw: unknown network" in said) is impossible, (network, protocol, said)


def test_points_come_from_records_alone(tmp_path):
    store = RunStore(tmp_path)
    protocol = protocols.load("smoke", "vgg19")
    spec = protocol.spec("dgl", 0, protocol.settings[0], num_blocks=8)
    store.save(made_record(spec, test=42.0))
    points = errors_by_k.load("vgg19", "smoke", store)
    assert points.table.query("variant == 'dgl' and K == 8")["ours"].tolist() == [42.0]
    assert points.table["n"].sum() == 1
    assert "dgl (K = 2, 4, 12, 16), sedona" in " ".join(points.missing)


def cut_off(found: SearchResult, states: int | None = None, layers: int | None = None) -> SearchResult:
    """The first states and decisions of a search."""
    return dataclasses.replace(
        found,
        alpha=found.alpha[:layers],
        beta=found.beta[:layers],
        alpha_history=found.alpha_history[:states, :layers],
        beta_history=found.beta_history[:states, :layers],
        alpha_gradients=found.alpha_gradients[: states and states - 1, :layers],
        outer_losses=found.outer_losses[: states and states - 1],
    )


def test_a_search_without_steps_and_a_network_of_one_layer_are_drawn(found, capsys):
    """Nothing is decided in either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(widgets.trajectory_scrubber(cut_off(found, states=1), 4), Figure)
        assert isinstance(widgets.explore_decoupling(torch.zeros(0, 2), torch.zeros(0, 4), num_blocks=1), Figure)
        assert isinstance(widgets.explore_configurations(1, 1, 4), Figure)
    assert "After 0 of 0 outer steps" in capsys.readouterr().out


def test_records_of_a_foreign_format_are_named(tmp_path, interactive):
    (tmp_path / "0123456789ab.json").write_text('{"format": 99, "kind": "training", "spec": {}}')
    with pytest.raises(SedonaError, match="0123456789ab.json is no record: record format 99") as caught:
        widgets.decoupling_explorer(store=RunStore(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
    assert "no record" in words(widgets.error_against_k(store=RunStore(tmp_path)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda store, found: widgets.explore_decoupling(ALPHA, BETA, num_blocks=17),
        lambda store, found: widgets.explore_configurations(num_layers=3),
        lambda store, found: widgets.decoupling_explorer("vgg91", store=store),
        lambda store, found: widgets.decoupling_explorer(source="guess", store=store),
        lambda store, found: widgets.decoupling_explorer(quantity="colour", store=store),
        lambda store, found: widgets.trajectory_scrubber(found, 17),
        lambda store, found: widgets.trajectory_scrubber(found, 4, step=101),
        lambda store, found: widgets.trajectory_scrubber(cut_off(found, states=0)),
        lambda store, found: widgets.trajectory_scrubber(cut_off(found, layers=0), 1),
        lambda store, found: widgets.explore_decoupling(torch.zeros(0, 2), torch.zeros(0, 4), num_blocks=2),
        lambda store, found: widgets.gradient_mix((0.5, 1.5)),
        lambda store, found: widgets.gradient_mix((0.5,)),
        lambda store, found: widgets.timeline_player(num_blocks=7),
        lambda store, found: widgets.timeline_player(percent=101),
        lambda store, found: widgets.error_against_k("vgg91", store=store),
        lambda store, found: widgets.error_against_k(protocol="long", store=store),
        lambda store, found: widgets.error_against_k(methods=("sgd",), store=store),
    ],
)
def test_mistakes_in_the_call_get_one_line(wrong, store, found):
    with pytest.raises(SedonaError) as caught:
        wrong(store, found)
    assert len(str(caught.value).splitlines()) == 1


# -- the pure functions ------------------------------------------------------------------------------------------


def test_blocks_add_up_to_the_network(store):
    costs = block_costs.of("vgg19", store)
    base = costs.form.network.build(10, 32)
    for cut in (Decoupling.published("vgg19", 4), Decoupling.uniform(16, 16, "aux2"), Decoupling.backprop(16)):
        blocks = block_costs.blocks(costs, cut)
        assert sum(one.own["layers"] for one in blocks) == 16
        assert sum(one.own["parameters"] for one in blocks) == sum(p.numel() for p in base.parameters())
        whole = [one.own["time"] + one.of_head["time"] for one in blocks]
        assert costs.times.backprop() / max(whole) == pytest.approx(block_costs.speedup(costs, cut), rel=1e-9)


def test_the_toy_is_the_one_of_notebook_03():
    rows = toy_chain.mixtures((0.5, 0.5))
    assert [one.mixed for one in rows] == [1.25, 3.0, 2.0]
    generator = torch.Generator().manual_seed(0)
    for shares in torch.rand(20, 2, generator=generator).tolist():
        low, high = toy_chain.extremes()
        for one in toy_chain.mixtures(shares):
            assert sum(one.parts) == pytest.approx(one.mixed, abs=1e-12)
            assert low <= one.mixed <= high


def test_queues_hold_what_was_sent_and_not_worked_off():
    spans = schedule.asynchronous(playback.blocks_of([playback.BLOCK], (0.06, 0.12)), 12, depth=2)
    end = max(span.end for span in spans)
    fullest = max(len(playback.moment(spans, end * k / 500).queued[0]) for k in range(500))
    assert fullest == 2  # block 1 is twice as fast: the queue fills up, and never over
    assert playback.moment(spans, end).work == (None, None)
    assert playback.moment(spans, end).queued == ((),)
    assert playback.moment(spans, 0.0).work == (("forward", 0), None)
    assert playback.utilisation(spans)[1] == pytest.approx(100)
    assert playback.utilisation(spans)[0] == pytest.approx(50, abs=1)


@pytest.mark.parametrize("state", STATES)
def test_buttons_of_the_panel(state):
    on = {name for name in ("start", "pause", "continue", "stop") if live_panel.allowed(name, Status(state))}
    wanted = {"none": {"start"}, "done": set(), "paused": {"continue", "stop"}}
    wanted |= dict.fromkeys(AT_WORK, {"pause", "stop"}) | dict.fromkeys(set(AT_REST) - {"paused"}, {"continue"})
    assert on == wanted[state]
    assert not live_panel.allowed("start", Status("none"), has_spec=False)


# -- what makes them quick ---------------------------------------------------------------------------------------


ENDS = toy_chain.extremes()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"), int)


def test_a_background_that_was_painted_before_gives_the_same_picture(found):
    """Reused for figures that differ inside their axes; painted anew for those that differ around them."""
    cuts = [Decoupling.from_search(found.alpha_history[step], found.beta_history[step], 4) for step in (5, 9, 20)]
    figures = [
        *(lambda s=s, c=c: viz.search_at_step(found, s, c) for s, c in zip((5, 9, 20), cuts, strict=True)),
        *(lambda k=k: viz.configuration_counts(16, 4, k) for k in (2, 9)),
        *(lambda k=k: viz.decoupling_diagram(Decoupling.uniform(16, k)) for k in (2, 5)),
        *(
            lambda s=s: viz.gradient_mixture(toy_chain.mixtures(s), toy_chain.extremes())
            for s in ((0, 1), (0.5, 0.5))
        ),
    ]
    backgrounds = Backgrounds()
    for draw in (*figures, *reversed(figures)):
        assert viz.screen_picture(draw(), backgrounds) == viz.screen_picture(draw())


def test_in_two_steps_a_figure_looks_as_in_one(found):
    """Background first, inside second, against matplotlib's own order: axis lines may lie below bars."""
    cut = Decoupling.from_search(found.alpha_history[9], found.beta_history[9], 4)
    quick = pixels(viz.screen_picture(viz.search_at_step(found, 9, cut)))
    figure = viz.search_at_step(found, 9, cut)
    figure.set_dpi(drawing.LIVE_DPI)
    figure.canvas.draw()
    slow = pixels(drawing.canvas_picture(figure.canvas))
    assert quick.shape == slow.shape
    assert (np.abs(quick - slow).max(axis=2) > 40).mean() < 0.004  # edges of bars


def test_garbage_of_a_redraw_goes_at_once():
    figures = []

    def one() -> None:
        figure = viz.configuration_counts(16, 4, 3)
        figures.append(weakref.ref(figure))
        viz.screen_picture(figure)

    with panels.own_garbage():
        assert not gc.isenabled()
        one()
        assert figures[0]() is not None  # it is in circles: counting references does not find it
    assert figures[0]() is None
    assert gc.isenabled()


@pytest.mark.alone
def test_a_slider_redraws_within_its_bar():
    script = REPOSITORY / "benchmarks" / "widgets.py"
    done = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True, check=True)
    moves = json.loads(done.stdout)
    assert len(moves) == 7
    for name, some in moves.items():
        sliders = [move["ms"] for move in some if move["kind"] == "slider"]
        if sliders:
            assert statistics.median(sliders) < 150, name
            assert max(sliders) < 300, name  # a neighbour may take the core for a moment
