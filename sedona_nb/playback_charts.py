"""A schedule that can be played: the Gantt chart is painted once, a cursor and the queues move over it.

player = PlaybackChart(spans, depth=4)
player.at(0.35)                 # the figure, with the cursor there
player.frame(0.35)              # the same as a PNG, in a fraction of the time
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from sedona_nb.backgrounds import Backgrounds
from sedona_nb.drawing import FAINT, INK, LIVE_DPI, QUIET, VERMILLION, Drawing, canvas_picture, drawing, in_style
from sedona_nb.errors import SedonaError
from sedona_nb.playback import Moment, moment
from sedona_nb.schedule import Span
from sedona_nb.speed_charts import LOOKS

NUMBERED = 0.028  # of the whole time: a span as long as this has its step's number in it


class PlaybackChart:
    """The chart of one schedule; `at` and `frame` only move what depends on the time.

    Args:
        spans: of `schedule.asynchronous`.
        depth: slots of each queue.
        backgrounds: of charts like this one, whose layout is used again.

    Raises:
        SedonaError: no spans.
    """

    def __init__(self, spans: Sequence[Span], depth: int, backgrounds: Backgrounds | None = None):
        if not spans:
            raise SedonaError("a schedule without spans; allowed: one or more")
        self.spans, self.depth = spans, depth
        self.end = max(span.end for span in spans)
        count = 1 + max(span.worker for span in spans)
        with drawing(7.6, 1.35 + 0.34 * count) as figure:
            chart, queues = figure.subplots(1, 2, width_ratios=(5.0, 1.0))
            _paint_spans(chart, spans, self.end)
            chart.set_yticks(range(count), [f"block {k + 1}" for k in range(count)])
            chart.set(xlim=(0, 1.005 * self.end), ylim=(count - 0.4, -0.6), xlabel="time (s)")
            queues.set(xlim=(0, depth), ylim=(count - 0.4, -0.6), xlabel="slots in use", title="queues")
            queues.set_yticks(
                [k + 0.5 for k in range(count - 1)], [f"{k + 1} to {k + 2}" for k in range(count - 1)]
            )
            queues.set_xticks(range(depth + 1) if depth <= 4 else (0, depth))
            for axes in (chart, queues):
                axes.grid(visible=False)
                axes.tick_params(axis="y", length=0)
            present = [kind for kind in LOOKS if any(span.what == kind for span in spans)]
            patches = [
                Patch(facecolor=LOOKS[kind][0], hatch=LOOKS[kind][1], edgecolor=QUIET, linewidth=0.5, label=kind)
                for kind in present
            ]
            figure.legend(handles=patches, loc="outside upper right", ncols=len(patches))
            places = [k + 0.5 for k in range(count - 1)]
            queues.barh(places, depth, 0.42, color="white", edgecolor=FAINT, linewidth=0.8)
            self._filled = queues.barh(places, [0] * len(places), 0.42, color=LOOKS["send"][0])
            self._cursor = chart.axvline(0, color=VERMILLION, linewidth=1.6)
            self._work = [
                chart.text(0.0, k - 0.44, "", fontsize=7, color=VERMILLION, va="center", ha="left")
                for k in range(count)
            ]
        self.figure: Drawing = figure
        self._chart, self._queues = chart, queues
        self._ground, self._backgrounds = None, backgrounds or Backgrounds()

    def at(self, time: float) -> Drawing:
        """The figure with the cursor at `time` (seconds)."""
        now = moment(self.spans, time)
        self._place(now)
        return self.figure

    def frame(self, time: float) -> bytes:
        """The picture with the cursor at `time`, as PNG at the resolution of `drawing.screen_picture`."""
        self._place(moment(self.spans, time))
        canvas = self.figure.canvas
        movable = (*self._filled, self._cursor, *self._work)
        if self._ground is None:
            self.figure.set_dpi(LIVE_DPI)
            with in_style():
                self._backgrounds.arrange(self.figure)
            for artist in movable:
                artist.set_animated(True)
            canvas.draw()  # without what moves
            self._ground = canvas.copy_from_bbox(self.figure.bbox)
            for artist in movable:
                artist.set_animated(False)
        canvas.restore_region(self._ground)
        with in_style():
            for artist in movable:
                artist.axes.draw_artist(artist)
        return canvas_picture(canvas)

    def _place(self, now: Moment) -> None:
        """Cursor, words beside it, and queues."""
        self._cursor.set_xdata([now.time] * 2)
        late = now.time > 0.75 * self.end
        for text, work in zip(self._work, now.work, strict=True):
            text.set_text("waits" if work is None else f"{work[0]} {work[1]}")
            text.set_x(now.time + (-0.008 if late else 0.008) * self.end)
            text.set_ha("right" if late else "left")
        for bar, steps in zip(self._filled, now.queued, strict=True):
            bar.set_width(len(steps))


def _paint_spans(axes: Axes, spans: Sequence[Span], end: float) -> None:
    """One collection a kind of work: hundreds of single boxes would take seconds."""
    stride = max(
        1, (1 + max(span.worker for span in spans)) // 2
    )  # with many blocks, not every step has its number
    for kind, (colour, hatch) in LOOKS.items():
        some = [span for span in spans if span.what == kind]
        low, high = (0.37, 0.46) if kind == "send" else (-0.3, 0.34)
        corners = [
            [
                (s.start, s.worker + low),
                (s.end, s.worker + low),
                (s.end, s.worker + high),
                (s.start, s.worker + high),
            ]
            for s in some
        ]
        if corners:
            edge = colour if kind == "send" else "white"
            axes.add_collection(
                PolyCollection(corners, facecolor=colour, hatch=hatch, edgecolor=edge, linewidth=0.6)
            )
        for span in some:
            numbered = kind in ("forward", "backward") and span.step % stride == 0
            if numbered and span.end - span.start >= NUMBERED * end:
                ink = "white" if kind == "backward" else INK
                middle = (span.start + span.end) / 2
                axes.text(middle, span.worker + 0.02, span.step, ha="center", va="center", fontsize=7, color=ink)
