"""Time and memory of one hypergradient and of one pretraining step: the unroll with `higher` against the lean one.

    python benchmarks/hypergradient.py                                  # VGG-19, the paper's sizes: 10 minutes
    python benchmarks/hypergradient.py --network resnet50 --batch 32 --outer-batch 256 --steps 2
    python benchmarks/hypergradient.py --device cuda                    # also passes recorded as CUDA graphs

Every measurement is a process of its own with one thread; they take turns. Quoted are the median of the
processor time (other processes on the machine disturb it less than they disturb the clock) and of the clock, and
the peak of the process's memory above what it had with network, weights and batches in place; on a GPU the clock
alone, and the memory of its tensors. Random pictures: only shapes matter for time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS = {"pretraining step, stock modules": "stock", "pretraining step, lean": "lean"}
ON_GPUS = {
    "hypergradient, adjoint, bfloat16": "adjoint-bfloat16",
    "hypergradient, adjoint, graphs": "adjoint-graphs",
    "pretraining step, lean, bfloat16": "lean-bfloat16",
    "pretraining step, lean, graphs": "lean-graphs",
}


def peak_memory(device: str) -> int:
    """Highest memory so far in bytes: of this process, on a GPU of its tensors."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise SystemExit("peak memory is read from /proc, which this system lacks")


def measure(options: argparse.Namespace) -> dict:
    """In a process of its own: one contender."""
    import torch

    from sedona_nb import adjoint, bilevel, relaxed
    from sedona_nb.bilevel import InnerConfig, Problem
    from sedona_nb.devices import synchronize
    from sedona_nb.lean.program import Program
    from sedona_nb.lean.replay import RecordedProgram
    from sedona_nb.networks import NetworkConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)
    contender, _, variant = options.only.partition("-")

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(size, 3, 32, 32, device=device), torch.randint(10, (size,), device=device)

    base = NetworkConfig(options.network).build(10, 32, 3, seed=0)
    network = relaxed.relax(base, 10, 0.25, seed=1).train().to(device)
    if contender == "functional":
        network = network.to(memory_format=torch.channels_last)
    weights = bilevel.initial_weights(network)
    rows = network.num_layers - 1
    alpha, beta = torch.randn(rows, 2, device=device), torch.randn(rows, 4, device=device)
    inner = InnerConfig(steps=options.steps, batch_size=options.batch)
    batches = [batch(options.batch) for _ in range(options.steps)]
    problem = Problem(network, weights, alpha, beta, batches, batch(options.outer_batch), 0.01, inner)
    program = None
    if contender in ("adjoint", "lean"):
        precision = "bfloat16" if variant == "bfloat16" else "float32"
        program = (RecordedProgram if variant == "graphs" else Program)(network, (3, 32, 32), precision)
    shares = problem.shares()
    before = peak_memory(options.device)
    seconds: list[tuple[float, float]] = []
    for _ in range(options.rounds + (contender in ("adjoint", "lean", "stock") or options.device != "cpu")):
        began = time.perf_counter(), time.process_time()
        if contender == "stock":
            trainable = bilevel.trainable(weights, device)
            bilevel.inner_step(network, trainable, *shares, batches[0], 0.01, inner)
        elif contender == "lean":
            weights, _ = adjoint.inner_step(program, weights, *shares, batches[0], 0.01, inner, overwrite=True)
        elif contender == "adjoint":
            adjoint.adjoint_hypergradient(problem, "validation", program)
        else:
            bilevel.hypergradient(problem, "validation", contender)
        synchronize(device)
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    if len(seconds) > options.rounds:
        seconds = seconds[1:]  # without the round that filled caches
    return {"seconds": seconds, "peak": peak_memory(options.device) - before}


def child(options: argparse.Namespace, only: str, rounds: int) -> dict:
    """Run one contender in a fresh process."""
    sizes = ["network", "batch", "outer_batch", "steps", "device"]
    arguments = [text for key in sizes for text in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    command = [sys.executable, __file__, *arguments, "--only", only, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{only} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg19")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--outer-batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5, help="T")
    parser.add_argument("--backends", nargs="+", default=["higher", "adjoint"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options)))
        return
    import torch

    from sedona_nb.devices import describe

    print(
        f"{options.network} 0.25x, B = {options.batch}, V = {options.outer_batch}, T = {options.steps}, "
        f"{describe(torch.device(options.device))}, used: 1 thread, torch {torch.__version__}"
    )
    contenders = {**{f"hypergradient, {name}": name for name in options.backends}, **STEPS}
    if options.device != "cpu":
        contenders |= ON_GPUS
    found: dict[str, list[dict]] = {name: [] for name in contenders}
    for turn in range(options.rounds):
        for name, only in contenders.items():
            found[name].append(child(options, only, 1 if name.startswith("hypergradient") else 5))
            print(f"round {turn + 1}: {name} {found[name][-1]['seconds'][-1][0]:.2f} s", file=sys.stderr)
    slowest: dict[str, tuple[float, float, float]] = {}
    for name in contenders:
        clock, cpu = (
            statistics.median(pair[column] for run in found[name] for pair in run["seconds"]) for column in (0, 1)
        )
        peak = statistics.median(run["peak"] for run in found[name])
        reference = slowest.setdefault(name.partition(",")[0], (clock, cpu, peak))
        print(
            f"{name:34s} {cpu:8.2f} s processor ({reference[1] / cpu:5.2f}x)  {clock:8.2f} s clock "
            f"({reference[0] / clock:5.2f}x)  {peak / 1e9:6.2f} GB ({reference[2] / peak:5.2f}x)"
        )


if __name__ == "__main__":
    main()
