"""The asynchronous trainer: every block of a decoupled network trains in a process of its own (Section 2).

    outcome = pipeline.train(spec, "cifar10", folder="build/run")       # from Python: as many processes as blocks

    torchrun --nproc-per-node 4 -m sedona_nb.pipeline --spec spec.json --data cifar10 --folder /shared/run

The second form also runs on several machines (torchrun's --nnodes and --rdzv-endpoint); `spec.json` is what
`save_spec` writes. Both continue from the last checkpoint that every block has, and give what `training.train`
gives: on a CPU the same weights and losses, bit for bit. (Pictures are evaluated in batches of another size, which
may move the last bits of a score.)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from sedona_nb import atomic, processes, progress
from sedona_nb.block_files import BlockFiles
from sedona_nb.block_worker import BlockWorker
from sedona_nb.errors import SedonaError
from sedona_nb.jobs import Job
from sedona_nb.records import RunSpec, decode
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
) -> TrainOutcome:
    """Train `spec`, one process a block, on this machine; from wherever `folder` says the run stands.

    Args:
        spec: a run with a decoupling.
        data: name or path of its pictures, as in `data.load`.
        folder: for checkpoints, logs and the outcome.
        depth: slots of the queue between two blocks.
        device: "cpu", or "cuda" with at least as many devices as blocks.
        threads: of each process; None: the machine's cores, shared.
        timeline: write `timeline-<block>.json`: what each process did when.
        port: for the processes to find each other; 0: a free one.
        label: in front of the progress bar.

    Raises:
        SedonaError: more blocks than layers or devices, a port in use, or a process that failed (which, why).
    """
    check(spec, torch.device(device).type, depth)
    count = len(spec.decoupling.blocks)
    threads = threads or max(1, (os.cpu_count() or 1) // count)
    job = Job(spec, str(data), str(Path(folder).absolute()), depth, torch.device(device).type, threads, timeline)
    path = atomic.write_text(Path(folder) / "job.json", job.to_json())
    with progress.bar(spec.train.steps, label) as bar:

        def show(line: str) -> None:
            report = json.loads(line)
            bar.update(report.pop("step") - bar.count, **report)

        processes.run(
            [sys.executable, "-m", "sedona_nb.pipeline", "--job", str(path)],
            names=block_names(spec),
            logs=Path(folder) / "logs",
            port=port,
            show=show,
            lost=LOST,
            threads=threads,
        )
    return outcome_from_json((Path(folder) / "outcome.json").read_text(encoding="utf-8"))


def block_names(spec: RunSpec) -> list[str]:
    """What a person calls each block."""
    return [f"block {k} (layers {first}-{last})" for k, (first, last) in enumerate(spec.decoupling.blocks, 1)]


def check(spec: RunSpec, device: str, depth: int) -> None:
    """Refuse what cannot be run.

    Raises:
        SedonaError: no decoupling, a depth below 1, or fewer devices than blocks.
    """
    if spec.decoupling is None:
        raise SedonaError(f"method {spec.method!r} has no blocks; the asynchronous trainer needs a decoupling")
    count = len(spec.decoupling.blocks)
    if depth < 1:
        raise SedonaError(f"queue depth {depth}; allowed: at least 1")
    if device == "cuda" and count > torch.cuda.device_count():
        raise SedonaError(f"{count} blocks need {count} GPUs, {torch.cuda.device_count()} are here")


def save_spec(spec: RunSpec, path: Path | str) -> Path:
    """Write a spec for the command line."""
    return atomic.write_text(path, json.dumps(asdict(spec), indent=1) + "\n")


# -- one process -------------------------------------------------------------------------------------------------


def work(job: Job, report_lines: bool, timeout: float = JOIN_TIMEOUT) -> None:
    """Be the block that the environment's RANK names, from joining the others to the outcome."""
    torch.set_num_threads(job.threads)
    count = len(job.spec.decoupling.blocks)
    rank, store = join(count, block_names(job.spec), job.device, timeout)
    groups = [dist.new_group([k, k + 1]) for k in range(count - 1)]
    last = rank == count - 1
    with progress.bar(job.spec.train.steps, "training") if last and not report_lines else nullcontext() as bar:

        def report(step: int, values: dict[str, float]) -> None:
            if report_lines:
                print(json.dumps({"step": step, **values}), flush=True)
            else:
                bar.update(step - bar.count, **values)

        worker = BlockWorker(job, rank, groups, store, report)
        worker.resume(common_step(store, worker.files, rank, count))
        worker.run()
    worker.write_timeline()
    if last:
        atomic.write_text(Path(job.folder) / "outcome.json", json.dumps(asdict(worker.outcome())) + "\n")
    store.set(f"done/{rank}", "")
    store.wait([f"done/{k}" for k in range(count)])  # who leaves early closes connections that others still use


def join(count: int, names: list[str], device: str, timeout: float) -> tuple[int, dist.Store]:
    """Meet the other processes, as torchrun's environment variables say.

    Returns:
        this process's rank, and the store that all share.

    Raises:
        SedonaError: as many processes as blocks are not there.
    """
    rank, world, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    address, wait = os.environ["MASTER_ADDR"], timedelta(seconds=timeout)
    if world != count:
        raise SedonaError(f"{world} processes for {count} blocks; allowed: one a block")
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store: dist.Store = dist.TCPStore(address, port, None, hosts, wait, wait_for_workers=False)
    except dist.DistError:
        raise SedonaError(f"nobody answers at {address}:{port} within {timeout:g} s: is rank 0 there?") from None
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    store.set(f"here/{rank}", "")
    try:
        store.wait([f"here/{k}" for k in range(count)], wait)
    except dist.DistError:
        missing = [f"rank {k}, {names[k]}" for k in range(count) if not store.check([f"here/{k}"])]
        raise SedonaError(f"did not join within {timeout:g} s: {'; '.join(missing)}") from None
    store.set_timeout(timedelta(days=1))  # from here on, blocks wait for each other's work
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return rank, store


def common_step(store: dist.Store, files: BlockFiles, rank: int, count: int) -> int:
    """The last step of which every block has a checkpoint; 0 if there is none."""
    store.set(f"steps/{rank}", json.dumps(files.steps()))
    found = [set(json.loads(store.get(f"steps/{k}"))) for k in range(count)]
    return max(set.intersection(*found), default=0)


def main() -> None:
    """The command line, and what `train` starts."""
    parser = argparse.ArgumentParser(prog="python -m sedona_nb.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--spec", type=Path, help="file with the run's spec, from pipeline.save_spec")
    parser.add_argument("--data", help="name or path of the pictures")
    parser.add_argument("--folder", type=Path, help="for checkpoints; on several machines shared, or each its own")
    parser.add_argument("--depth", type=int, default=4, help="slots of the queue between two blocks")
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
            check(spec, "cpu", options.depth)
            folder = str(options.folder.absolute())
            job = Job(spec, options.data, folder, options.depth, options.device, options.threads, options.timeline)
        work(job, report_lines=options.job is not None, timeout=options.join_timeout)
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
