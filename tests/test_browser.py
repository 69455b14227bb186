"""The lessons in a real JupyterLab in a real browser: every cell, every slider, both themes, an exercise.

Screenshots stay in build/screenshots/. Without Chromium all of this is skipped.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import lab
import nbformat
import psutil
import pytest
from chromium import Chromium
from lab import REPOSITORY, Notebook

SHOTS = REPOSITORY / "build" / "screenshots"
THEMES = ("JupyterLab Light", "JupyterLab Dark")
# WCAG 2.1, level AA. Code has JupyterLab's own colours: braces in f-strings are the faintest, 2.7 in light.
READABLE, READABLE_CODE = 4.5, 2.6
WITH_SLIDERS = {"02_search_space", "05_discretization"}  # at least


def has_widgets(path: Path) -> bool:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return any(cell["cell_type"] == "code" and ".widgets." in "".join(cell["source"]) for cell in cells)


EVERY = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [path.stem for path in EVERY if path.stem.startswith("0") or has_widgets(path)]

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="session")
def program() -> str:
    found = chromium.find()
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lab")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # a copy of the repository and a profile of Chromium


@pytest.fixture(scope="session")
def browser(program: str, folder: Path) -> Iterator[Chromium]:
    """Chromium, JupyterLab open in it."""
    with lab.server(folder / "lab") as address, Chromium(program, folder / "profile") as opened:
        lab.enter(opened, address)
        yield opened


@pytest.fixture(scope="session")
def started(browser: Chromium) -> Callable[[str], Notebook]:
    """A notebook by name, its cells running or already done."""
    notebooks: dict[str, Notebook] = {}

    def start(name: str) -> Notebook:
        if name not in notebooks:
            notebooks[name] = Notebook(browser, f"notebooks/{name}.ipynb")
            notebooks[name].start()
        return notebooks[name]

    return start


@pytest.fixture(scope="module", params=NOTEBOOKS)
def lesson(
    request: pytest.FixtureRequest, started: Callable[[str], Notebook]
) -> Iterator[tuple[Notebook, list[int]]]:
    """A notebook after all of its cells ran, and the cells that did not; the next one runs beside it."""
    notebook = started(request.param)
    chosen = [item.callspec.params.get("lesson") for item in request.session.items if hasattr(item, "callspec")]
    later = list(dict.fromkeys(filter(None, chosen)))
    later = later[later.index(request.param) + 1 :]
    if later:
        started(later[0])
    not_run = notebook.finish()
    notebook.screenshot(SHOTS, "light")
    yield notebook, not_run
    notebook.close()


def test_every_cell_runs_without_an_error(lesson: tuple[Notebook, list[int]]) -> None:
    notebook, not_run = lesson
    assert notebook.errors() == []
    assert not_run == []
    assert notebook.browser.uncaught() == []


def test_every_control_moves_its_picture_and_back(lesson: tuple[Notebook, list[int]]) -> None:
    notebook, _ = lesson
    controls = notebook.controls()
    if notebook.name in WITH_SLIDERS:
        assert "slider" in {control.kind for control in controls}
    for control in controls:
        moved = control.move()
        notebook.screenshot(SHOTS, f"{control.cell:02}-{control.label}", control.cell)
        control.move_back(moved)
        assert notebook.errors() == [], str(control)
    assert notebook.browser.uncaught() == []


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_figures_can_be_read(lesson: tuple[Notebook, list[int]], theme: str) -> None:
    notebook, _ = lesson
    notebook.set_theme(theme)
    try:
        contrasts = notebook.ask("contrasts")
        if theme == THEMES[1]:
            notebook.screenshot(SHOTS, "dark")
    finally:
        notebook.set_theme(THEMES[0])
    assert {"markdown", "code", "print"} <= {kind for kind, *_ in contrasts}
    faint = [one for one in contrasts if one[1] < (READABLE_CODE if one[0] == "code" else READABLE)]
    assert faint == []
    assert notebook.ask("seeThrough") == []


def write_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


WHERE = """
from sedona_nb import places, progress
print(places.home(), progress.headless())
"""
MEANT_TO_WORK = """
import io
import ipywidgets
from IPython.display import Image, display
from PIL import Image as Picture

