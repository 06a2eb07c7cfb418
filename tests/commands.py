"""Running the command line: in this process where imports would cost seconds, as a program where that matters."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from once import once_traced

from edgebert.artifact import Artifact
from edgebert.cli import main
from edgebert.exporters import graph
from edgebert.exporters.signature import OPSET
from edgebert.shaping.checkpoint import open_checkpoint

# The variable that names the folder of this session's traces, here and in the programs that tests start.
TRACES = "EDGEBERT_TEST_TRACES"
ROOT = Path(__file__).resolve().parent.parent
ERROR = re.compile(r"error: \S.*?: \S.*?: \S.*")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its stdout, which must be one JSON document and nothing else."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def error(self) -> str:
        """Its one line ``error: what: where: remedy``; progress may stand above it, a traceback may not."""
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        assert ERROR.fullmatch(lines[0]), lines[0]
        assert "Traceback" not in self.err
        return lines[0]


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """One CPU for this process and what it starts: threads cost a tiny model more than they bring."""
    allowed = os.sched_getaffinity(0)
    threads = torch.get_num_threads()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(allowed)[worker % len(allowed)]})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)


_TRACE = graph.trace
_traces: dict[str, graph.Template] = {}


@contextlib.contextmanager
def one_trace_per_shape() -> Iterator[None]:
    """Tracing takes seconds and depends on the shape alone: done once for all that a session's processes export."""

    def trace(source: Artifact, opset: int = OPSET) -> graph.Template:
        key = source.manifest.task, source.manifest.architecture, len(source.manifest.labels), opset
        name = f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.trace"
        if name not in _traces:
            path = Path(os.environ[TRACES]) / name
            _traces[name] = once_traced(path, partial(_TRACE, source, opset))
        return _traces[name]

    with mock.patch.object(graph, "trace", trace):
        yield


def remember_trace(model: str) -> None:
    """Trace a checkpoint ahead of time."""
    with one_trace_per_shape():
        graph.trace(open_checkpoint(model))


def edgebert(*arguments: object) -> Done:
    """``edgebert`` with these arguments, in this process; logging is as before afterwards."""
    log = logging.getLogger("edgebert")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            one_trace_per_shape(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(argument) for argument in arguments])
    finally:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
    code = ended.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, with this checkout importable and one thread for torch."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgebert", *map(str, arguments)]


def program(*arguments: object, **variables: str) -> Done:
    """``python -m edgebert`` with these arguments and environment variables."""
    done = subprocess.run(
        command(*arguments), env=environment(**variables), capture_output=True, check=False, timeout=300
    )
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def without(packages: Sequence[str], place: Path) -> str:
    """A PYTHONPATH on which these packages cannot be imported, in a program and in its children."""
    (place / "sitecustomize.py").write_text(_ABSENT.format(packages=tuple(packages)))
    return f"{place}{os.pathsep}{ROOT}"


_ABSENT = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
