#!/usr/bin/env bash
# Everything from one command. Each word below first sets up what it needs: in the virtual or conda environment that
# is active, else in .venv here (uv if present, else venv and pip; 6 GB, a few minutes, once).
#
#   ./run_all.sh                  the same as small
#   ./run_all.sh smoke            every notebook at toy size, offline: 4 minutes on 2 CPU cores
#   ./run_all.sh small            real search and real training, every figure: 21 minutes on 2 CPU cores
#   ./run_all.sh paper            the protocol of the paper on CIFAR-10: GPUs, hours to days; go on by calling it again
#       --data NAME               digits, cifar10, ... or the path of a folder or zip of pictures
#       --only NN                 this notebook only; may be repeated
#       --fresh                   train again what results/ already has
#       --seed N  --device NAME  --timeout MINUTES  --solutions
#   ./run_all.sh test             lint, unit tests, lessons in a browser (if Chromium is installed), notebooks compared
#                                 with their outputs (nbval): half an hour
#   ./run_all.sh test fast        the same without the tests marked slow
#   ./run_all.sh lab              open JupyterLab
#   ./run_all.sh site             the committed notebooks as a static site in build/site/: half a minute, nothing is run
#       --output FOLDER           elsewhere
#   ./run_all.sh help             print this
#
# Executed copies and logs go to build/executed/. Exit code: 0; 1 if a notebook or a test failed; 2 for an unknown word.
# Written for bash 3.2, which macOS still has.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
words="smoke, small, paper, test, test fast, lab, site, help"

fail() { # one line, exit code
    echo "run_all.sh: $1" >&2
    exit "${2:-1}"
}

