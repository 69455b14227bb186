"""Every drawing of the suite under one roof: each takes plain data and returns a matplotlib Figure.

`save(figure, name, folder, data)` keeps one as SVG and PNG beside the CSV that it is drawn from.
"""

from sedona_nb.charts import (
    alpha_bars,
    configuration_counts,
    depth_profile,
    method_bars,
    search_history,
    training_curves,
    unroll_costs,
)
from sedona_nb.comparisons import cost_bars, cost_ratios, learned_sizes, search_costs, searches_compared
from sedona_nb.diagrams import backward_graphs, decoupling_diagram, search_space
from sedona_nb.drawing import Drawing, drawing, save
from sedona_nb.speed_charts import front, gantt

__all__ = [
    "Drawing",
    "alpha_bars",
    "backward_graphs",
    "configuration_counts",
    "cost_bars",
    "cost_ratios",
    "decoupling_diagram",
    "depth_profile",
    "drawing",
    "front",
    "gantt",
    "learned_sizes",
    "method_bars",
    "save",
    "search_costs",
    "search_history",
    "search_space",
    "searches_compared",
    "training_curves",
    "unroll_costs",
]
