"""What the machine grants: no more threads than that are ever used."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.machine import (
    allowed_threads,
    cgroup_quota,
    environment,
    has_int8_dot,
    isa,
    memory_bytes,
    versions,
)
from edgebert.runtimes.session import SessionConfig

QUOTAS: dict[str, tuple[dict[str, str], float | None]] = {
    "no cgroup": ({}, None),
    "v2 unlimited": ({"cpu.max": "max 100000\n"}, None),
    "v2 one and a half": ({"cpu.max": "150000 100000\n"}, 1.5),
    "v2 a tenth": ({"cpu.max": "10000 100000\n"}, 0.1),
    "v1 unlimited": ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    "v1 three": ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
    "v1 half told": ({"cpu/cpu.cfs_quota_us": "300000\n"}, None),
}


@pytest.mark.parametrize(("files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_the_quota_of_a_container(files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup_quota(tmp_path) == expected
    cpus = len(os.sched_getaffinity(0))
    # Never more than the quota, never fewer than one.
    assert allowed_threads(tmp_path) == (cpus if expected is None else max(1, min(cpus, int(expected))))


def test_one_cpu_means_one_thread() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from edgebert.machine import allowed_threads\n"
        "from edgebert.runtimes.session import SessionConfig\n"
        "print(allowed_threads(), SessionConfig().thread_count, SessionConfig(threads=8).thread_count)"
    )
    assert subprocess.check_output([sys.executable, "-c", program]).split() == [b"1", b"1", b"1"]


def test_a_session_takes_what_is_asked_up_to_what_is_allowed() -> None:
    assert SessionConfig(threads=1).thread_count == 1
    assert SessionConfig().thread_count == SessionConfig(threads=10**6).thread_count == allowed_threads() >= 1


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells its instruction sets there")
def test_instruction_sets_are_the_kernels() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    assert set(isa()) <= set(words)
    assert has_int8_dot() == bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(words))
    assert platform.machine() != "x86_64" or not {"asimddp", "i8mm"} & set(isa())


def test_the_environment_is_plain_json() -> None:
    facts = json.loads(json.dumps(environment()))
    assert {"cpu", "threads", "isa", "memory_bytes", "system", "python", "versions"} <= facts.keys()
    assert facts["memory_bytes"] == memory_bytes() > 10**8
    assert facts["python"] == platform.python_version()
    assert {"edgebert", "numpy", "onnxruntime"} <= versions().keys()
