"""The static site: complete, whole within itself, the same as the notebooks, and refused where it would not be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag  # comes with the theme

from sedona_nb import website_pages

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb")) + sorted(
    (REPOSITORY / "notebooks" / "solutions").glob("*.ipynb")
)
PAGES = [path.relative_to(REPOSITORY).with_suffix("").as_posix() for path in NOTEBOOKS]
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
every_page = pytest.mark.parametrize("page", PAGES)
slow = pytest.mark.slow


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, with hashes of strings of its own: order must not come from them."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "random"}
    words = [sys.executable, "-m", "sedona_nb.website", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "site"
    done = command("--output", folder)
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{folder / 'index.html'}: ")
    assert f"python -m http.server --directory {folder}" in last
    assert [path.name for path in folder.parent.iterdir()] == ["site"]  # what it was made from is gone
    return folder


@pytest.fixture(scope="module")
def soups(site: Path) -> dict[str, BeautifulSoup]:
    """Every page, parsed, by its path without suffix."""
    return {
        path.relative_to(site).with_suffix("").as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # parts of the theme
    }


def article(soup: BeautifulSoup) -> Tag:
    return soup.select_one("article.bd-article")


def cells_of(page: str, kind: str) -> list[dict[str, Any]]:
    cells = json.loads((REPOSITORY / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def unescaped(markdown: str) -> str:
    """A bar in a row of a table is written with a backslash, which is not part of the formula."""
    return "\n".join(line.replace(r"\|", "|") if line.startswith("|") else line for line in markdown.splitlines())


def squeezed(text: str) -> str:
    return " ".join(text.split())


@slow
def test_every_notebook_has_its_page_and_its_place_in_the_sidebar(soups: dict[str, BeautifulSoup]) -> None:
    assert set(soups) == {*PAGES, "index", "figures", "search"}
    sidebar = soups["index"].select_one("nav.bd-links")
    assert [part.get_text() for part in sidebar.select("p.caption")] == ["Lessons", "Reproductions"]
    listed = [link["href"].removesuffix(".html") for link in sidebar.select("a.reference.internal")]
    assert Counter(listed) == Counter([*PAGES, "figures", "#"])
    for page in PAGES:
        solutions = [link for link in sidebar.select(f'a[href="{page}.html"]') if link.get_text() == "Solutions"]
        assert len(solutions) == ("/solutions/" in page), page


@slow
@every_page
def test_code_and_printed_outputs_are_those_of_the_notebook(page: str, soups: dict[str, BeautifulSoup]) -> None:
    shown = article(soups[page])
    sources = [nbformat.v4.new_code_cell("".join(cell["source"])).source for cell in cells_of(page, "code")]
    assert [one.get_text().rstrip("\n") for one in shown.select("div.cell_input pre")] == sources
    assert 'profile: str = "smoke"' in sources[0] or "/solutions/" in page  # the parameters are visible
    pictures = 0
    outputs = iter(shown.select("div.cell_output"))
    for cell in cells_of(page, "code"):
        box = next(outputs) if cell["outputs"] else None
        for output in cell["outputs"]:
            data = output.get("data", {})
            pictures += "image/png" in data
            if "text/html" in data:
                wanted = BeautifulSoup("".join(data["text/html"]), "html.parser").get_text()
            else:
                wanted = "" if "image/png" in data else "".join(output.get("text", data.get("text/plain", "")))
            assert squeezed(wanted) in squeezed(box.get_text())
    assert len(shown.select("div.cell_output img")) == pictures


@slow
@every_page
def test_every_formula_arrives_as_one(page: str, soups: dict[str, BeautifulSoup]) -> None:
    prose = [CODE.sub("", unescaped("".join(cell["source"]))) for cell in cells_of(page, "markdown")]
    written = [squeezed(block or inline) for text in prose for block, inline in FORMULA.findall(text)]
    shown = BeautifulSoup(str(article(soups[page])), "html.parser")
    arrived = [squeezed(one.get_text().strip()[2:-2]) for one in shown.select(".math")]
    assert arrived == written
    scripts = [script.get("src", "") for script in soups[page].select("script")]
    assert any(src.partition("?")[0].endswith("_static/tex-svg.js") for src in scripts) == bool(written)
    for one in shown.select(".math, pre, code, script, style"):
        one.decompose()
    assert re.findall(r".{0,20}(?:\$|\\[a-zA-Z]+).{0,20}", shown.get_text()) == []


@slow
def test_what_draws_formulas_lies_in_the_site(site: Path) -> None:
    script = (site / "_static" / "tex-svg.js").read_text(encoding="utf-8")
    assert len(script) > 1_000_000
    assert "MathJax" in script


@slow
def test_every_internal_link_leads_somewhere(site: Path, soups: dict[str, BeautifulSoup]) -> None:
    anchors = {page: {tag["id"] for tag in soup.select("[id]")} for page, soup in soups.items()}
    seen = Counter()
    for page, soup in soups.items():
        for tag in soup.select("a[href], link[href], img[src], script[src]"):
            parts = urlsplit(tag.get("href") or tag.get("src"))
            if parts.scheme or parts.netloc:
                continue
            target = (site / page).parent / unquote(parts.path) if parts.path else site / f"{page}.html"
            assert target.resolve().is_file(), f"{page}: {tag}"
            name = target.resolve().relative_to(site).with_suffix("").as_posix()
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in anchors[name], f"{page}: {tag}"
            seen[tag.name] += 1
    assert seen["a"] > 10 * len(PAGES)


@slow
@every_page
def test_links_between_notebooks_are_links_between_pages(page: str, soups: dict[str, BeautifulSoup]) -> None:
    texts = ["".join(cell["source"]) for cell in cells_of(page, "markdown")]
    written = [target for text in texts for target in re.findall(r"\]\(([^)\s]+)\.ipynb\)", text)]
    hrefs = [link["href"] for link in article(soups[page]).select("a[href]")]
    assert Counter(f"{target}.html" for target in written) - Counter(hrefs) == Counter()
    assert not [href for href in hrefs if href.endswith((".ipynb", ".md"))]


@slow
def test_pages_load_nothing_from_elsewhere(site: Path, soups: dict[str, BeautifulSoup]) -> None:
    loaded = [tag.get(LOADING[tag.name]) for soup in soups.values() for tag in soup.find_all(list(LOADING))]
    elsewhere = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
    assert [address for address in loaded if address and elsewhere.match(address)] == []
    assert len([address for address in loaded if address]) > 10 * len(PAGES)
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    styles += [style.get_text() for soup in soups.values() for style in soup.find_all("style")]
    used = [address for text in styles for address in re.findall(r"(?:@import|url\()\s*[\"']?([^\"')]+)", text)]
    assert [address for address in used if elsewhere.match(address)] == []
    inline = [script.get_text() for soup in soups.values() for script in soup.select("script:not([src])")]
    assert [text for text in inline if re.search(r"https?://", text)] == []


@slow
def test_the_search_index_finds_words_where_they_are(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    sources = {page: (REPOSITORY / f"{page}.ipynb").read_text(encoding="utf-8").lower() for page in PAGES}
    sources["index"] = (REPOSITORY / "README.md").read_text(encoding="utf-8").lower()
    words = {page: set(re.findall(r"[a-z]{6,}", source)) for page, source in sources.items()}
    times = Counter(word for found in words.values() for word in found)
    found_in_one = set()
    for page, mine in words.items():
        for word in mine & index["terms"].keys():  # other words are kept by their stem
            where = index["terms"][word]
            pages = [index["docnames"][number] for number in ([where] if isinstance(where, int) else where)]
            if times[word] == 1 and pages == [page]:
                found_in_one.add(page)
    lessons = {page for page in PAGES if re.match(r"notebooks/0[1-9]", page)}
    assert lessons
    assert lessons <= found_in_one


@slow
def test_pictures_have_words(soups: dict[str, BeautifulSoup]) -> None:
    pictures = [(page, one) for page, soup in soups.items() for one in soup.select("article img")]
    kept = list((REPOSITORY / "figures").glob("*.png"))
    assert len(pictures) > len(kept)
    for page, one in pictures:
        words = one.get("alt", "")
        assert len(words.split()) >= 4, f"{page}: {one}"
        assert not re.search(r"\.png|[*`$\\]", words), f"{page}: {one}"


@slow
def test_the_page_of_figures_has_them_all(soups: dict[str, BeautifulSoup], site: Path) -> None:
    names = sorted(path.stem for path in (REPOSITORY / "figures").glob("*.png"))
    shown = article(soups["figures"])
    assert sorted(Path(one["src"]).stem for one in shown.select("img")) == names
    downloads = sorted(Path(link["href"]).name for link in shown.select("a.download"))
    assert downloads == sorted(f"{name}.{kind}" for name in names for kind in ("csv", "svg"))
    drawn_in = [link["href"] for link in shown.select('a[href^="notebooks/"]')]
    assert len(drawn_in) == len(names)  # for each one, the notebook that draws it is known


@slow
@every_page
def test_the_notebook_itself_can_be_downloaded(page: str, site: Path, soups: dict[str, BeautifulSoup]) -> None:
    given = site / "_sources" / f"{page}.ipynb"
    assert given.read_bytes() == (REPOSITORY / f"{page}.ipynb").read_bytes()
    link = soups[page].select_one("a.btn-download-source-button")
    assert ((site / page).parent / link["href"]).resolve() == given


@slow
@every_page
def test_code_can_be_copied_and_the_theme_switched(page: str, site: Path, soups: dict[str, BeautifulSoup]) -> None:
    names = [Path(script.get("src", "").partition("?")[0]).name for script in soups[page].select("script")]
    assert {"clipboard.min.js", "copybutton.js"} <= set(names)
    assert soups[page].select(".theme-switch-button")
    assert soups[page].body["data-default-mode"] == "auto"  # the browser's choice until the reader's own


@slow
def test_building_again_gives_the_same_bytes(site: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again"
    done = command("--output", again)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = ({p.relative_to(root): p for p in root.rglob("*") if p.is_file()} for root in (site, again))
    assert set(first) == set(second)
    differing = {str(name) for name in first if first[name].read_bytes() != second[name].read_bytes()}
    assert differing == set()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of two real notebooks, and a README; what they link to is there as pages with only a title."""
    folder = tmp_path / "repository"
    (folder / "sedona_nb").mkdir(parents=True)
    (folder / "sedona_nb" / "heads.py").write_text("")
    (folder / "README.md").write_text("# A small suite\n\n## The map\n\n[three](notebooks/03_relaxation.ipynb)\n")
    for name in ("03_relaxation", "solutions/03_relaxation"):
        source = REPOSITORY / "notebooks" / f"{name}.ipynb"
        copy = folder / "notebooks" / f"{name}.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
        for target in re.findall(r"\]\(([^)\s]+\.ipynb)\)", source.read_text(encoding="utf-8")):
            write(copy.parent / target, f"# {Path(target).stem}: no more")
    return folder


