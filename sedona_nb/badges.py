"""Badges for the README: facts counted in this repository, drawn here, asked of nobody.

python -m sedona_nb.badges      # writes figures/readme/<name>.svg
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from sedona_nb import exercises
from sedona_nb.atomic import write_text
from sedona_nb.places import home

HEIGHT, LETTER, EDGE = 20, 6.6, 7  # pixels: of a badge, of a letter at size 11, around a text
LEFT, RIGHT = "#444444", "#0072B2"  # white on both: a contrast of 9.7 and 5.2


def facts(repository: Path) -> dict[str, tuple[str, str]]:
    """Name of each badge: what it counts, and how many."""
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    python = re.search(r'requires-python = "([^"]+)"', project)[1]
    notebooks = [path.name for path in (repository / "notebooks").glob("*.ipynb")]
    lessons = sum(name.startswith("0") for name in notebooks)
    return {
        "python": ("python", f"{python.removeprefix('>=')} or newer"),
        "notebooks": ("notebooks", f"{lessons} lessons, {len(notebooks) - lessons} reproductions"),
        "exercises": ("exercises", f"{len(exercises.names())} that answer back"),
    }


def draw(left: str, right: str) -> str:
    """A badge as SVG: dark on the left, blue on the right, the same letters wherever it is shown."""
    widths = [round(LETTER * len(text) + 2 * EDGE) for text in (left, right)]
    middles = [widths[0] / 2, widths[0] + widths[1] / 2]
    texts = "".join(
        f'<text x="{x:g}" y="14" textLength="{LETTER * len(text):g}">{escape(text)}</text>'
        for x, text in zip(middles, (left, right), strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sum(widths)}" height="{HEIGHT}" role="img">'
        f"<title>{escape(left)}: {escape(right)}</title>"
        f'<rect width="{sum(widths)}" height="{HEIGHT}" rx="3" fill="{RIGHT}"/>'
        f'<path d="M3 0h{widths[0] - 3}v{HEIGHT}H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="{LEFT}"/>'
        f'<g fill="#ffffff" text-anchor="middle" font-family="DejaVu Sans,Verdana,sans-serif" font-size="11">'
        f"{texts}</g></svg>\n"
    )


def main() -> None:
    """Write all badges."""
    for name, (left, right) in facts(home()).items():
        write_text(home() / "figures" / "readme" / f"{name}.svg", draw(left, right))


if __name__ == "__main__":
    main()
