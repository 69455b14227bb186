"""The asynchronous trainer: every block of a decoupled network trains in processes of its own (Section 2).

    outcome = pipeline.train(spec, "cifar10", folder="build/run")       # from Python: as many processes as blocks

    torchrun --nproc-per-node 4 -m sedona_nb.pipeline --spec spec.json --data cifar10 --folder /shared/run

The second form also runs on several machines (torchrun's --nnodes and --rdzv-endpoint); `spec.json` is what
`save_spec` writes. Both continue from the last checkpoint that every block has, and give what `training.train`
gives: on a CPU the same weights and losses, bit for bit. (Pictures are evaluated in batches of another size, which
may move the last bits of a score.)

With `replicas=D` a block has D processes, each with 1/D of every training batch (`replicas` says what that means
for BatchNorm, for evaluation and for files); rank = block * D + replica. From the shell: `--replicas D`, and as
many processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from sedona_nb import atomic, meeting, precision, processes, progress, runs
from sedona_nb.block_worker import BlockWorker
from sedona_nb.decoding import decode
from sedona_nb.errors import SedonaError
from sedona_nb.jobs import Job
from sedona_nb.records import RunSpec
from sedona_nb.replicas import check_parts, in_words, make_groups
from sedona_nb.store import RunStore
from sedona_nb.train_config import TrainOutcome, outcome_from_json

JOIN_TIMEOUT = 120.0  # seconds until all processes must have joined
LOST = 75  # exit code of a process whose neighbour went away; that one says why


def train(
    spec: RunSpec,
    data: str | Path,
    folder: Path | str,
    depth: int = 4,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    timeline: bool = False,
    port: int = 0,
    label: str = "training",
    replicas: int = 1,
) -> TrainOutcome:
    """Train `spec`, `replicas` processes a block, on this machine; from wherever `folder` says the run stands.

    Args:
        spec: a run with a decoupling.
        data: name or path of its pictures, as in `data.load`.
        folder: for checkpoints, logs and the outcome.
        depth: slots of the queue between two blocks.
        device: "cpu", or "cuda" with at least as many devices as processes.
        threads: of each process; None: the machine's cores, shared.
        timeline: write `timeline-<rank + 1>.json`: what each process did when.
        port: for the processes to find each other; 0: a free one.
        label: in front of the progress bar.
        replicas: processes a block, each with an equal part of every training batch.

    Raises:
        SedonaError: more blocks than layers, more processes than devices, a batch that does not divide, float16
            anywhere but on CUDA, a port in use, or a process that failed (which, why).
    """
    place, home = torch.device(device).type, str(Path(folder).absolute())
    check(spec, place, depth, replicas)
    precision.check(spec.train.precision, place)
    names = meeting.process_names(spec, replicas)
    threads = threads or max(1, (os.cpu_count() or 1) // len(names))
    job = Job(spec, str(data), home, depth, place, threads, timeline, replicas)
    path = atomic.write_text(Path(folder) / "job.json", job.to_json())
    with progress.bar(spec.train.steps, label) as bar:

        def show(line: str) -> None:
            report = json.loads(line)
            bar.update(report.pop("step") - bar.count, **report)

        try:
            processes.run(
                [sys.executable, "-m", "sedona_nb.pipeline", "--job", str(path)],
                names=names,
                logs=Path(folder) / "logs",
                port=port,
                show=show,
                lost=LOST,
                threads=threads,
            )
        finally:  # whoever was ended while it wrote
            for part in Path(folder).glob("block-*/.*.part"):
                part.unlink(missing_ok=True)
        bar.update(spec.train.steps - bar.count)  # a run that was over has no step to report
    return outcome_from_json((Path(folder) / "outcome.json").read_text(encoding="utf-8"))


def check(spec: RunSpec, device: str, depth: int, replicas: int = 1) -> None:
    """Refuse what cannot be run.

    Raises:
        SedonaError: no decoupling, a depth below 1, a batch that `replicas` cannot share equally, or fewer devices
            than processes.
    """
    if spec.decoupling is None:
        raise SedonaError(f"method {spec.method!r} has no blocks; the asynchronous trainer needs a decoupling")
    if spec.method == "features-replay" or spec.train.alignment_every:
        what = "method 'features-replay'" if spec.method == "features-replay" else "alignment_every"
        raise SedonaError(f"{what} needs gradients of the whole network; allowed with the serial trainer only")
    if depth < 1:
        raise SedonaError(f"queue depth {depth}; allowed: at least 1")
    check_parts(replicas, spec.train.batch_size)
    blocks, here = len(spec.decoupling.blocks), torch.cuda.device_count()
    if device == "cuda" and blocks * replicas > here:
        raise SedonaError(f"{in_words(blocks, replicas)} need {blocks * replicas} GPUs, {here} are here")


def save_spec(spec: RunSpec, path: Path | str) -> Path:
    """Write a spec for the command line."""
    return atomic.write_text(path, json.dumps(asdict(spec), indent=1) + "\n")


# -- one process -------------------------------------------------------------------------------------------------


def work(job: Job, report_lines: bool, timeout: float = JOIN_TIMEOUT, store: Path | None = None) -> None:
    """Be the block and replica that the environment's RANK names, from joining the others to the outcome.

    The process that judges writes it, and with `store` also the record of the run.
    """
    torch.set_num_threads(job.threads)
    position, meeting_place = meeting.join(job.spec, job.replicas, job.device, timeout)
    shows = position.judges and not report_lines
    with progress.bar(job.spec.train.steps, "training") if shows else nullcontext() as bar:

        def report(step: int, values: dict[str, float]) -> None:
            if report_lines:
                print(json.dumps({"step": step, **values}), flush=True)
            else:
                bar.update(step - bar.count, **values)

        groups = make_groups(position, feedback=job.spec.method == "block-local")
        worker = BlockWorker(job, position, groups, meeting_place, report)
        worker.resume(meeting.common_step(meeting_place, worker.files, position))
        worker.run()
    worker.write_timeline()
    if position.judges:
        outcome = worker.outcome()
        atomic.write_text(Path(job.folder) / "outcome.json", json.dumps(asdict(outcome)) + "\n")
        if store is not None:
            runs.keep(job.spec, outcome, RunStore(store), torch.device(job.device))
    meeting.leave(meeting_place, position)


def main() -> None:
    """The command line, and what `train` starts."""
    parser = argparse.ArgumentParser(prog="python -m sedona_nb.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--spec", type=Path, help="file with the run's spec, from pipeline.save_spec")
    parser.add_argument("--data", help="name or path of the pictures")
    parser.add_argument("--folder", type=Path, help="for checkpoints; shared by a block's replicas")
    parser.add_argument("--store", type=Path, help="folder of records, for that of this run; tables read them")
    parser.add_argument("--depth", type=int, default=4, help="slots of the queue between two blocks")
    parser.add_argument("--replicas", type=int, default=1, help="processes a block, which share its batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--timeline", action="store_true", help="write what each process did when")
    parser.add_argument("--join-timeout", type=float, default=JOIN_TIMEOUT, help="seconds to wait for the others")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.job is not None:
            processes.end_with_parent()
            job = Job.from_json(options.job.read_text(encoding="utf-8"))
        else:
            if not (options.spec and options.data and options.folder):
                parser.error("--spec, --data and --folder are needed")
            if "RANK" not in os.environ:
                raise SedonaError("start this with torchrun, or call pipeline.train from Python")
            spec = decode(RunSpec, json.loads(options.spec.read_text(encoding="utf-8")))
            check(spec, "cpu", options.depth, options.replicas)
            folder, place = str(options.folder.absolute()), options.device
            job = Job(
                spec,
                options.data,
                folder,
                options.depth,
                place,
                options.threads,
                options.timeline,
                options.replicas,
            )
        work(job, report_lines=options.job is not None, timeout=options.join_timeout, store=options.store)
    except Exception as error:
        if isinstance(error, SedonaError):
            code, words = 1, f"error: {error}"
        elif isinstance(error, RuntimeError) and processes.is_lost_neighbour(error):
            code, words = LOST, f"lost a neighbour: {str(error).splitlines()[0]}"
        else:
            code, words = 1, traceback.format_exc()
        print(words, file=sys.stderr, flush=True)
    else:
        code = 0
        sys.stdout.flush()
    os._exit(code)  # at once: taking process groups down while receives are posted may abort the process


if __name__ == "__main__":
    main()
