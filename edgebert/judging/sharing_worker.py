"""The process that tells what sharing small work among threads costs; see :mod:`edgebert.judging.speed`."""

from __future__ import annotations

from edgebert.child import serve
from edgebert.judging.speed import Sharing

if __name__ == "__main__":
    serve(Sharing)
