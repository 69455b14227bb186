"""An explorer of records: errors against the number of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sedona_nb import errors_by_k, panels, progress, protocols, views, viz
from sedona_nb.errors import choose
from sedona_nb.panels import View
from sedona_nb.places import home
from sedona_nb.store import RunStore

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

ERRORS = "A line a method; only what has a record is drawn."


def error_against_k(
    network: str = "vgg19",
    protocol: str = "short",
    methods: Sequence[str] | None = None,
    store: RunStore | None = None,
) -> Widget | Figure:
    """Network, protocol, methods: errors against K as far as there are records, and what has none in words.

    Args:
        network: one of `errors_by_k.NETWORKS`.
        protocol: one of `protocols.MAIN`.
        methods: of `errors_by_k.METHODS`; default: all.
        store: of the records; default: the repository's results.

    Raises:
        SedonaError: an unknown name, or a damaged record.
    """
    store = store or RunStore(home() / "results")
    methods = tuple(errors_by_k.METHODS if methods is None else methods)
    choose(network, errors_by_k.NETWORKS, "network")
    choose(protocol, protocols.MAIN, "protocol")
    for method in methods:
        choose(method, errors_by_k.METHODS, "method")
    read: dict[tuple[str, str], errors_by_k.Points] = {}  # records are read once

    def look(network: str, protocol: str, **chosen: bool) -> View:
        if (network, protocol) not in read:
            read[network, protocol] = errors_by_k.load(network, protocol, store)
        wanted = [method for method, yes in chosen.items() if yes]
        return views.errors(read[network, protocol], wanted, store, network)

    boxes = {method: method in methods for method in errors_by_k.METHODS}
    if progress.headless():
        return panels.static(look(network, protocol, **boxes), ERRORS)
    from ipywidgets import Checkbox, HBox, Layout

    controls = {
        "network": panels.choice("network", {viz.label(name): name for name in errors_by_k.NETWORKS}, network),
        "protocol": panels.choice("protocol", protocols.MAIN, protocol),
        **{
            method: Checkbox(yes, description=viz.label(method), indent=False, layout=Layout(width="11em"))
            for method, yes in boxes.items()
        },
    }
    ticks = HBox([controls[method] for method in boxes], layout=Layout(flex_flow="row wrap"))
    return panels.follow(look, controls, ERRORS, [controls["network"], controls["protocol"], ticks])
