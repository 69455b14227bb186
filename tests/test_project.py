"""What the repository promises as a whole: dependencies, cheap imports, tended notebooks, a map that is true."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path for path in (REPOSITORY / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
LESSONS = [path for path in NOTEBOOKS if path.parent.name != "solutions"]
CONDA_NAMES = {"torch": "pytorch"}  # PyPI name: conda-forge name, where they differ
MODULES = sorted(path.stem for path in (REPOSITORY / "sedona_nb").glob("*.py") if path.stem != "__init__")
# These may load pandas and matplotlib; what computes may not.
SHOWING = (
    *("backgrounds", "backgrounds", "captions", "charts", "comparisons", "cut_explorers", "diagrams"),
    *("drawing", "errors_by_k", "explorer_charts", "inference_charts", "live_panel", "message_charts"),
    *("mixture_charts", "model_explorers", "overview", "panels", "paper", "playback_charts"),
    *(
        "record_explorers",
        "record_frames",
        "result_charts",
        "result_tables",
        "search_charts",
        "speed_charts",
        "tables",
    ),
    *("verdicts", "views", "viz", "widgets"),
)
PICTURES = ("image/png", "image/jpeg")
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:home|root|Users|tmp|work|mnt|opt|private|var)/\w|file:/{2}")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY / "notebooks").with_suffix(""))


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)


def project() -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10, where pytest brings tomli
        import tomli as tomllib
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def texts(value: Any) -> list[str]:
    """Every text inside nested lists and dictionaries, pictures made of bytes left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    if isinstance(value, dict):
        return texts([item for key, item in value.items() if key not in PICTURES])
    return []


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_environment_yml_equals_pyproject() -> None:
    declared = project()
    wanted = {}
    for line in [*declared["dependencies"], *declared["optional-dependencies"]["dev"]]:
        need = Requirement(line)
        wanted[CONDA_NAMES.get(need.name, need.name)] = str(need.specifier)
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    from_pip = next(item["pip"] for item in environment if isinstance(item, dict))
    from_conda = [item for item in environment if isinstance(item, str)]
    listed = [Requirement(line) for line in [*from_conda, *from_pip] if line != "-e ."]
    found = {need.name: str(need.specifier) for need in listed}
    assert len(found) == len(listed), "a package is listed twice"
    assert found.pop("pip") == ""
    found.pop("python")  # the next test
    assert found == wanted


def test_environment_yml_has_a_python_the_package_allows() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    listed = next(item for item in environment if isinstance(item, str) and item.startswith("python"))
    assert project()["requires-python"] in listed


@pytest.mark.alone
def test_importing_the_package_costs_next_to_nothing() -> None:
    seconds, loaded = python(
        "import sys, time, torch, torchvision\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter()\n"
        "import sedona_nb\n"
        "seconds = time.perf_counter() - start\n"
        "print(seconds, sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    ).split(maxsplit=1)
    assert float(seconds) < 0.3
    assert not {"pandas", "matplotlib", "sklearn"} & set(ast.literal_eval(loaded))


def test_the_machinery_does_without_plotting_and_tables() -> None:
    computing = [name for name in MODULES if name not in SHOWING]
    loaded = python(
        f"import sys, importlib\nfor name in {computing}: importlib.import_module('sedona_nb.' + name)\n"
        "print([name for name in ('pandas', 'matplotlib', 'seaborn', 'sklearn') if name in sys.modules])"
    )
    assert ast.literal_eval(loaded) == []


def test_the_first_lessons_exist() -> None:
    assert {path.name[:2] for path in LESSONS} >= {"00", "01", "02", "03", "04", "05", "09"}


@every_lesson
def test_parameters_are_literals_and_the_profile_is_smoke(path: Path) -> None:
    tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    values = {}
    for statement in ast.parse("".join(tagged[0]["source"])).body:
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        values[target.id] = ast.literal_eval(statement.value)  # fails on anything derived
    assert values["profile"] == "smoke"  # nbval cannot inject parameters: it runs the defaults


@every_notebook
def test_outputs_are_those_of_one_clean_run(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), (
        "restart and run all cells"
    )
    for cell in cells:
        allowed = "raises-exception" in cell["metadata"].get("tags", [])
        errors = [out for out in cell["outputs"] if out["output_type"] == "error"]
        assert not errors or allowed, "".join(cell["source"])


@every_notebook
def test_notebooks_are_small_and_their_cells_short(path: Path) -> None:
    assert path.stat().st_size < 300_000
    for cell in code_cells(path):
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= 40, lines[0]


@every_notebook
def test_notebooks_run_anywhere(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for text in texts([cell["outputs"] for cell in code_cells(path)]):
        found = MACHINE_PATH.search(text)
        assert found is None, text[max(found.start() - 40, 0) : found.end() + 40]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("saved /" + "home/ada/run.json", True),
        ("'/" + "tmp/x", True),
        ("see https://example.org/home/page", False),
        ("figures/03.svg, 1/tmp", False),
    ],
)
def test_what_counts_as_a_machine_path(text: str, is_one: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is is_one


def test_the_readme_names_every_module() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in MODULES if f"{name}.py" not in readme] == []


@pytest.mark.parametrize("script", ["run_all.sh", ".ci/run"])
def test_scripts_parse_and_can_be_run(script: str) -> None:
    path = REPOSITORY / script
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o100, f"chmod +x {script}"


@pytest.mark.parametrize("words", [["tset"], ["test", "quick"]])
def test_an_unknown_word_is_one_line_and_exit_code_2(words: list[str]) -> None:
    done = subprocess.run(["bash", REPOSITORY / "run_all.sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "allowed: " in done.stderr


def test_the_help_explains_every_word() -> None:
    script = REPOSITORY / "run_all.sh"
    words = re.search(r'^words="(.*)"$', script.read_text(encoding="utf-8"), re.MULTILINE)[1].split(", ")
    done = subprocess.run(["bash", script, "help"], capture_output=True, text=True, check=True)
    explained = re.findall(r"^ +\./run_all\.sh ([a-z]+(?: [a-z]+)?) ", done.stdout, re.MULTILINE)
    assert "site" in words
    assert sorted(explained) == sorted(words)