def write(path: Path, *texts: str) -> None:
    if not path.exists():
        cells = [nbformat.v4.new_markdown_cell(text, id=f"c-{k}") for k, text in enumerate(texts)]
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def append_to(notebook: Path, text: str) -> int:
    """Add `text` as the last line of the last cell of Markdown; returns the cell's number, from 1."""
    content = nbformat.read(notebook, as_version=4)
    number = max(k for k, cell in enumerate(content.cells, 1) if cell.cell_type == "markdown")
    content.cells[number - 1].source += f"\n\n{text}"
    nbformat.write(content, notebook)
    return number


@slow
def test_links_that_leave_the_pages(small: Path, tmp_path: Path) -> None:
    lesson = small / "notebooks" / "03_relaxation.ipynb"
    append_to(
        lesson, "[Front](../README.md) [map](../README.md#the-map) [heads](../sedona_nb/heads.py) [all](../)"
    )
    append_to(lesson, "[sums](solutions/03_relaxation.ipynb#1-predict) [far](https://example.org/)")
    done = command("--repository", small, "--output", tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "site" / "notebooks" / "03_relaxation.html"
    shown = article(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser"))
    hrefs = {link.get_text(): link["href"] for link in shown.select("a[href]")}
    assert hrefs["Front"] == "../index.html"
    assert hrefs["map"] == "../index.html#the-map"
    assert hrefs["sums"] == "solutions/03_relaxation.html#predict"
    assert hrefs["far"] == "https://example.org/"
    assert "heads all" in squeezed(shown.get_text())
    assert not {"heads", "all"} & set(hrefs)
    assert not (tmp_path / "site" / "figures.html").exists()  # there are no figures here


@slow
def test_a_broken_link_is_one_line_and_leaves_the_older_site(small: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "searchindex.js").write_text("an older site")
    cell = append_to(small / "notebooks" / "03_relaxation.ipynb", "see [Table 2](11_tabel02.ipynb)")
    done = command("--repository", small, "--output", site)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"no site: notebooks/03_relaxation.ipynb, cell {cell}, line ")
    assert "11_tabel02.ipynb" in done.stderr
    assert "more" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path != small] == ["site"]
    assert (site / "searchindex.js").read_text() == "an older site"


