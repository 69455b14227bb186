"""Sphinx at work on the site: its settings, two changes to what it reads, and what it complained about."""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from sedona_nb import website_pages
from sedona_nb.errors import SedonaError

FRONT = "index"  # the page that README.md becomes
STYLE_SHEET = "site.css"
# MathJax in one file: it fetches no fonts, so formulas also show where a page is opened as a file.
FORMULAS = "tex-svg.js"
_LINES = 10_000  # the parser of notebooks says "line 20003" for line 3 of cell 2
_MISSING = "the site needs Sphinx and more: pip install -e '.[site]', or ./run_all.sh site, which does it"


def run(repository: Path, source: Path, pages: Path, trees: Path, notebooks: Sequence[str]) -> list[str]:
    """Make the pages; returns what Sphinx complained about, a line each. A site is good if that is nothing.

    Args:
        repository: where links may lead to, too.
        source: the folder to read.
        pages: the folder to write.
        trees: a folder for what Sphinx keeps between reading and writing.
        notebooks: which pages are notebooks.

    Raises:
        SedonaError: Sphinx is missing or gave up.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
    except ImportError:
        raise SedonaError(_MISSING) from None
    said = io.StringIO()
    try:
        app = Sphinx(source, None, pages, trees, "html", settings(), status=None, warning=said, freshenv=True)
        app.connect("source-read", _prepare_notebooks(notebooks))
        app.connect("doctree-read", _mend_links(repository))
        app.build()
    except SphinxError as error:
        raise SedonaError(f"no site: {' '.join(str(error).split())}") from None
    return complaints(said.getvalue(), source)


def settings() -> dict[str, Any]:
    """What otherwise a conf.py would say. No warning is suppressed."""
    return {
        "extensions": ["myst_nb", "sphinx_copybutton"],
        "project": "SEDONA in notebooks",
        "html_title": "SEDONA in notebooks",
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {
            "home_page_in_toc": True,
            "navbar_persistent": [],  # else a second search field, above the one in the sidebar
            "show_toc_level": 2,
            "use_fullscreen_button": False,
            "footer_content_items": [],  # else "Author name not set"
        },
        "html_context": {"default_mode": "auto"},  # light or dark as the browser asks, until the reader says
        "html_static_path": ["_static"],
        "html_css_files": [STYLE_SHEET],
        "html_use_index": False,  # there are no index entries
        "highlight_language": "none",  # of fences that name none: commands, output
        "nb_execution_mode": "off",
        "nb_merge_streams": True,
        "nb_ipywidgets_js": {},  # static twins are committed; the default loads scripts of widgets from elsewhere
        "myst_enable_extensions": ["dollarmath", "amsmath"],
        "myst_heading_anchors": 4,
        "mathjax_path": FORMULAS,
        # Its menu offers what would have to be fetched. Without it, formulas keep their MathML for screen readers.
        "mathjax3_config": {"options": {"enableMenu": False}},
        "copybutton_selector": "div.highlight:not(div.cell_output *) pre",
    }


def formula_script() -> Path:
    """The file that draws formulas.

    Raises:
        SedonaError: the package that brings it is missing.
    """
    try:
        found = [file for file in files("sphinx-mathjax-offline") or () if file.name == FORMULAS]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SedonaError(_MISSING)
    return Path(found[0].locate())


def complaints(said: str, source: Path) -> list[str]:
    """Sphinx's warnings, a line each, with places as a reader of the repository knows them."""
    lines = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", said).splitlines():
        found = re.match(r"(?:(.*?)(?::(\d+))?: )?(?:WARNING|ERROR|CRITICAL): (.*?)(?: \[[\w.]+\])?$", line)
        if found is None:
            continue  # the rest of a longer message
        place, number, message = found.groups(default="")
        place = place.replace(f"{source}/", "").replace(f"{FRONT}.md", "README.md")
        if number and place.endswith(".ipynb"):
            place += f", cell {int(number) // _LINES}, line {int(number) % _LINES}"
        lines.append(f"{place}: {message}" if place else message)
    return lines


def _prepare_notebooks(notebooks: Sequence[str]) -> Callable[..., None]:
    """A handler that changes notebooks on their way into Sphinx; the file that readers download stays as it is."""
    sentences = website_pages.drawing_sentences(Path(__file__).parent)

    def prepare(app: Any, page: str, text: list[str]) -> None:
        if page in notebooks:
            text[0] = json.dumps(website_pages.prepared(json.loads(text[0]), page, notebooks, sentences))

    return prepare


def _mend_links(repository: Path) -> Callable[..., None]:
    """A handler for links that lead out of the pages: to README.md, the front page; to other files, plain text.

    Links to what is not in the repository either are left to Sphinx, which complains.
    """

    def mend(app: Any, tree: Any) -> None:
        from sphinx.addnodes import pending_xref

        here = posixpath.dirname(app.env.docname)
        for link in list(tree.findall(pending_xref)):
            if link.get("reftype") != "myst" or link.get("refdomain"):
                continue
            path, _, anchor = link["reftarget"].partition("#")
            path = posixpath.normpath(posixpath.join(here, path))
            if path == "README.md":
                link.attributes.update(refdomain="doc", reftarget=FRONT, reftargetid=anchor or None)
            elif not path.startswith("..") and (repository / path).exists():
                link.replace_self(link.children)

    return mend
