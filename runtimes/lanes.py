"""Calls at once, each on a thread of its own: a second engine beside an artifact's first.

An engine shares every operator among its threads and waits at each for the slowest; of a small model's operators that
costs a good part of the time (docs/results/lanes.md). A call alone is answered sooner so all the same. Of calls at
once, and of the batches of one long call, more are answered in a second where each keeps to one thread. That takes a
second engine, with weights of its own, so it is opened only for small artifacts, when calls first meet, and in the
background: nobody waits for it. What a call answers is the same to the bit on either (a test compares them).
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from edgebert.artifact import Artifact
from edgebert.errors import EdgebertError
from edgebert.runtimes.session import Array, Feed, Open, Session, SessionConfig

# Bytes of an artifact beyond which its operators are long enough to be shared, and its weights too many to have twice.
LARGEST = 128 * 2**20
# Calls that met so lately will meet again: one that begins alone meanwhile keeps to a lane, or the next would find
# all threads taken.
SOON_SECONDS = 0.1


def open_with_lanes(open_session: Open, artifact: Artifact, config: SessionConfig) -> Session:
    """A session that answers calls at once side by side; a plain one of a large artifact, or of one thread."""
    session = open_session(artifact, config)
    if config.thread_count == 1 or artifact.manifest.bytes > LARGEST:
        return session
    aside = replace(config, lanes=config.thread_count)
    return Lanes(session, lambda: open_session(artifact, aside), aside.lanes)


class Lanes:
    """A session of all threads for calls alone, and one of ``count`` lanes of a thread each for calls at once."""

    def __init__(self, session: Session, aside: Callable[[], Session], count: int) -> None:
        self.count = count
        self._session, self._open = session, aside
        self._aside: Session | None = None
        self._asked = self._closed = False
        self._running = 0
        self._met = -math.inf
        self._lock = threading.Lock()
        _LANES.add(self)

    def run(self, feed: Feed) -> dict[str, Array]:
        """See :class:`~edgebert.runtimes.session.Session`."""
        with self._counted() as running:
            aside = self._aside if self._busy(running) else None
            return (aside or self._session).run(feed)

    def _busy(self, running: int) -> bool:
        """Whether calls meet, or met just now, so that each shall have a lane."""
        now = time.monotonic()
        # With fewer, lanes would leave threads without work.
        if running <= self.count // 2:
            return now - self._met < SOON_SECONDS
        self._met = now
        if not self._asked:
            self._ask()
        return True

    @contextmanager
    def _counted(self) -> Iterator[int]:
        with self._lock:
            self._running += 1
            running = self._running
        try:
            yield running
        finally:
            with self._lock:
                self._running -= 1

    def _ask(self) -> None:
        with self._lock:
            if self._asked or self._closed:
                return
            self._asked = True
        # No daemon: a process that ends meanwhile must not pull the interpreter away from below the engine.
        threading.Thread(target=self._open_aside, name="edgebert-lanes").start()

    def _open_aside(self) -> None:
        try:
            aside = self._open()
        except EdgebertError:
            # The files went away, say: the first engine has all that it needs, and goes on.
            return
        with self._lock:
            if not self._closed:
                self._aside = aside
                return
        aside.close()

    def facts(self) -> dict[str, Any]:
        """Those of the first engine, and how many ``lanes`` there are now: 0 until calls have met."""
        return {**self._session.facts(), "lanes": self.count if self._aside else 0}

    def close(self) -> None:
        """See :class:`~edgebert.runtimes.session.Session`."""
        with self._lock:
            self._closed, aside = True, self._aside
        if aside is not None:
            aside.close()
        self._session.close()

    def after_fork(self) -> None:
        """Forget, in the child, calls that ran in the parent, and an engine that was being opened there."""
        self._lock = threading.Lock()
        self._running, self._asked = 0, self._aside is not None


_LANES: weakref.WeakSet[Lanes] = weakref.WeakSet()


def _after_fork() -> None:
    for lanes in _LANES:
        lanes.after_fork()


os.register_at_fork(after_in_child=_after_fork)
