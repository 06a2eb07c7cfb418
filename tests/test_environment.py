"""Full disks, folders that may not be written to, closed and full streams: said in a line, nothing harmed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import ROOT, edgebert, environment, tree
from safetensors.torch import save_file
from tiny import checkpoint, labelled

from edgebert.cli import _COMMANDS
from edgebert.errors import translate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("environment") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("environment-data"))


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("environment-out")
    assert edgebert("export", "--model", model, "--layers", 1, "-o", out).code == 0
    return out / "tiny-l1-cpu-fp32"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of its own, or changes it: the options are those of tmpfs."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        # Lazily: a failed write may have left a file open.
        subprocess.run(["umount", "-l", place], check=True)


Arguments = Callable[[Path, Path], list[object]]
WRITING: dict[str, Arguments] = {
    "resize": lambda model, data: ["resize", "--model", model, "--layers", 1],
    "export": lambda model, data: ["export", "--model", model, "--layers", 1],
    "distill": lambda model, data: ["distill", "--model", model, "--data", data, "--layers", 1, "--max-steps", 1],
}
# A fit writes in a child: what it may do in the middle is tested with the others' own writes.
FITTING: dict[str, Arguments] = {
    "fit": lambda model, data: ["fit", "--model", model, "--data", data, "--layers", 1, "--budget", "p50=1s"],
}


@pytest.mark.parametrize("arguments", (WRITING | FITTING).values(), ids=WRITING | FITTING)
def test_a_disk_too_small_is_said_before_work_begins(
    arguments: Arguments, model: Path, data: Path, disk: Callable[[str], Path]
) -> None:
    out = disk("size=60k") / "out"
    done = edgebert(*arguments(model, data), "-o", out, "--json")
    assert (done.code, done.out) == (6, "")
    assert "disk full" in done.error
    assert "bytes" in done.error
    assert str(out) in done.error


def test_a_disk_that_has_filled_up_keeps_the_old_artifact(model: Path, disk: Callable[[str], Path]) -> None:
    out = disk("size=8m") / "out"
    exporting = ("export", "--model", model, "--layers", 1, "--precision", "fp32,int8", "-o", out)
    assert edgebert(*exporting).code == 0
    before = tree(out)
    with open(out.parent / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    done = edgebert(*exporting, "--force")
    assert done.code == 6
    assert "disk full: export needs" in done.error
    assert tree(out) == before
    (out.parent / "ballast").unlink()
    assert edgebert(*exporting, "--force").code == 0
    assert tree(out) == before


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process grows beyond: what a quota or a full disk does in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_half(
    name: str, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for force in (False, name != "distill"):
        before = tree(out)
        with files_up_to(30_000):
            done = edgebert(*WRITING[name](model, data), "-o", out, *(["--force"] if force else []))
        assert done.code == 6, done.err
        assert "disk full" in done.error
        assert str(out) in done.error
        assert name == "distill" or tree(out) == before
        assert not [path for path in tree(tmp_path) if ".tmp-" in path or ".old-" in path]
        assert edgebert(*WRITING[name](model, data), "-o", out, *(["--force"] if force else [])).code == 0


def test_errors_of_libraries_that_hide_the_number_are_known(disk: Callable[[str], Path]) -> None:
    full = disk("size=64k")
    tensors = {"a": torch.zeros(100_000)}
    for write in (lambda: save_file(tensors, full / "a"), lambda: torch.save(tensors, full / "b")):
        with pytest.raises(Exception, match=r".") as caught:
            write()
        known = translate(caught.value)
        assert known is not None
        assert (known.exit_code, known.what) == (6, "disk full")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_quotas_and_limits_are_full_disks(number: int) -> None:
    known = translate(OSError(number, "no", "/some/file"))
    assert known is not None
    assert (known.exit_code, known.what, known.where) == (6, "disk full", "/some/file")


READ_ONLY: dict[str, Arguments] = {
    **WRITING,
    "fit": lambda model, data: ["fit", "--model", model, "--data", data, "--budget", "p50=9ms", "--layers", 1],
}


@pytest.mark.parametrize("name", READ_ONLY)
def test_a_disk_that_may_only_be_read_is_the_environments_fault(
    name: str, model: Path, data: Path, disk: Callable[[str], Path]
) -> None:
    out = disk("size=8m") / "out"
    disk("ro")
    done = edgebert(*READ_ONLY[name](model, data), "-o", out, "--json")
    assert (done.code, done.out) == (6, "")
    assert "permission denied" in done.error
    assert str(out) in done.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the disk that may only be read stands in")
@pytest.mark.parametrize("name", READ_ONLY)
def test_a_folder_that_may_not_be_written_to_is_the_environments_fault(
    name: str, model: Path, data: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    done = edgebert(*READ_ONLY[name](model, data), "-o", tmp_path / "out")
    assert done.code == 6
    assert "permission denied" in done.error
    assert str(tmp_path) in done.error


SPEAKING: dict[str, Callable[[Path, Path], list[object]]] = {
    "sizes": lambda model, artifact: ["sizes", "--model", model],
    "sizes --json": lambda model, artifact: ["sizes", "--model", model, "--json"],
    "resize": lambda model, artifact: ["resize", "--model", model, "--layers", 1, "--force", "-o", artifact / "../one"],
    "export": lambda model, artifact: ["export", "--model", model, "--layers", 1, "--force", "-o", artifact / ".."],
    "verify": lambda model, artifact: ["verify", artifact],
    "doctor": lambda model, artifact: ["doctor", artifact],
    "bench": lambda model, artifact: ["bench", artifact, "--samples", 2, "--threads", 1],
    **{f"{name} --help": partial(lambda name, model, artifact: [name, "--help"], name) for name in _COMMANDS},
}
PRINTING = [name for name in SPEAKING if name in ("resize", "export") or "--" in name]

# Forks a process a command, its imports done, with stdout or stderr as they are at worst.
SPEAK = """
import json, os, sys
import edgebert.build, edgebert.exporters.graph
from commands import one_trace_per_shape
from edgebert.cli import main

