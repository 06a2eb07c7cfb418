"""edgebert turns a BERT into the most accurate one that meets a latency budget, and proves what that cost.

``edgebert.load(path)`` serves an artifact without torch. Building lives in :mod:`edgebert.build`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebert.errors import EdgebertError

if TYPE_CHECKING:
    from edgebert.serving.model import Model as Model
    from edgebert.serving.model import load as load

__version__ = "0.1.0"
__all__ = ["EdgebertError", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import edgebert` stays as light as numpy alone.
    if name in ("load", "Model"):
        from edgebert.serving import model

        return getattr(model, name)
    raise AttributeError(f"module 'edgebert' has no attribute {name!r}")
