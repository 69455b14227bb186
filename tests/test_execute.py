"""Running the notebooks: parameters, verdicts, memory, and that nothing is left running."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
from PIL import Image

from sedona_nb import profiles
from sedona_nb.errors import SedonaError
from sedona_nb.execute import PROFILES, _parse, find
from sedona_nb.notebook_process import run

PARAMETERS = 'profile: str = "smoke"  # smoke | small | paper\nseed: int = 0'
LONG = "print('asleep', flush=True)\nimport time\ntime.sleep(1000)"


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})],
    )
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def execute(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sedona_nb.execute", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five notebooks that fare differently, and one that never ends."""
    folder = tmp_path_factory.mktemp("notebooks")
    shows = "import os, sys\nprint([profile, seed, sys.executable, os.getcwd(), os.environ['SEDONA_HEADLESS']])"
    write_notebook(folder / "00_fine.ipynb", shows)
    write_notebook(folder / "01_memory.ipynb", "block = b'x' * 500_000_000\ndel block")
    write_notebook(
        folder / "02_typo.ipynb", "import sedona_nb as sd", "sd.errors.choose('vgg12', ['vgg11'], 'net')"
    )
    write_notebook(folder / "03_error.ipynb", "def f(x):\n    return 1 / x", "f(0)")
    write_notebook(folder / "04_dies.ipynb", "import os\nos._exit(1)")
    write_notebook(folder / "05_long.ipynb", LONG)
    write_notebook(folder / "solutions" / "03_error.ipynb", "1 + 1")
    return folder


@pytest.fixture(scope="module")
def session(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, Path]:
    """What a run over all but the long one printed, its exit code, and where its copies are.

    The user has a "python3" kernel of another Python, which Jupyter prefers: it must not be used.
    """
    jupyter = tmp_path_factory.mktemp("jupyter")
    spec = jupyter / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    output = tmp_path_factory.mktemp("output")
    only = [word for number in range(5) for word in ("--only", number)]
    places = ["--folder", folder, "--output", output]
    done = execute(*places, *only, "--profile", "small", "--seed", 7, JUPYTER_PATH=str(jupyter))
    assert done.stderr == ""
    return done.stdout, done.returncode, output / "small-digits"


