"""What this machine is and what we may use of it: processors, memory, instruction sets, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "edgebert", "numpy", "tokenizers", "onnxruntime", "openvino", "torch", "transformers", "accelerate",
    "onnx", "onnxscript", "onnx-ir", "safetensors", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-bindings",
)  # fmt: skip
# The instruction sets that decide how int8 and bf16 behave, as Linux names them.
_ISA = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


CGROUP = Path("/sys/fs/cgroup")


def allowed_threads(cgroup: Path = CGROUP) -> int:
    """How many threads can run at once: the affinity mask, cut by the cgroup's CPU quota (at least 1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(cgroup)
    return count if quota is None else max(1, min(count, int(quota)))


def cgroup_quota(cgroup: Path = CGROUP) -> float | None:
    """CPUs granted by cgroup v2 (cpu.max) or v1 (cfs quota), or None where there is no limit."""
    v2 = words_of(cgroup / "cpu.max")
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota = words_of(cgroup / "cpu/cpu.cfs_quota_us")
    period = words_of(cgroup / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return int(quota[0]) / int(period[0])
    return None


def words_of(path: Path) -> list[str]:
    """The words of a small file of the kernel; none where it is missing."""
    try:
        return path.read_text().split()
    except OSError:
        return []


@cache
def isa() -> tuple[str, ...]:
    """The instruction sets of this CPU that matter for int8 and bf16, from /proc/cpuinfo ("" elsewhere)."""
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    return tuple(name for name in _ISA if name in flags)


def has_int8_dot(instructions: Collection[str] | None = None) -> bool:
    """Whether a CPU, this one unless others' ``instructions`` are given, multiplies u8 by s8 without saturating.

    That is VNNI, or dot product on Arm.
    """
    known = isa() if instructions is None else instructions
    return any(name in known for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))


def has_bf16() -> bool:
    """Whether the CPU computes in bfloat16 natively."""
    return any(name in isa() for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def memory_bytes() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def versions() -> dict[str, str]:
    """Versions of the installed packages that shape a result, without importing them."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "edgebert" not in found:
        # A checkout that is not installed has no metadata.
        from edgebert import __version__

        found["edgebert"] = __version__
    return found


def readable(name: str) -> str:
    """A file name as text that can be written as UTF-8, whatever encoding the locale has for file names."""
    return os.fsencode(name).decode("utf-8", "replace")


def file_name(text: str) -> str:
    """The inverse of :func:`readable`: a name for a file, in UTF-8 on disk whatever the locale says."""
    return os.fsdecode(text.encode("utf-8"))


def environment() -> dict[str, Any]:
    """The facts that belong beside every measurement."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "threads": allowed_threads(),
        "isa": list(isa()),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
    }
