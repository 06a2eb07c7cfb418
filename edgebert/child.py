"""Child processes that answer questions: for work that may crash, or must have a process to itself.

A child is ``python -m MODULE``, whose main calls :func:`serve`. It is asked for a method of its object by
pickled messages, and dies with whoever started it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from edgebert.errors import EdgebertError, translate

log = logging.getLogger("edgebert")

# How long a child may take to clean up once it is told to end.
_GRACE_SECONDS = 10.0


class ChildFailed(Exception):
    """The child gave no answer; the text says why."""


class ChildDied(ChildFailed):
    """It ended before it answered."""


class ChildBug(ChildFailed):
    """The child met an error that is nobody's but a bug's; its traceback is on stderr, and it still answers."""


class Child:
    """A child process of ours and the pipe to it; close it at the end, or use it as a context.

    ``settings`` go to what the child makes its object of. ``pass_fds`` are file descriptors that it keeps
    open, such as a lock that must be held for as long as anyone works.
    """

    def __init__(self, module: str, settings: object, pass_fds: Sequence[int] = ()) -> None:
        # The end of this pipe is the end of the parent, however it came about.
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(lifeline), str(log.getEffectiveLevel())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(*pass_fds, lifeline),
                # Ctrl-C in a terminal goes to the whole group: we end our children, they need not complain too.
                process_group=0,
            )  # fmt: skip
        finally:
            os.close(lifeline)
        self._settings: object = settings
        self._greeted = False

    def ask(self, method: str, *arguments: object) -> Any:
        """What the child's object answers. Raises the error it raised, ChildBug for one not of ours, or ChildDied."""
        assert self._process.stdin
        try:
            if not self._greeted:
                pickle.dump(self._settings, self._process.stdin)
                self._greeted = True
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildDied(self._fate()) from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        while True:
            try:
                kind, *content = pickle.load(self._process.stdout)
            except (EOFError, pickle.UnpicklingError):
                raise ChildDied(self._fate()) from None
            if kind == "log":
                log.log(*content)
            elif kind == "error":
                raise _error_of(*content)
            elif kind == "bug":
                raise ChildBug(*content)
            else:
                return content[0]

    def _fate(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"its process ended with exit code {code}"
        hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    def close(self) -> None:
        """End the child: it may clean up for some seconds, then it is killed."""
        self._process.terminate()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    # What was still to be sent has no reader any more.
                    continue
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _error_of(kind: type[EdgebertError], what: str, where: str, remedy: str, document: Any) -> EdgebertError:
    error = kind.__new__(kind)
    EdgebertError.__init__(error, what, where, remedy, document)
    return error


def serve(make: Callable[[Any], object]) -> None:
    """The child's side: make an object of the settings, then call its methods until the parent closes the pipe."""
    _die_with_parent(int(sys.argv[1]))
    ending = threading.Event()

    def end(*_: object) -> None:
        """Told to end, clean up as after Ctrl-C."""
        ending.set()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    log.setLevel(int(sys.argv[2]))
    log.addHandler(_Relay(answers))
    questions = sys.stdin.buffer
    served: object = None
    try:
        settings = pickle.load(questions)
        while True:
            method, arguments = pickle.load(questions)
            try:
                served = served or make(settings)
                _send(answers, "done", getattr(served, method)(*arguments))
            except Exception as error:  # noqa: BLE001, whatever it is the parent must hear of it
                # A library that is being imported makes another error of the exit.
                if ending.is_set():
                    return
                _send(answers, *_trouble(error))
    except EOFError:
        return


def _die_with_parent(lifeline: int) -> None:
    """End this process when the parent's end of the pipe closes: nobody waits for the answer any more."""

    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class _Relay(logging.Handler):
    """Sends log lines to the parent, which decides where they go."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._answers, "log", record.levelno, "%s", record.getMessage())


def _trouble(error: Exception) -> tuple[object, ...]:
    known = translate(error)
    if known is None:
        traceback.print_exc()
        return "bug", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "error", type(known), known.what, known.where, known.remedy, known.document


def _send(answers: BinaryIO, *message: object) -> None:
    pickle.dump(message, answers)
    answers.flush()
