"""What each widget shows at one setting: values in, a `View` out. Controls and state are the explorers' part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd

from sedona_nb import block_costs, cut_sources, errors_by_k, playback, schedule, toy_chain, viz
from sedona_nb.block_costs import LayerCosts
from sedona_nb.decoupling import Decoupling
from sedona_nb.drawing import label
from sedona_nb.errors import TieWarning
from sedona_nb.live_folder import Status
from sedona_nb.panels import View
from sedona_nb.schedule import BlockTimes
from sedona_nb.search_config import SearchResult
from sedona_nb.store import RunStore


def decoupling(costs: LayerCosts, found: cut_sources.Found, quantity: str = "operations") -> View:
    """A decoupling to scale, or the words why there is none; what its blocks cost; the speed-up to be expected."""
    if found.cut is None:
        return View(viz.words([f"{label(costs.form.network.name)}: no decoupling to draw."]), found.words)
    cut = found.cut
    blocks = block_costs.blocks(costs, cut)
    slowest = max(range(len(blocks)), key=lambda k: blocks[k].own["time"] + blocks[k].of_head["time"])
    speedup = block_costs.speedup(costs, cut)
    device = "device" if cut.num_blocks == 1 else "devices"
    words = (
        *found.words,
        f"{cut}.",
        f"Predicted speed-up with {cut.num_blocks} {device} over backprop on one: {speedup:.2f} times, as block "
        f"{slowest + 1}, the slowest, allows; {costs.basis}.",
    )
    return View(viz.cut_to_scale(costs, cut, quantity), words, _block_table(costs, blocks))


def _block_table(costs: LayerCosts, blocks: Sequence[block_costs.BlockCost]) -> pd.DataFrame:
    """A row a block; what belongs to its head stands behind a plus."""
    whole = sum(one.own["time"] + one.of_head["time"] for one in blocks)

    def both(one: block_costs.BlockCost, quantity: str) -> str:
        head = f" + {one.of_head[quantity]:,}" if one.of_head[quantity] else ""
        return f"{one.own[quantity]:,}{head}"

    rows = []
    for number, one in enumerate(blocks, 1):
        seconds = one.own["time"] + one.of_head["time"]
        rows.append(
            {
                "block": number,
                "layers": str(one.first) if one.first == one.last else f"{one.first}-{one.last}",
                "head": label(one.head),
                "parameters (+ head)": both(one, "parameters"),
                "multiply-accumulates (+ head)": both(one, "operations"),
                "time of a step": f"{1000 * seconds:.1f} ms"
                if costs.measured
                else f"{100 * seconds / whole:.0f} %",
            }
        )
    return pd.DataFrame(rows)


def search_step(result: SearchResult, step: int, num_blocks: int, basis: str = "") -> View:
    """A search after one of its outer steps, and the decoupling into K blocks that it would give there.

    `basis`: a sentence on what was searched.
    """
    alpha, beta = result.alpha_history[step], result.beta_history[step]
    with warnings.catch_warnings(record=True) as ties:
        warnings.simplefilter("always", TieWarning)
        final = Decoupling.from_search(result.alpha, result.beta, num_blocks)
        ties.clear()  # only those of this step are to be said
        cut = Decoupling.from_search(alpha, beta, num_blocks)
    words = [f"After {step} of {len(result.alpha_history) - 1} outer steps: {cut}."]
    kept = len(set(cut.splits) & set(final.splits))
    if num_blocks > 1:
        words.append(
            f"{kept} of its {num_blocks - 1} cuts are among those at the end of the search: {final.splits}."
        )
    words += [f"Tie: {tie.message}." for tie in ties]
    return View(viz.search_at_step(result, step, cut), (*words, *([basis] if basis else [])))


def gradient_mix(shares: Sequence[float]) -> View:
    """Eq. 4 on the chain of notebook 03, layer by layer from the top."""
    rows = toy_chain.mixtures(shares)
    words = []
    for one in reversed(rows):
        if one is rows[-1]:
            words.append(f"Layer {one.layer}, the top: only its own loss, {one.mixed:.2f}.")
            continue
        heard = (
            f"{one.share:.2f} x {one.local:.2f} (own) + {1 - one.share:.2f} x {one.from_above:.2f} (from above)"
        )
        origin = ", ".join(f"{part:.2f} from loss {k}" for k, part in enumerate(one.parts, 1) if part)
        words.append(f"Layer {one.layer}: {heard} = {one.mixed:.2f}" + (f"; of it {origin}." if origin else "."))
    return View(viz.gradient_mixture(rows, toy_chain.extremes()), tuple(words))


def pipeline(
    times: Sequence[BlockTimes], depth: int, time: float, player: viz.PlaybackChart | None = None
) -> View:
    """The asynchronous schedule of `times` at one moment, `time` in seconds.

    `player`: of the same times and depth, painted before; with it only what moves is painted.
    """
    found = player or viz.PlaybackChart(schedule.asynchronous(times, playback.STEPS, depth), depth)
    now = playback.moment(found.spans, time)
    step, limit = schedule.seconds_per_step(found.spans), schedule.limit(times)
    busy = ", ".join(f"block {k} {share:.0f} %" for k, share in enumerate(playback.utilisation(found.spans), 1))
    doing = ", ".join(
        f"block {k} " + ("waits" if work is None else f"is at {work[0]} of step {work[1]}")
        for k, work in enumerate(now.work, 1)
    )
    slowest = max(one.training for one in times)
    words = [
        f"{1000 * step:.0f} ms a step once it is running; the slowest block takes {1000 * slowest:.0f} ms, which "
        f"allows {limit:.2f} times the speed of backprop on one device.",
        f"At work: {busy} of the time.",
        f"At {1000 * time:.0f} ms: {doing}.",
    ]
    if player is None:
        return View(found.at(time), tuple(words))
    return View(found.figure, tuple(words), picture=found.frame(time))


def errors(points: errors_by_k.Points, methods: Sequence[str], store: RunStore, network: str) -> View:
    """Errors against K of some methods, and what has no record."""
    chosen = points.of(methods, store)
    have = int(chosen.table["n"].sum()) if len(chosen.table) else 0
    missing = chosen.missing if methods else ("No method is chosen.",)
    if not have:
        return View(viz.words([f"{label(network)}: no record to draw."]), missing)
    note = f"Test error; bars: standard deviation over seeds; {have} runs. {points.label}."
    figure = viz.errors_by_blocks(chosen.table.assign(paper=float("nan")), note)
    return View(figure, (f"{have} runs: {points.label}.", *missing))


def live(status: Status) -> View:
    """How a search in the background stands."""
    if status.state == "none":
        return View(viz.words(["Live search: nothing to draw yet."]), (str(status),))
    figure = viz.search_progress(
        status.outer_losses, status.outer_steps, status.errors, status.pretrain_steps, status.shares
    )
    words = [str(status)]
    if status.state == "done":
        words.append("live_search.result(folder) has what it found; another search needs another folder.")
    return View(figure, tuple(words))
