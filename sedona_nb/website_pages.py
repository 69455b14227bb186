"""What the site shows: its parts and titles, words for its pictures, and a page of all figures.

Plain text in, plain text out: nothing here knows how pages are made of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sedona_nb.errors import SedonaError

FIGURES_PAGE = "figures"
FIRST_REPRODUCTION = "10"  # notebooks below this number are lessons
_DRAWN_BY = re.compile(r"\bsd\.(?:viz|widgets)\.(?!save\b|drawing\b)(\w+)\(")
_NOTE = re.compile(r'\bnote="([^"]+)"')
_ITS_SOURCE = re.compile(r"[^:]*\b(?:Figure|Table|[Ss]liders?)\b[^:]*: ")  # a drawing may serve other figures, too
_SAVED_AS = re.compile(r'\bsd\.viz\.save\(\s*\w+,\s*f?"([^"]+)"')


def title(notebook: Mapping[str, Any], name: str) -> str:
    """The heading that a notebook starts with.

    Raises:
        SedonaError: it starts with something else; `name` says which notebook that is.
    """
    first = notebook["cells"][0] if notebook["cells"] else {"cell_type": "none", "source": ""}
    heading = re.match(r"# +(.+)", _source(first))
    if first["cell_type"] != "markdown" or heading is None:
        raise SedonaError(f"{name}: a page needs a title: start the notebook with a cell '# NN · Title'")
    return heading[1].strip()


def contents(titles: Mapping[str, str], has_figures: bool) -> str:
    """The two parts of the sidebar as two hidden toctrees, to stand at the end of the front page.

    Args:
        titles: each notebook's title by its page, "notebooks/01_greedy_blocks" or "notebooks/solutions/...".
        has_figures: whether there is a page of figures, which ends the reproductions.
    """
    # A solution with a lesson hangs below it, see `solution_link`; one without would be reachable from nowhere.
    listed = [page for page in titles if lesson_of(page) not in titles]
    lessons = [page for page in listed if Path(page).name < FIRST_REPRODUCTION]
    reproductions = [page for page in listed if page not in lessons]
    tail = [f"Figures and their data <{FIGURES_PAGE}>"] if has_figures else []
    parts = {
        "Lessons": [f"{titles[page].partition(':')[0]} </{page}>" for page in lessons],
        "Reproductions": [f"{titles[page]} </{page}>" for page in reproductions] + tail,
    }
    return "".join(_toctree(entries, f":caption: {part}\n") for part, entries in parts.items() if entries)


def lesson_of(page: str) -> str | None:
    """The notebook whose exercises the notebook at `page` solves, None if it is no solution."""
    folder, _, name = page.rpartition("/solutions/")
    return f"{folder}/{name}" if folder else None


def solution_link(page: str, pages: Iterable[str]) -> str:
    """A hidden toctree that puts the solutions of the notebook at `page` below it; empty if it has none."""
    return "".join(_toctree([f"Solutions </{other}>"]) for other in pages if lesson_of(other) == page)


def prepared(notebook: dict[str, Any], page: str, pages: Iterable[str], sentences: Mapping[str, str]) -> dict:
    """A copy of a notebook in which every picture has an alternative text, and a lesson leads to its solutions.

    Args:
        notebook: parsed JSON.
        page: the notebook's page.
        pages: all pages.
        sentences: what `drawing_sentences` returns.
    """
    cells = []
    for cell, prose in _with_prose(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            options = {"mystnb": {"image": {"alt": alternative(_source(cell), prose, sentences)}}}
            cell = {**cell, "metadata": {**cell["metadata"], **options}}
        cells.append(cell)
    link = solution_link(page, pages)
    if link:
        cells.append({"cell_type": "markdown", "id": "solutions", "metadata": {}, "source": link})
    return {**notebook, "cells": cells}


def drawing_sentences(package: Path) -> dict[str, str]:
    """What each function draws, by name: its docstring's first sentence, less which figure or widget that is.

    The modules are read, not imported.

    Args:
        package: the folder with the modules that draw.
    """
    functions = [
        node
        for path in sorted(package.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    said = {node.name: _first_sentence(_plain(ast.get_docstring(node) or "")) for node in functions}
    kept = {name: _ITS_SOURCE.sub("", sentence, count=1) for name, sentence in said.items()}
    return {name: sentence[:1].upper() + sentence[1:] for name, sentence in kept.items()}


def alternative(code: str, prose: str, sentences: Mapping[str, str]) -> str:
    """What a picture shows, in words: the sentence of the function that drew it, its note, or the prose above it.

    Args:
        code: the cell that shows the picture.
        prose: the Markdown before the cell.
        sentences: what `drawing_sentences` returns.
    """
    for name in _DRAWN_BY.findall(code):
        if sentences.get(name):
            return sentences[name]
    note = _NOTE.search(code)
    section = re.split(r"(?m)^#+ .*$", prose)[-1]
    return note[1] if note else _first_sentence(_plain(section)) or "Figure, see the text above it"


def figures_page(names: Iterable[str], notebooks: Mapping[str, dict], sentences: Mapping[str, str]) -> str:
    """The page of all kept figures: picture, the notebook that draws it, its SVG and its numbers.

    Args:
        names: the figures, as files without suffix in figures/, each with .png, .svg and .csv.
        notebooks: parsed notebooks by page.
        sentences: what `drawing_sentences` returns.
    """
    text = (
        "# Figures and their data\n\nEvery figure that the notebooks keep, beside the numbers it is drawn from.\n"
    )
    for name in names:
        page, words = _origin(name, notebooks, sentences)
        by = f"[{title(notebooks[page], page)}]({page}.ipynb)\n· " if page else ""
        words = words.replace("[", "(").replace("]", ")")  # it stands in brackets
        text += f"\n## {readable(name)}\n\n![{words}](figures/{name}.png)\n\n"
        text += f"{by}[SVG](figures/{name}.svg) · [CSV](figures/{name}.csv)\n"
    return text


def readable(name: str) -> str:
    """A figure's file name as a heading: "tables10_13_decouplings" is "Tables 10, 13: decouplings"."""
    numbered = re.fullmatch(r"([a-z]+)([\d_]+)_(.+)", name)
    if numbered is None:
        return name.replace("_", " ").capitalize()
    kind, numbers, rest = numbered.groups()
    return f"{kind.capitalize()} {', '.join(str(int(n)) for n in numbers.split('_'))}: {rest.replace('_', ' ')}"


