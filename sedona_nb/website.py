"""The notebooks as a static site, for readers who have no Jupyter at hand.

    python -m sedona_nb.website                  # to build/site/
    python -m sedona_nb.website --output public

Nothing is executed: pages show the outputs that are committed. Sphinx makes them, from the notebooks and README.md
as they are. Pages load nothing from elsewhere. Exit code: 0; 1 with one line on what is wrong (a broken link is),
and then an older site stays as it was; 2 for a mistake in the arguments; 130 if it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sedona_nb import website_pages, website_sphinx
from sedona_nb.errors import SedonaError

REPOSITORY = Path(__file__).resolve().parent.parent

STYLE = """\
/* Code lines are up to 115 characters long: a wide page, narrow letters. What is wider still scrolls by itself. */
.bd-main .bd-content .bd-article-container { max-width: 64rem; }
.bd-page-width { max-width: 120rem; }
.bd-sidebar-secondary { max-width: 14rem; }
.bd-article pre { font-size: 0.75rem; }
.bd-article .cell_output, .bd-article div.math { overflow-x: auto; overflow-y: hidden; }
/* Tables: labels do not break after each word, numbers stand below each other as in JupyterLab. */
.bd-article table { font-size: 0.85rem; }
.bd-article table :is(th, td) { padding: 0.3rem 0.6rem; }
.bd-article table:not(.dataframe) :is(th, td):first-child { min-width: 9rem; }
.bd-article table.dataframe :is(th, td) { text-align: right; vertical-align: top !important; }
@media (max-width: 768px) {  /* a wide table that scrolls reads better than one squeezed into columns of a word */
    .bd-article table.dataframe { width: max-content; }
    .bd-article table.dataframe td { max-width: 16rem; }
}
/* Pictures keep their proportions when a narrow window shrinks them. */
.bd-article img { height: auto !important; }
/* On a dark page they stay white, a little dimmed: the text names their colours. */
html[data-theme="dark"] .bd-content .bd-article img {
    filter: brightness(0.85) !important;
    background-color: white !important;
}
.bd-article details { margin: 1rem 0; padding: 0.5rem 1rem; border: 1px solid var(--pst-color-border); }
.bd-article summary { cursor: pointer; }
"""


def build(repository: Path, output: Path) -> Path:
    """Build the site and return the path of its front page.

    Args:
        repository: where README.md, notebooks/ and, if there are any, figures/ are; nothing in it is changed.
        output: the site's folder; an older site there is replaced when the new one is complete.

    Raises:
        SedonaError: Sphinx is missing or complains, a notebook is no page, or a folder cannot be written.
    """
    try:
        if output.exists() and not (output / "searchindex.js").is_file() and any(output.iterdir()):
            raise SedonaError(f"{output} holds something that is no site; choose a new or an empty folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            source, pages = Path(folder, "source"), Path(folder, "pages")
            names = _write_source(repository, source)
            complaints = website_sphinx.run(repository, source, pages, Path(folder, "trees"), names)
            if complaints:
                more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
                raise SedonaError(f"no site: {complaints[0]}{more}")
            for path in pages.rglob("*.map"):  # for who debugs the theme: a sixth of the site
                path.unlink()
            if output.exists():
                shutil.rmtree(output)
            pages.rename(output)
    except OSError as error:
        raise SedonaError(f"no site: {error.strerror or error}: {error.filename}") from None
    return output / f"{website_sphinx.FRONT}.html"


def _write_source(repository: Path, source: Path) -> list[str]:
    """What Sphinx reads, in a folder laid out like the repository: links hold. Returns the notebooks' pages."""
    found = [*repository.glob("notebooks/*.ipynb"), *repository.glob("notebooks/solutions/*.ipynb")]
    pages = [path.relative_to(repository).with_suffix("").as_posix() for path in sorted(found)]
    if not pages:
        raise SedonaError(f"no notebooks in {repository / 'notebooks'}")
    notebooks = {page: _read(repository / f"{page}.ipynb") for page in pages}
    titles = {page: website_pages.title(notebook, f"{page}.ipynb") for page, notebook in notebooks.items()}
    for page in pages:
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / f"{page}.ipynb", source / f"{page}.ipynb")
    kept = sorted(path.stem for path in (repository / "figures").glob("*.png"))
    if kept:
        shutil.copytree(repository / "figures", source / "figures")
        text = website_pages.figures_page(kept, notebooks, website_pages.drawing_sentences(Path(__file__).parent))
        (source / f"{website_pages.FIGURES_PAGE}.md").write_text(text, encoding="utf-8")
    front = (repository / "README.md").read_text(encoding="utf-8")
    front += website_pages.contents(titles, has_figures=bool(kept))
    (source / f"{website_sphinx.FRONT}.md").write_text(front, encoding="utf-8")
    (source / "_static").mkdir()
    (source / "_static" / website_sphinx.STYLE_SHEET).write_text(STYLE, encoding="utf-8")
    shutil.copyfile(website_sphinx.formula_script(), source / "_static" / website_sphinx.FORMULAS)
    return pages


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SedonaError(f"{path} is no notebook: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:  # one line, without the usage
            self.exit(2, f"{message} (--help lists what is allowed)\n")

    parser = Parser(prog="python -m sedona_nb.website", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build" / "site", help="the site's folder")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="where README.md and notebooks/ are")
    options = parser.parse_args(arguments)
    print("building the site from the committed notebooks (half a minute) ...", flush=True)
    try:
        front = build(options.repository.resolve(), options.output.resolve())
    except SedonaError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    print(f"{front}: open it in a browser, or serve it: python -m http.server --directory {front.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
