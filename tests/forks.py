"""Commands as processes of their own that start at once: forks of one that has imported and traced already.

They can be interrupted and killed like any other; seconds of imports before each would drown the moments
that matter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from commands import Done, environment, main, one_trace_per_shape, remember_trace

_TIMEOUT = 240.0


class Forks:
    """Begins commands on checkpoints of the shape of ``model``, one at a time; close it at the end."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(model), str(self._out), str(self._err)],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._line() == "ready"

    def begin(self, *arguments: object) -> int:
        """Start a command; its process id, which is its group's too."""
        assert self._server.stdin
        self._server.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._server.stdin.flush()
        return int(self._line())

    def until(self, text: str) -> None:
        """Wait until the command says so on stderr."""
        end = time.monotonic() + _TIMEOUT
        while text not in self._err.read_text("utf-8"):
            assert time.monotonic() < end, self._err.read_text("utf-8")
            time.sleep(0.01)

    def end(self) -> Done:
        """How the command ended; negative codes are signals."""
        code = int(self._line())
        return Done(code, self._out.read_text("utf-8"), self._err.read_text("utf-8"))

    def close(self) -> None:
        self._server.communicate(timeout=_TIMEOUT)

    def _line(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()


def _serve(model: str, *outputs: str) -> None:
    import transformers

    import edgebert.choosing.report
    import edgebert.choosing.sweep
    import edgebert.training.trainer

    assert transformers.BertModel
    assert edgebert.choosing.report
    assert edgebert.choosing.sweep
    assert edgebert.training.trainer
    remember_trace(model)
    print("ready", flush=True)
    for line in sys.stdin:
        for path in outputs:
            Path(path).write_bytes(b"")
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line), *outputs)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(arguments: list[str], out: str, err: str) -> None:
    os.setsid()
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