def picture(shade, alpha=255):
    data = io.BytesIO()
    Picture.new("RGBA", (40, 40), (shade, shade, shade, alpha)).save(data, "png")
    return data.getvalue()

def panel(control, value_to_picture):
    image = ipywidgets.Image(value=value_to_picture(control.value), format="png")
    control.observe(lambda change: setattr(image, "value", value_to_picture(change["new"])), "value")
    return ipywidgets.VBox([control, image])

panel(ipywidgets.IntSlider(3, 0, 3, continuous_update=False), lambda value: picture(20 * value))
"""
DEAD_SLIDER = "panel(ipywidgets.IntSlider(1, 0, 3), lambda value: picture(99))"
NO_WAY_BACK = """
calls = []
panel(ipywidgets.IntSlider(1, 0, 3), lambda value: calls.append(value) or picture(20 * len(calls)))
"""
LISTED = "panel(ipywidgets.Dropdown(options=[7, 70, 200], value=70), picture)"
TICKED = "panel(ipywidgets.Checkbox(), lambda value: picture(200 * value))"
CALLBACK_RAISES = """
@ipywidgets.interact(n=ipywidgets.IntSlider(1, 0, 3))
def show(n):
    display(Image(picture(20 * n)))
    if n == 2:
        raise ValueError("no picture for two")