def spoil(how, number):
    if how == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    elif how == "left":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
    else:
        os.close(number)
    # As the interpreter would have opened it.
    stream = None if how == "closed" else open(number, "w", encoding="utf-8", closefd=False)
    setattr(sys, {1: "stdout", 2: "stderr"}[number], stream)

for line in sys.stdin:
    how, number, log, arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 3 - number)
        spoil(how, number)
        try:
            main(arguments)
        except SystemExit as ended:
            os._exit(ended.code)
        os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def speak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int, list[object]], tuple[int, str]]]:
    """Runs a command with stream 1 or 2 full, left by its reader or closed: exit code, the other stream's text."""
    log = tmp_path_factory.mktemp("speak") / "log"
    path = f"{ROOT}:{ROOT / 'tests'}"
    with subprocess.Popen(
        [sys.executable, "-c", SPEAK], env=environment(PYTHONPATH=path), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip

        def run(how: str, number: int, arguments: list[object]) -> tuple[int, str]:
            assert server.stdin
            assert server.stdout
            server.stdin.write(json.dumps([how, number, str(log), [str(argument) for argument in arguments]]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline()), log.read_text("utf-8")

        yield run


Speak = Callable[[str, int, list[object]], tuple[int, str]]


@pytest.mark.parametrize("name", SPEAKING)
def test_nobody_reading_stdout_is_no_error(name: str, model: Path, exported: Path, speak: Speak) -> None:
    for how in ("left", "closed"):
        code, err = speak(how, 1, SPEAKING[name](model, exported))
        assert code == 0, err
        assert "Traceback" not in err


@pytest.mark.parametrize("name", PRINTING)
def test_a_full_disk_behind_stdout_is_said(name: str, model: Path, exported: Path, speak: Speak) -> None:
    code, err = speak("full", 1, SPEAKING[name](model, exported))
    assert code == 6
    assert "error: disk full: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("how", ["full", "left", "closed"])
@pytest.mark.parametrize("name", SPEAKING)
def test_nobody_hearing_stderr_changes_no_result(
    name: str, how: str, model: Path, exported: Path, speak: Speak
) -> None:
    code, out = speak(how, 2, SPEAKING[name](model, exported))
    assert code == 0
    assert out or name in ("sizes", "verify", "doctor", "bench")


@pytest.mark.parametrize("how", ["full", "left", "closed"])
def test_an_error_that_nobody_hears_keeps_its_code(how: str, speak: Speak) -> None:
    for arguments, code in ((["verify", "/nowhere"], 3), (["sizes", "--colour"], 2), (["pick", "/nowhere"], 2)):
        assert speak(how, 2, [*arguments]) == (code, "")