def outputs_of(copy: Path) -> str:
    cells = nbformat.read(copy, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def test_parameters_reach_the_notebook_that_defines_them(session: tuple[str, int, Path], folder: Path) -> None:
    shown = ast.literal_eval(outputs_of(session[2] / "00_fine.ipynb"))
    # neither data nor device: the notebook defines none
    assert shown == ["small", 7, sys.executable, str(folder), "1"]
    assert "small" in (session[2] / "00_fine.log").read_text()


def test_the_notebooks_themselves_stay_as_they_are(session: tuple[str, int, Path], folder: Path) -> None:
    for path in folder.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert cells[0].source == PARAMETERS
        assert not any(cell.outputs for cell in cells)


def test_verdicts_times_and_exit_code(session: tuple[str, int, Path]) -> None:
    text, code, _ = session
    assert code == 1
    rows = [line.split() for line in text.splitlines() if line[:3] in ("00_", "01_", "02_", "03_", "04_")]
    verdicts = {row[0]: row[1] for row in rows}
    failed = dict.fromkeys(["02_typo", "03_error", "04_dies"], "FAILED")
    assert verdicts == {"00_fine": "ok", "01_memory": "ok"} | failed
    assert text.splitlines()[-1].split()[:3] == ["all", "3", "FAILED"]


def test_peak_memory_is_that_of_the_kernel(session: tuple[str, int, Path]) -> None:
    rows = [line.split() for line in session[0].splitlines() if line.startswith("01_memory")]
    assert len(rows) == 2  # as it finished, and in the summary
    assert rows[0] == rows[1]
    megabytes = int(rows[0][-2])
    assert 500 < megabytes < 650  # 500 MB and Python with a kernel


def test_reasons(session: tuple[str, int, Path]) -> None:
    text, _, copies = session
    lines = text.splitlines()

    def below(name: str) -> list[str]:
        start = next(i for i, line in enumerate(lines) if line.startswith(name)) + 1
        return [line.strip() for line in lines[start : start + 6] if line.startswith("    ")]

    typo = below("02_typo")
    assert typo[0] == "SedonaError: unknown net 'vgg12'; allowed: vgg11; did you mean 'vgg11'?"
    assert typo[1] == f"more: {copies / '02_typo.ipynb'}"
    error = below("03_error")
    assert "ZeroDivisionError: division by zero" in error
    assert len(error) == 6
    assert below("04_dies")[0] == "the kernel died (out of memory?)"
    assert "\x1b" not in text


def test_a_notebook_that_takes_too_long_is_stopped(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ipynb"
    for timeout in (6, 18, 54):  # a busy machine may need long to start the kernel
        outcome = run(folder / "05_long.ipynb", copy, {}, timeout=timeout)
        assert not outcome.ok
        assert outcome.reason == (f"stopped: not done after {timeout / 60:g} minutes",)
        assert timeout <= outcome.seconds < timeout + 30  # up to 20 of them to end in order
        assert _running(copy) == []
        if "asleep" in copy.with_suffix(".log").read_text():
            break
    assert "asleep" in outputs_of(copy)  # what ran so far is there to be read


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_runs_on_after_the_runner_ended(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    places = ["--folder", str(folder), "--output", str(tmp_path), "--only", "5"]
    command = [sys.executable, "-m", "sedona_nb.execute", *places]
    # A shell starts its background jobs, this test perhaps among them, with SIGINT ignored; a terminal does not.
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    runner = subprocess.Popen(command, **streams, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    log = tmp_path / "smoke-digits" / "05_long.log"
    _wait_until(lambda: log.exists() and "asleep" in log.read_text())
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) >= 2  # papermill and the kernel
    runner.send_signal(number)
    message = runner.communicate(timeout=40)[1]
    _, alive = psutil.wait_procs(family, timeout=40)
    assert alive == []
    if number is not signal.SIGKILL:
        assert runner.returncode == 130
        assert message == "\ninterrupted\n"


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def _running(copy: Path) -> list[psutil.Process]:
    everything = psutil.process_iter(["cmdline"])
    return [process for process in everything if str(copy) in (process.info["cmdline"] or ())]


def test_profiles_and_their_data_are_those_of_the_package() -> None:
    assert tuple(profiles.PROFILES) == PROFILES
    for name in PROFILES:
        assert _parse(["--profile", name]).data == profiles.load(name).data


def test_find(folder: Path) -> None:
    assert [path.stem for path in find(folder, ["3", "00"])] == ["00_fine", "03_error"]
    with_solutions = find(folder, ["3"], solutions=True)
    assert with_solutions == [folder / "03_error.ipynb", folder / "solutions" / "03_error.ipynb"]
    with pytest.raises(SedonaError, match="unknown notebook '42'; allowed: 00, 01, 02, 03, 04, 05"):
        find(folder, ["42"])
    with pytest.raises(SedonaError, match="no notebooks in"):
        find(folder / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "smal"], "unknown profile 'smal'; allowed: smoke, small, paper; did you mean 'small'?"),
        (["--only", "99"], "unknown notebook '99'; allowed: 00"),
        (["--only", "x"], "unknown notebook '0x'; allowed: 00"),
        (["--data", "./nowhere"], "--data: no file or folder"),
        (["--data", "nowhere.zip"], "--data: no file or folder"),
        (["--data", "cifra10"], "unknown data set 'cifra10'; allowed: digits, cifar10"),
        (["--device", "cuda:99"], "no device 'cuda:99' on this machine; it has cpu"),
        (["--timeout", "0"], "--timeout 0: minutes, more than 0"),
        (["--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, folder: Path) -> None:
    done = execute("--folder", folder, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(message)
    assert done.stdout == ""


def test_a_reader_that_leaves_is_no_trace(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sedona_nb.execute", "--folder", folder, "--output", tmp_path, "--only", "0"]
    reads, writes = os.pipe()
    runner = subprocess.Popen(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    os.close(reads)
    assert runner.communicate(timeout=60)[1] == ""
    assert runner.returncode == 1


def test_a_path_to_pictures_names_the_copies_and_is_made_absolute(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "my pictures"
    for split in ("train", "test"):
        for colour in ("black", "white"):
            (pictures / split / colour).mkdir(parents=True)
            Image.new("RGB", (32, 32), colour).save(pictures / split / colour / "0.png")
    own = tmp_path / "own"
    write_notebook(own / "00_data.ipynb", "print(data)", parameters='data: str = "digits"')
    done = execute("--folder", own, "--output", tmp_path / "out", "--data", os.path.relpath(pictures))
    assert done.returncode == 0, done.stdout + done.stderr
    assert outputs_of(tmp_path / "out" / "smoke-my_pictures" / "00_data.ipynb").strip() == str(pictures)
