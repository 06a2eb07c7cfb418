"""An engine's life: made when a session opens, let go when it closes, made anew in a forked process that asks."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.runtimes.session import closed

E = TypeVar("E")


class Held(Generic[E]):
    """Holds what ``make`` makes, from now until it is closed.

    ``forks`` False is for engines whose locks may stay locked in a forked process: there it raises at once.
    """

    def __init__(self, make: Callable[[], E], artifact: Artifact, *, forks: bool = True) -> None:
        self._make, self._artifact, self._forks = make, artifact, forks
        self._lock = threading.Lock()
        self._closed = False
        self._engine: E | None = make()
        _HELD.add(self)

    def get(self) -> E:
        """The engine, which the caller keeps until its call ends: a close meanwhile takes nothing away.

        Raises InputError once it was closed.
        """
        engine = self._engine
        return self._reopened() if engine is None else engine

    def close(self) -> None:
        """Let the engine go; doing it twice does nothing."""
        with self._lock:
            self._closed, self._engine = True, None

    def _reopened(self) -> E:
        """The engine of a forked process, made when it first asks; an error once it was closed."""
        with self._lock:
            if self._closed:
                raise closed(self._artifact)
            if not self._forks:
                where, remedy = str(self._artifact.path), "load the model in the process that uses it"
                raise InputError("the engine does not go on in a forked process", where, remedy)
            if self._engine is None:
                self._engine = self._make()
            return self._engine

    def after_fork(self) -> None:
        """Forget, in the child, the parent's engine: its threads stayed there, and whoever waits for them hangs."""
        engine, self._engine = self._engine, None
        self._lock = threading.Lock()
        if engine is not None:
            # Its destructor waits too, so the engine gets a reference that nobody gives back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


_HELD: weakref.WeakSet[Held[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for held in _HELD:
        held.after_fork()


os.register_at_fork(after_in_child=_after_fork)