# The Python of the active environment, else nothing. A conda base environment is nobody's project: left alone.
active_python() {
    if [ -n "${VIRTUAL_ENV:-}" ]; then
        echo "$VIRTUAL_ENV/bin/python"
    elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        echo "$CONDA_PREFIX/bin/python"
    fi
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

# An empty .venv with a Python that fits.
make_venv() {
    rm -rf "$here/.venv"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python '>=3.10,<3.14' "$here/.venv"
        return
    fi
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if fits "$candidate"; then
            "$candidate" -c 'import ensurepip' 2>/dev/null ||
                fail "$candidate has no venv module (Debian, Ubuntu: apt install python3-venv)"
            "$candidate" -m venv "$here/.venv"
            return
        fi
    done
    fail "needs Python 3.10 to 3.13; python3 here is $(python3 --version 2>/dev/null || echo missing)"
}

# Whether the environment is complete: no set-up was interrupted, pyproject.toml is the one it was made for, and every
# dependency is there. An environment somebody else filled has no stamp: there the dependencies decide.
ready() {
    "$python" - "$stamp" "$here/pyproject.toml" "$1" <<'PYTHON' 2>/dev/null
import hashlib, pathlib, sys
from importlib.metadata import version
stamp, project, mode = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes(), sys.argv[3]
digest = hashlib.sha256(project).hexdigest()
if mode == "stamp":
    stamp.write_text(digest)
    sys.exit()
if stamp.exists() and stamp.read_text() != digest:
    sys.exit(1)
try:
    import tomllib
except ImportError:
    import tomli as tomllib
from packaging.requirements import Requirement
table = tomllib.loads(project.decode())["project"]
for line in [*table["dependencies"], *table["optional-dependencies"]["dev"]]:
    need = Requirement(line)
    if not need.specifier.contains(version(need.name), prereleases=True):
        sys.exit(1)
version(table["name"])
PYTHON
}

install() {
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$python" -e "$here[dev]"
    else
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
        "$python" -m pip install --quiet --disable-pip-version-check -e "$here[dev]"
    fi
}

set_up() {
    python=$(active_python)
    if [ -n "$python" ]; then
        [ -x "$python" ] || fail "the active environment has no $python; deactivate it first"
        fits "$python" || fail "needs Python 3.10 to 3.13; the active environment has $("$python" --version 2>&1)"
    else
        python=$here/.venv/bin/python
        fits "$python" || {
            echo "making .venv"
            make_venv
        }
    fi
    stamp=$("$python" -c 'import sys; print(sys.prefix)')/.sedona-nb-set-up
    if ! ready check; then
        echo "setting up ${stamp%/*} (6 GB if nothing is there yet, a few minutes) ..."
        echo unfinished >"$stamp" # what is interrupted from here on is done again next time
        install || fail "set-up failed; the next call does it again"
        ready stamp || fail "cannot write $stamp"
    fi
    PATH=$(dirname "$python"):$PATH
    # The notebooks import this checkout, even where an environment shared with another checkout is active.
    export PATH PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
}

failed=""
step() { # name, command ...: go on after a failure, so that one run shows all of them
    local name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed${failed:+, }$name"
}

run_tests() {
    trap 'exit 130' INT TERM
    step "ruff check" "$python" -m ruff check .
    step "ruff format" "$python" -m ruff format --check .
    local which="not alone and not browser" timed="alone" side_by_side unseen=""
    if [ "$1" = fast ]; then which="$which and not slow" timed="alone and not slow"; fi
    # Files side by side, two a core and one thread each: most tests wait for processes or for Python, and a thread
    # more helps none. More than four at a time want more memory than a laptop has.
    side_by_side=(-n "$("$python" -c 'import os; print(min(4, 2 * (os.cpu_count() or 1)))')" --dist loadfile)
    OMP_NUM_THREADS=1 step "unit tests" "$python" -m pytest -q "${side_by_side[@]}" -m "$which" --durations 10
    if [ "$1" = all ]; then # JupyterLab in Chromium, two kernels at a time; screenshots go to build/screenshots/
        OMP_NUM_THREADS=1 step "lessons in a browser" "$python" -m pytest -q -rs -m browser --durations 5
        PYTHONPATH="$here/tests" "$python" -c 'import chromium, sys; sys.exit(chromium.find() is None)' ||
            unseen="; no Chromium here: the lessons were NOT tested in a browser"
    fi
    step "tests that measure time" "$python" -m pytest -q -m "$timed"
    rm -rf "$here/build/smoke" # records of an earlier run must not stand in for what is tested
    # nbval: a fresh kernel of this very Python for each notebook; what its cells print must be what is committed
    SEDONA_HEADLESS=1 OMP_NUM_THREADS=1 step "notebooks" \
        "$python" -m pytest -q --nbval --nbval-current-env "${side_by_side[@]}" notebooks
    [ -z "$failed" ] || fail "failed: $failed$unseen"
    echo "all passed$unseen"
}

# Folders are meant from where the command was typed; notebooks and tests run elsewhere.
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
if [ -n "${SEDONA_DATA:-}" ]; then SEDONA_DATA=$(absolute "$SEDONA_DATA") && export SEDONA_DATA; fi
if [ -n "${SEDONA_CACHE:-}" ]; then SEDONA_CACHE=$(absolute "$SEDONA_CACHE") && export SEDONA_CACHE; fi
if [ -n "${SEDONA_RELEASED:-}" ]; then SEDONA_RELEASED=$(absolute "$SEDONA_RELEASED") && export SEDONA_RELEASED; fi

command=small
case "${1:-}" in
-h | --help) command=help ;;
"" | -*) ;;
*)
    command=$1
    shift
    ;;
esac

case "$command" in
smoke | small | paper)
    set_up
    exec "$python" -m sedona_nb.execute --profile "$command" "$@"
    ;;
test)
    case "$#:${1:-}" in
    0: | 1:fast) ;;
    *) fail "unknown: test $*; allowed: test, test fast" 2 ;;
    esac
    set_up
    cd "$here"
    run_tests "${1:-all}"
    ;;
lab)
    set_up
    cd "$here"
    exec "$python" -m jupyterlab "$@"
    ;;
site)
    set_up
    exec "$python" -m sedona_nb.website "$@"
    ;;
help)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$here/run_all.sh"
    ;;
*)
    fail "unknown word '$command'; allowed: $words" 2
    ;;
esac
