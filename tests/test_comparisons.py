import pandas as pd
import pytest
import torch

from sedona_nb import comparisons
from sedona_nb.errors import SedonaError

COSTS = pd.DataFrame(
    {
        "head": ["mlp-sr", "aux1"] * 2,
        "quantity": ["parameters"] * 2 + ["flops"] * 2,
        "paper": [129.33, 6.38, 1.34, 1.02],
        "ours": [129.33, 6.38, 1.34, 1.02],
    }
)
ALPHA = torch.full((20, 2), 10.0) ** -torch.arange(20.0)[:, None]
HISTORY = torch.linspace(0, 1, 5)[:, None, None] * torch.tensor([1.0, -1.0]) * torch.arange(1.0, 4)[:, None]
GRADIENTS = torch.tensor([1.0, 0.1, 0.0])[None, :, None].expand(4, 3, 2)  # nothing reaches the third layer


def shown(figure):
    figure.canvas.draw()
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_costs_have_a_logarithmic_panel_a_quantity():
    figure = comparisons.cost_bars(COSTS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["parameters", "multiply-accumulates"]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert shown(figure) == ["paper", "ours"]
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [129.33, 6.38] * 2


def test_a_line_says_its_slope_and_runs_through_the_dots():
    figure = comparisons.learned_sizes({"resnet152": ALPHA, "other": ALPHA[:5]}, {"resnet152": (3, -1.0, 1.0)})
    assert "ResNet-152, layers 3-20: -1.00 a layer" in shown(figure)
    dots, line = figure.axes[0].lines[:2]
    assert line.get_ydata()[-1] == pytest.approx(dots.get_ydata()[-1], abs=1e-5)


def test_an_exact_zero_is_left_out():
    figure = comparisons.learned_sizes({"a": torch.zeros(3, 2)})
    assert len(shown(figure)) == 1


def test_searches_stand_side_by_side_on_common_scales():
    figure = comparisons.searches_compared({"a": (HISTORY, GRADIENTS), "b": (-HISTORY, 0.01 * GRADIENTS)}, "toy")
    figure.canvas.draw()
    above, also_above, below, also_below = figure.axes[:4]
    assert [axes.get_title(loc="left") for axes in (above, also_above)] == ["a", "b"]
    assert above.lines[2].get_ydata()[-1] == pytest.approx(torch.tensor([3.0, -3.0]).softmax(0)[0].item())
    assert above.get_ylim() == also_above.get_ylim()
    (left,), (right,) = below.images, also_below.images
    assert left.get_clim() == right.get_clim() == pytest.approx((-3, 0))
    assert left.get_array().mask.sum() == 4  # exact zeros: the third layer at four steps
    assert left.get_array()[1, 0] == pytest.approx(-1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: comparisons.cost_bars(COSTS.drop(columns="ours")),
        lambda: comparisons.cost_bars(COSTS.assign(quantity="seconds")),
        lambda: comparisons.cost_bars(COSTS.assign(ours=0.0)),
        lambda: comparisons.learned_sizes({}),
        lambda: comparisons.learned_sizes({"a": torch.zeros(3)}),
        lambda: comparisons.learned_sizes({"a": ALPHA}, {"b": (1, 1.0, 1.0)}),
        lambda: comparisons.searches_compared({}),
        lambda: comparisons.searches_compared({"a": (HISTORY, HISTORY)}),
        lambda: comparisons.searches_compared({"a": (HISTORY[:1], GRADIENTS[:0])}),
        lambda: comparisons.searches_compared({"a": (HISTORY, GRADIENTS), "b": (ALPHA.expand(5, 20, 2),) * 2}),
    ],
)
def test_mistakes_get_one_line(draw):
    with pytest.raises(SedonaError):
        draw()
