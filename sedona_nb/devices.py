"""Where the computation runs: a device by name, never another one than was asked for."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from sedona_nb.errors import SedonaError

# Limit, use, and the line of memory.stat with cached files that give way; versions 2 and 1, as seen inside.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


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


def planned(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`, even if another machine has it: to reckon what it would take, not to compute on.

    Args:
        name: as for `resolve`.

    Raises:
        SedonaError: a name that no machine's device has.
    """
    if re.fullmatch(r"cuda(:\d+)?|mps", str(name)):
        return torch.device(str(name))
    return resolve(name)


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
    """The device for a run record or a caption: 'cpu (2 threads, Intel Xeon ...)', 'cuda (NVIDIA H100, 80 GB)'.

    One that was only `planned` is 'cuda (not on this machine)'.
    """
    name = str(device) if device.type == "cuda" else device.type
    if name not in available():
        return f"{device} (not on this machine)"
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


def free_memory(device: torch.device) -> int:
    """Memory in bytes that this process can still take on `device`; other processes may change it at any time.

    CUDA: what the driver has left, and what PyTorch has reserved without using it. Else RAM that is to be had
    without swapping, at most what the process's control group (a container, a batch job) is still allowed.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil  # only long computations ask

    return min([psutil.virtual_memory().available, *_control_group()])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given, so that a clock read next measures work and not queuing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _control_group() -> list[int]:
    """What the limits of this process's control group leave, in bytes; none where there is no limit to be read."""
    left = []
    for limit, usage, reclaimable in CONTROL_GROUPS:
        try:
            allowed, used = (int(Path(name).read_text()) for name in (limit, usage))  # "max": no limit
            kinds = dict(line.split() for line in Path(limit).with_name("memory.stat").read_text().splitlines())
            left.append(max(allowed - used + int(kinds.get(reclaimable, 0)), 0))
        except (OSError, ValueError):
            continue
    return left


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
