"""edgebert turns a BERT into the most accurate one that meets a latency budget, and proves what that cost.

``edgebert.load(path)`` serves an artifact without torch. Building lives in :mod:`edgebert.build`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from edgebert.errors import EdgebertError

if TYPE_CHECKING:
    from edgebert.serving.batcher import Batcher as Batcher
    from edgebert.serving.model import Model as Model
    from edgebert.serving.model import load as load

# ONNX Runtime (seen with 1.32) otherwise reports its use over the network, keeps files in the user's cache for
# that, and has a thread that a forked process hangs on when it ends. It looks when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Batcher", "EdgebertError", "Model", "__version__", "load"]

_MODULE_OF = {
    "load": "edgebert.serving.model",
    "Model": "edgebert.serving.model",
    "Batcher": "edgebert.serving.batcher",
}


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import edgebert` stays as light as numpy alone.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'edgebert' has no attribute {name!r}")