"""
UNSEEN = "panel(ipywidgets.IntSlider(1, 0, 3), {1: picture(20)}.__getitem__)"  # JupyterLab does not show the error
TRANSPARENT = "Image(picture(0, 0))"
FAINT = (
    "from IPython.display import HTML\nHTML('<table><tr><td style=\"color:#bbb\">hard to see</td></tr></table>')"
)
RAISES = "print('so far')\nraise KeyError('here')"
SOURCES = (
    *(WHERE, MEANT_TO_WORK, DEAD_SLIDER, NO_WAY_BACK, LISTED, TICKED, CALLBACK_RAISES, UNSEEN),
    *(TRANSPARENT, FAINT, RAISES, "print('never')"),
)


@pytest.fixture(scope="module")
def faulty(browser: Chromium, folder: Path) -> Iterator[Notebook]:
    """A notebook with every fault that is looked for, and with controls that have none."""
    write_notebook(folder / "lab" / "repository" / "notebooks" / "faulty.ipynb", *SOURCES)
    notebook = Notebook(browser, "notebooks/faulty.ipynb")
    notebook.start()
    yield notebook
    notebook.close()


def test_faults_are_seen(faulty: Notebook, folder: Path) -> None:
    assert faulty.finish() == [SOURCES.index("print('never')")]
    assert faulty.errors() == [(SOURCES.index(RAISES), "KeyError: 'here'")]
    assert faulty.ask("printed", SOURCES.index(WHERE)).split() == [str(folder / "lab" / "repository"), "False"]
    assert faulty.ask("seeThrough") == [SOURCES.index(TRANSPARENT)]
    table = next(one for one in faulty.ask("contrasts") if one[0] == "table")
    assert table[2:] == [SOURCES.index(FAINT), "hard to see"]
    assert table[1] < READABLE


def test_controls_that_do_not_do_what_they_should_are_seen(faulty: Notebook) -> None:
    faulty.finish()
    controls = {control.cell: control for control in faulty.controls()}
    assert [controls[cell].kind for cell in sorted(controls)] == ["slider"] * 3 + ["list", "tick"] + ["slider"] * 2
    for source in (MEANT_TO_WORK, LISTED, TICKED):  # the first slider stands at its end
        control = controls[SOURCES.index(source)]
        control.move_back(control.move())
        control.move_back(control.move())
    with pytest.raises(TimeoutError, match="another picture after slider"):
        controls[SOURCES.index(DEAD_SLIDER)].move(seconds=3)
    no_way_back = controls[SOURCES.index(NO_WAY_BACK)]
    moved = no_way_back.move()
    with pytest.raises(TimeoutError, match="the first picture after slider"):
        no_way_back.move_back(moved, seconds=3)
    for source, error in ((CALLBACK_RAISES, "ValueError: no picture for two"), (UNSEEN, "KeyError: 2")):
        controls[SOURCES.index(source)].press("ArrowRight")
        chromium.wait_until(lambda e=error: [-1, e] in map(list, faulty.errors()), error, lab.DRAW)


def test_an_exercise_answers_a_wrong_and_a_right_answer(browser: Chromium) -> None:
    cells = json.loads((REPOSITORY / "notebooks" / "05_discretization.ipynb").read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    imports = next(cell for cell, source in enumerate(sources) if "import sedona_nb as sd" in source)
    check = next(cell for cell, source in enumerate(sources) if 'check("05.1"' in source)
    notebook = Notebook(browser, "notebooks/05_discretization.ipynb")
    try:
        notebook.ask("show")
        for cell in range(imports + 1):
            if cells[cell]["cell_type"] == "code":
                notebook.run_cell(cell, sources[cell])
        wrong = notebook.run_cell(check, 'answer = {"ranking"}\nsd.exercises.check("05.1", answer)')
        assert wrong.startswith("Exercise 05.1: not yet.")
        right = notebook.run_cell(check, 'answer = {"shares"}\nsd.exercises.check("05.1", answer)')
        assert right.startswith("Exercise 05.1: right.")
        notebook.screenshot(SHOTS, "exercise", check)
        assert notebook.errors() == []
    finally:
        notebook.close()


LIVE = """
import sedona_nb as sd
cfg = sd.profiles.load("smoke", data="digits")
spec = sd.methods.search_spec(cfg, sd.data.load(cfg.data), 0)
sd.widgets.live_search(sd.places.home() / "live", spec, cfg.data)
"""


def test_a_search_goes_on_without_its_tab_and_kernel(browser: Chromium, folder: Path) -> None:
    write_notebook(folder / "lab" / "repository" / "notebooks" / "live.ipynb", LIVE)

    def opened() -> lab.Control:
        notebook = Notebook(browser, "notebooks/live.ipynb")
        notebook.start()
        assert notebook.finish() == []
        return next(control for control in notebook.controls() if control.label == "start")

    start = opened()
    assert "There is no search in this folder yet." in start.look()["words"]
    start.press(" ")
    chromium.wait_until(lambda: "Pretraining" in start.look()["words"], "the search to begin", lab.START)
    assert "Done" not in start.look()["words"]
    start.notebook.close()  # the kernel that started it is gone, too
    seen = opened()
    chromium.wait_until(lambda: "Done: pretraining 24 of 24" in seen.look()["words"], "its end", lab.RUN)
    seen.notebook.screenshot(SHOTS, "found again", seen.cell)
    assert seen.notebook.errors() == []
    seen.notebook.close()


KEPT_OPEN = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import chromium, lab
folder = Path(sys.argv[2])
with lab.server(folder / "lab") as address, chromium.Chromium(sys.argv[3], folder / "profile") as browser:
    lab.enter(browser, address)
    lab.Notebook(browser, "notebooks/03_relaxation.ipynb")  # with a kernel
    print("open", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_runs_on_after_the_tests_ended(program: str, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", KEPT_OPEN, Path(__file__).parent, tmp_path, program]
    # A shell starts its background jobs, this test perhaps among them, with SIGINT ignored; a terminal does not.
    asleep = subprocess.Popen(
        list(map(str, command)),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with asleep:
        try:
            assert asleep.stdout.readline() == "open\n"
            family = psutil.Process(asleep.pid).children(recursive=True)
            names = " ".join(" ".join(process.cmdline()) for process in family)
        finally:
            asleep.send_signal(number)
        assert "jupyterlab" in names
        assert "ipykernel_launcher" in names
        assert "--type=renderer" in names
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
