"""The wheel holds the whole package and nothing else, from checkout and from sdist, and runs anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import edgebert

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"edgebert": "edgebert", "exporters": "edgebert/exporters", "runtimes": "edgebert/runtimes"}
DATA = ("py.typed", "data/*.txt", "data/*.onnx", "choosing/templates/*.j2")

# One worker builds once for all of them (`--dist loadgroup`).


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command outside the checkout's import path and returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGEBERT"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: setuptools leaves build/ behind, and takes what an older build left there."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a checkout."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, cwd=source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a checkout."""
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, cwd=source)
    return next(out.glob("*.tar.gz"))


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if not entry.is_dir()}


def test_wheel_holds_every_module_and_the_data_and_nothing_else(wheel: Path) -> None:
    modules = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    package = ROOT / "edgebert"
    data = {path.relative_to(ROOT).as_posix() for pattern in DATA for path in package.glob(pattern)}
    dist_info = f"edgebert-{edgebert.__version__}.dist-info/"

    assert {name for name in contents(wheel) if not name.startswith(dist_info)} == modules | data


def test_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, cwd=unpacked)

    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheel)


def test_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    install = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*install, "-c", ROOT / "constraints.txt", f"edgebert[cpu] @ {wheel.as_uri()}", cwd=elsewhere)

    assert edgebert.__version__ in run(python.with_name("edgebert"), "--version", cwd=elsewhere)
    run(python, "-c", "import edgebert, edgebert.exporters, edgebert.runtimes", cwd=elsewhere)
    run(python, "-m", "edgebert", "--help", cwd=elsewhere)
    assert list(elsewhere.iterdir()) == []
