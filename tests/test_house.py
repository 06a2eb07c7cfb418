"""The rules of the house that no tool checks: layers, names, light imports, pins, words."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgebert

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"edgebert": "edgebert", "exporters": "edgebert.exporters", "runtimes": "edgebert.runtimes"}

# From the roof to the cellar: a module imports from its own row and from those below. `edgebert` alone is the
# package's face, edgebert/__init__.py; modules of the package that no row names are the cellar.
LAYERS = (
    ("edgebert", "edgebert.__main__", "edgebert.cli"),
    ("edgebert.choosing",),
    ("edgebert.build", "edgebert.building"),
    ("edgebert.judging",),
    ("edgebert.serving",),
    ("edgebert.exporters",),
    ("edgebert.training",),
    ("edgebert.runtimes",),
    ("edgebert.shaping",),
)
CELLAR = len(LAYERS)

# Where torch and transformers may be imported; everything else works without them.
HEAVY = ("torch", "transformers")
HEAVY_MODULES = (
    "edgebert.exporters.graph",
    "edgebert.runtimes.reference",
    "edgebert.shaping.checkpoint",
    "edgebert.shaping.depth",
    "edgebert.shaping.fresh",
    "edgebert.shaping.vocab",
    "edgebert.shaping.width",
    "edgebert.training",
)
HEAVY_FREE = ("edgebert.training.data",)


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *rest]).removesuffix(".__init__")


SOURCES = {module_name(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Everything that a module imports, anywhere in it, as full dotted names of modules."""
    is_package = SOURCES[module].name == "__init__.py"
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: None if is_package else -1]
            start = base[: len(base) - node.level + 1] if node.level else []
            package = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{package}.{alias.name}"
                if submodule in SOURCES:
                    yield submodule
                elif submodule != "edgebert.__version__":  # a constant, free for every layer
                    yield package


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer(module: str) -> int:
    if module == "edgebert":
        return 0
    rows = (number for number, row in enumerate(LAYERS) if within(module, tuple(set(row) - {"edgebert"})))
    return next(rows, CELLAR)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_downward_only(module: str) -> None:
    ours = [name for name in imports(module) if within(name, ("edgebert",))]

    assert [name for name in ours if layer(name) < layer(module)] == []


@pytest.mark.parametrize("module", SOURCES)
def test_torch_stays_in_the_modules_made_for_it(module: str) -> None:
    allowed = within(module, HEAVY_MODULES) and not within(module, HEAVY_FREE)

    assert allowed or [name for name in imports(module) if within(name, HEAVY)] == []


def test_every_layer_is_a_module() -> None:
    assert [name for row in LAYERS for name in row if name not in SOURCES] == []


@pytest.mark.parametrize("name", ["exporters", "runtimes"])
def test_bare_names_refuse_to_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)

    with pytest.raises(ImportError, match=f"import edgebert.{name}"):
        importlib.import_module(name)


def test_import_edgebert_is_light() -> None:
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "tensorrt")
    code = f"import sys, edgebert; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_no_module_shadows_a_library() -> None:
    assert [name for name in SOURCES if name.rpartition(".")[2] in {"onnx", "torch", "copy"}] == []


@pytest.mark.parametrize("folder", ["exporters", "runtimes"])
def test_folder_is_flat_and_linked(folder: str) -> None:
    inside = [path.name for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"]

    assert inside == []
    assert (ROOT / "edgebert" / folder).readlink() == Path("..", folder)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def test_version_is_said_once() -> None:
    assert edgebert.__version__ == project()["version"]


def test_every_requirement_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project()["optional-dependencies"].values()
    requirements = [line for group in (project()["dependencies"], *extras) for line in group]
    needed = {re.split(r"[<>=\[]", line)[0] for line in requirements}

    assert needed - {name.lower().replace("_", "-") for name in pins} == set()
    assert pins["torch"] == "2.13.0"  # without a local version, which exists on some machines only
    assert [pin for pin in pins.values() if not re.fullmatch(r"[0-9][0-9a-z.]*", pin)] == []


def test_the_project_speaks_of_itself_alone() -> None:
    """No file names a place outside the checkout that only one machine has."""
    folders = (".ci", "benchmarks", "docs", "examples", "tests", *FOLDERS)
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    words = re.compile("|".join(["/wo" + "rk/", r"\.\./sha" + "red", "/opt/py" + "pi"]).encode())

    assert [str(path) for path in files if path.is_file() and words.search(path.read_bytes())] == []
