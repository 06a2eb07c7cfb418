"""Children that answer: values, errors and deaths come back as what they are, and nobody is left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgebert.child import Child, ChildBug, ChildDied
from edgebert.errors import CheckFailed, OutOfMemory

SERVED = """
import logging, os, sys, time
from edgebert.child import serve
from edgebert.errors import CheckFailed

class Served:
    def __init__(self, settings):
        if settings == "bad":
            raise CheckFailed("cannot be made", "here", "do not")
        if isinstance(settings, str):
            try:
                self.wait(settings)
            except BaseException as error:
                raise ImportError("initialization failed") from error
        self.settings = settings
    def echo(self, *values):
        print("a library prints")
        return self.settings, values
    def refuse(self):
        raise CheckFailed("no", "there", "else", {"ok": False})
    def exhaust(self):
        raise MemoryError("8 GB")
    def err(self):
        return {}["nothing"]
    def speak(self):
        logging.getLogger("edgebert").info("at %d %%", 50)
    def die(self, signal):
        os.kill(os.getpid(), signal)
        time.sleep(30)
    def leave(self):
        os._exit(7)
    def wait(self, path):
        try:
            open(path + ".begun", "w").close()
            time.sleep(60)
        finally:
            open(path, "w").close()

if __name__ == "__main__":
    serve(Served)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served_by_test.py").write_text(SERVED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))


@pytest.fixture
def child() -> Iterator[Child]:
    with Child("served_by_test", {"any": "settings"}) as found:
        yield found


def test_values_go_and_come(child: Child) -> None:
    for values in ((), (1, "two", Path("three"))):
        assert child.ask("echo", *values) == ({"any": "settings"}, values)


def test_errors_keep_their_type_words_and_document(child: Child) -> None:
    with pytest.raises(CheckFailed) as refused:
        child.ask("refuse")
    assert (str(refused.value), refused.value.document) == ("no: there: else", {"ok": False})
    with pytest.raises(OutOfMemory, match="8 GB"):
        child.ask("exhaust")
    # It still lives.
    assert child.ask("echo")[1] == ()


def test_a_bug_is_told_and_survived(capfd: pytest.CaptureFixture[str]) -> None:
    # Started here, for it takes over the stderr of its time.
    with Child("served_by_test", 0) as child:
        with pytest.raises(ChildBug, match="KeyError: 'nothing'"):
            child.ask("err")
        assert "Traceback" in capfd.readouterr().err
        assert child.ask("echo")[1] == ()


def test_what_cannot_be_made_is_told_at_the_first_question() -> None:
    with Child("served_by_test", "bad") as child, pytest.raises(CheckFailed, match="cannot be made"):
        child.ask("echo")


def test_deaths_are_told_apart(child: Child) -> None:
    with pytest.raises(ChildDied, match="was killed by SIGKILL, perhaps for lack of memory"):
        child.ask("die", signal.SIGKILL)
    with pytest.raises(ChildDied, match="SIGKILL"):
        child.ask("echo")
    with Child("served_by_test", 0) as other, pytest.raises(ChildDied, match="was killed by SIGSEGV"):
        other.ask("die", signal.SIGSEGV)
    with Child("served_by_test", 0) as other, pytest.raises(ChildDied, match="ended with exit code 7"):
        other.ask("leave")
    with Child("no_such_module_anywhere", 0) as other, pytest.raises(ChildDied, match="ended with exit code 1"):
        other.ask("echo")


def test_log_lines_come_through_the_parents_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgebert"), Child("served_by_test", 0) as child:
        child.ask("speak")
    assert [record.getMessage() for record in caplog.records] == ["at 50 %"]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "edgebert"), Child("served_by_test", 0) as child:
        child.ask("speak")
    assert caplog.records == []


def test_told_to_end_it_cleans_up(child: Child, tmp_path: Path) -> None:
    child.ask("echo")

    def end() -> None:
        until((tmp_path / "cleaned.begun").exists)
        # What close() sends first, here while the child is at work.
        os.kill(child.pid, signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(ChildDied, match="ended with exit code 0"):
        child.ask("wait", str(tmp_path / "cleaned"))
    assert (tmp_path / "cleaned").exists()


def test_told_to_end_in_an_import_it_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def end(pid: int) -> None:
        until((tmp_path / "cleaned.begun").exists)
        os.kill(pid, signal.SIGTERM)

    with Child("served_by_test", str(tmp_path / "cleaned")) as child:
        threading.Thread(target=end, args=[child.pid]).start()
        with pytest.raises(ChildDied, match="ended with exit code 0"):
            child.ask("echo")
    assert capfd.readouterr().err == ""


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from edgebert.child import Child\n"
        "child = Child('served_by_test', 0); child.ask('echo'); print(child.pid, flush=True)\n"
        "child.ask('wait', sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "ended"], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    until(lambda: is_over(pid))


def is_over(pid: int) -> bool:
    """Whether a process has ended, whoever waits for it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
