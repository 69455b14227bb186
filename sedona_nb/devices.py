"""Where the computation runs: a device by name, never another one than was asked for."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

from sedona_nb.errors import SedonaError


def resolve(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`.

    Args:
        name: "auto" (CUDA if this machine has it, else the CPU), "cpu", "cuda" (the current CUDA device),
            "cuda:0", "cuda:1", ..., or "mps" (Apple's GPU, only on request).

    Raises:
        SedonaError: this machine has no such device; the message lists those that it has.
    """
    name = str(name)
    present = available()
    if name == "auto":
        return torch.device("cuda" if "cuda" in present else "cpu")
    if name not in present:
        best = "cuda" if "cuda" in present else "cpu"
        raise SedonaError(f"no device {name!r} on this machine; it has {', '.join(present)}; auto means {best}")
    return torch.device(name)


def available() -> list[str]:
    """Names of the devices of this machine: "cpu", then "cuda", "cuda:0", ... and "mps" where present."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu"]
    if cuda:
        names += ["cuda", *(f"cuda:{index}" for index in range(cuda))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def describe(device: torch.device) -> str:
    """The device for a run record or a caption: 'cpu (2 threads, Intel Xeon ...)', 'cuda (NVIDIA H100, 80 GB)'."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 1e9:.0f} GB)"
    if device.type == "mps":
        return f"{device} ({_processor()})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s'[: threads > 1]}, {_processor()})"


def peak_memory(device: torch.device) -> int:
    """Largest memory use so far in bytes: what tensors took on a CUDA device, else what this process took in RAM.

    The CUDA figure can be reset (`torch.cuda.reset_peak_memory_stats`); that of the process covers its whole life.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, where the rest of this module works

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given, so that a clock read next measures work and not queuing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _processor() -> str:
    """The processor's product name, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return answer or platform.machine()
    return platform.processor() or platform.machine()
