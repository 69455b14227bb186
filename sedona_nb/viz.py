"""Every drawing of the suite under one roof: each takes plain data and returns a matplotlib Figure.

`save(figure, name, folder, data)` keeps one as SVG and PNG beside the CSV that it is drawn from.
"""

from sedona_nb.charts import configuration_counts, method_bars, training_curves
from sedona_nb.comparisons import cost_bars, cost_ratios, learned_sizes, search_costs, searches_compared
from sedona_nb.diagrams import backward_graphs, decoupling_diagram, search_space
from sedona_nb.drawing import Drawing, drawing, label, save, screen_picture
from sedona_nb.explorer_charts import cut_to_scale, search_at_step, search_progress, words
from sedona_nb.inference_charts import delayed_descent, error_by_choice, error_by_feature, intervals, random_search
from sedona_nb.message_charts import bound_along, head_errors
from sedona_nb.mixture_charts import gradient_mixture
from sedona_nb.playback_charts import PlaybackChart
from sedona_nb.result_charts import (
    alignment_by_layer,
    configurations,
    errors_by_blocks,
    generalization,
    seed_curves,
)
from sedona_nb.search_charts import alpha_bars, depth_profile, search_history, unroll_costs
from sedona_nb.speed_charts import front, gantt

__all__ = [
    "Drawing",
    "PlaybackChart",
    "alignment_by_layer",
    "alpha_bars",
    "backward_graphs",
    "bound_along",
    "configuration_counts",
    "configurations",
    "cost_bars",
    "cost_ratios",
    "cut_to_scale",
    "decoupling_diagram",
    "delayed_descent",
    "depth_profile",
    "drawing",
    "error_by_choice",
    "error_by_feature",
    "errors_by_blocks",
    "front",
    "gantt",
    "generalization",
    "gradient_mixture",
    "head_errors",
    "intervals",
    "label",
    "learned_sizes",
    "method_bars",
    "random_search",
    "save",
    "screen_picture",
    "search_at_step",
    "search_costs",
    "search_history",
    "search_progress",
    "search_space",
    "searches_compared",
    "seed_curves",
    "training_curves",
    "unroll_costs",
    "words",
]
