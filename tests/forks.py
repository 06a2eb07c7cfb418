"""Commands as processes of their own that start at once: forks of one that has imported and traced already.

They can be interrupted and killed like any other; seconds of imports before each would drown the moments
that matter.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from commands import Done, environment, one_trace_per_shape, remember_trace

from edgebert.cli import main

_TIMEOUT = 240.0


class Forks:
    """Begins commands on checkpoints of the shape of ``model``, one at a time; close it at the end."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(model), str(self._out), str(self._err)],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._pid = 0
        self._line("ready")

    def begin(self, *arguments: object) -> None:
        """Start a command."""
        if self._pid:
            # A test that failed left it.
            self.kill(signal.SIGKILL)
            self.end()
        self._tell(json.dumps([str(argument) for argument in arguments]))
        self._pid = int(self._line("pid"))
        assert self._pid > 1

    @property
    def pid(self) -> int:
        """The process number of the command."""
        return self._pid

    def kill(self, signal_number: int) -> None:
        """Send a signal to the command and what it started, as a terminal does; nothing where it has ended."""
        assert self._pid > 1
        # The server does not wait for it before the next line, so that the number is not another's.
        os.killpg(self._pid, signal_number)

    def kill_tree(self) -> None:
        """SIGKILL to the command, its process group, and whatever of its descendants has left that group."""
        pids = descendants(self._pid)
        self.kill(signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def until(self, text: str) -> None:
        """Wait until the command says so on stderr."""
        end = time.monotonic() + _TIMEOUT
        while text not in self._err.read_text("utf-8"):
            assert time.monotonic() < end, self._err.read_text("utf-8")
            time.sleep(0.01)

    def end(self) -> Done:
        """How the command ended; negative codes are signals."""
        self._tell("wait")
        code = int(self._line("code"))
        self._pid = 0
        return Done(code, self._out.read_text("utf-8"), self._err.read_text("utf-8"))

    def close(self) -> None:
        self._server.communicate(timeout=_TIMEOUT)

    def _tell(self, line: str) -> None:
        assert self._server.stdin
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()

    def _line(self, kind: str) -> str:
        assert self._server.stdout
        found, _, rest = self._server.stdout.readline().strip().partition(" ")
        assert found == kind
        return rest


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs, as /proc has them now."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _serve(model: str, *outputs: str) -> None:
    for module in ("edgebert.choosing.report", "edgebert.choosing.sweep", "edgebert.training.trainer"):
        import_module(module)
    remember_trace(model)
    # What the imports and the trace left behind must not be swept up in a child: a Ctrl-C that comes while Python
    # calls back its weak references is lost.
    gc.collect()
    gc.freeze()
    _say("ready")
    for line in sys.stdin:
        for path in outputs:
            Path(path).write_bytes(b"")
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line), *outputs)
        # Its group exists before anyone sends it a signal.
        os.setpgid(pid, pid)
        _say(f"pid {pid}")
        sys.stdin.readline()
        _say(f"code {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _run(arguments: list[str], out: str, err: str) -> None:
    os.setpgid(0, 0)
    # A test run in the background ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    code = 1
    try:
        with one_trace_per_shape():
            main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
