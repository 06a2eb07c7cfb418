"""Turns a PyTorch checkpoint into something deployable, a module for each step: see the registry for which.

Imported as `edgebert.exporters`; in a checkout the folder stands beside `edgebert/`, installed it is inside.
"""

from __future__ import annotations

if __name__ != "edgebert.exporters":
    raise ImportError("import edgebert.exporters: the bare name exists only in a checkout")
