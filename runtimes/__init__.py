"""Runs a deployable, a module for each engine: see the registry for which, `session.py` for the contract.

Imported as `edgebert.runtimes`; in a checkout the folder stands beside `edgebert/`, installed it is inside.
"""

from __future__ import annotations

if __name__ != "edgebert.runtimes":
    raise ImportError("import edgebert.runtimes: the bare name exists only in a checkout")
