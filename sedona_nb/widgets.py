"""Every piece to play with under one roof: a line each in a notebook, a static figure where nobody can slide.

    widgets.decoupling_explorer("resnet101", num_blocks=8)
    widgets.trajectory_scrubber(result)

A widget has no arithmetic and no drawing of its own: its controls call `views`, which call pure functions and
`viz`. Headless, its words are printed and the figure at the values given is returned.
"""

from sedona_nb.cut_explorers import (
    decoupling_explorer,
    explore_configurations,
    explore_decoupling,
    trajectory_scrubber,
)
from sedona_nb.live_panel import live_search
from sedona_nb.model_explorers import gradient_mix, timeline_player
from sedona_nb.record_explorers import error_against_k

__all__ = [
    "decoupling_explorer",
    "error_against_k",
    "explore_configurations",
    "explore_decoupling",
    "gradient_mix",
    "live_search",
    "timeline_player",
    "trajectory_scrubber",
]