def _origin(name: str, notebooks: Mapping[str, dict], sentences: Mapping[str, str]) -> tuple[str, str]:
    for page, notebook in notebooks.items():
        for cell, prose in _with_prose(notebook):
            for kept in _SAVED_AS.findall(_source(cell)):
                # An f-string's {...} stands for any text.
                if re.fullmatch(".+".join(map(re.escape, re.split(r"\{[^}]*\}", kept))), name):
                    return page, alternative(_source(cell), prose, sentences)
    return "", readable(name)


def _with_prose(notebook: Mapping[str, Any]) -> Iterator[tuple[dict, str]]:
    """Each cell with the Markdown that precedes it."""
    prose = ""
    for cell in notebook["cells"]:
        yield cell, prose
        prose = _source(cell) if cell["cell_type"] == "markdown" else prose


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])  # nbformat allows a text or a list of lines


def _toctree(entries: Iterable[str], options: str = "") -> str:
    return "\n\n```{toctree}\n:hidden:\n" + options + "\n" + "\n".join(entries) + "\n```\n"


def _plain(markdown: str) -> str:
    prose = "\n".join(line for line in markdown.splitlines() if not re.match(r"\s*(\||```|\$\$)", line))
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose).translate(str.maketrans("", "", "*`$\\{}")).strip()


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:?])\s+(?=[A-Z])", paragraph)[0].rstrip(".:")