@slow
def test_every_mistake_is_named_with_its_place(small: Path, tmp_path: Path) -> None:
    mistakes = {
        "the-mop": "see [the map](../README.md#the-mop)",
        "haeds.py": "see [heads](../sedona_nb/haeds.py)",
        "nowhere": "see [sums](solutions/03_relaxation.ipynb#nowhere)",
        "no_such_figure.png": "![a plot](no_such_figure.png)",
        "no-such-language": "```no-such-language\nx = 1\n```",
    }
    for text in mistakes.values():
        cell = append_to(small / "notebooks" / "03_relaxation.ipynb", text)
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom sedona_nb import website, website_sphinx\n"
        "here, work = map(Path, sys.argv[1:])\nnames = website._write_source(here, work / 'source')\n"
        "found = website_sphinx.run(here, *(work / name for name in ('source', 'pages', 'trees')), names)\n"
        "print(json.dumps(found))"
    )
    words = [sys.executable, "-c", code, str(small), str(tmp_path / "work")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    found = json.loads(done.stdout)
    assert len(found) == len(mistakes)
    for name in mistakes:
        (line,) = (line for line in found if name in line)
        assert line.startswith(f"notebooks/03_relaxation.ipynb, cell {cell}, line "), line


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "site"):
        done = command("--output", output)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert str(tmp_path / "file") in done.stderr


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = command("--output", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "holds something that is no site" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no notebooks in "),
        ("{", "00_broken.ipynb is no notebook"),
        ('{"cells": []}', "notebooks/00_broken.ipynb: a page needs a title"),
    ],
)
def test_a_repository_without_good_notebooks_is_one_line(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    (tmp_path / "notebooks").mkdir()
    if content is not None:
        (tmp_path / "notebooks" / "00_broken.ipynb").write_text(content)
    done = command("--repository", tmp_path, "--output", tmp_path / "site")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert complaint in done.stderr


def test_an_unknown_argument_is_one_line_and_exit_code_2() -> None:
    done = command("--outptu", "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("code", "prose", "words"),
    [
        ("sd.viz.gantt(spans)", "## A title\n\nProse.", "A row a worker"),
        (
            "figure = sd.viz.unknown(x)\nsd.viz.save(figure, 'a')",
            "See [this](a.ipynb), *now*. And that.",
            "See this, now",
        ),
        (
            'with sd.viz.drawing(1, 2, note="Crops of batch 0.") as figure:\n    pass',
            "Prose.",
            "Crops of batch 0.",
        ),
        ("figure", "Before.\n\n## Title\n\nHere are\n`two`. And more.", "Here are two"),
        ("figure", "## Only a title", "Figure, see the text above it"),
    ],
)
def test_words_for_a_picture(code: str, prose: str, words: str) -> None:
    assert website_pages.alternative(code, prose, {"gantt": "A row a worker", "save": "Writes"}) == words


def test_sentences_are_what_a_drawing_shows(tmp_path: Path) -> None:
    module = """\
def bars(x):
    '''Figure 4: learned `alpha` by
    layer; in red. Not this.'''

def explore(x):
    '''A slider over K: the decoupling.'''

def _hidden(x):
    '''No.'''
"""
    (tmp_path / "charts.py").write_text(module)
    sentences = website_pages.drawing_sentences(tmp_path)
    assert sentences == {"bars": "Learned alpha by layer; in red", "explore": "The decoupling"}


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("tables10_13_decouplings", "Tables 10, 13: decouplings"),
        ("figure05_resnet152", "Figure 5: resnet152"),
        ("search_history_cifar10-jpeg", "Search history cifar10-jpeg"),
    ],
)
def test_figures_have_readable_headings(name: str, heading: str) -> None:
    assert website_pages.readable(name) == heading


def test_solutions_without_a_lesson_stay_reachable() -> None:
    titles = {
        "notebooks/01_a": "01 · A: b",
        "notebooks/solutions/01_a": "S",
        "notebooks/solutions/12_b": "12 · S: t",
    }
    text = website_pages.contents(titles, has_figures=False)
    assert "\n01 · A </notebooks/01_a>\n" in text
    assert "solutions/01_a" not in text
    assert "\n12 · S: t </notebooks/solutions/12_b>\n" in text
