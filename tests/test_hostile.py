"""Hostile artifacts, opened from outside: refused by name, quickly, in little memory, nothing touched."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hostile import CASES, GOLDEN_CASES
from tiny import PAIRS, PEAK, TASKS, Exports

from edgebert import build
from edgebert.artifact import MANIFEST, MANIFEST_HASH, Artifact
from edgebert.checked_graph import check_agreement
from edgebert.errors import InputError
from edgebert.graph_guard import inspect
from edgebert.serving.model import load

pytestmark = pytest.mark.usefixtures("one_trace")
MOST_SECONDS, MOST_BYTES = 5.0, 500_000_000

# One process for all, which has loaded a sound artifact before: what it then holds at most is its own doing.
OPENER = (
    PEAK
    + """
import json, sys, time
import edgebert
from edgebert.judging.verify import verify
edgebert.load(sys.argv[1]).predict(["a film"])
found = {}
for name, folder, call in json.loads(sys.argv[2]):
    start = time.process_time()
    try:
        (verify if call == "verify" else edgebert.load)(folder)
        error = None
    except edgebert.EdgebertError as caught:
        error = [type(caught).__name__, caught.exit_code, str(caught), caught.remedy]
    except Exception as caught:
        error = [type(caught).__name__, 1, repr(caught), ""]
    peak = peak_bytes()
    found[name] = {"error": error, "seconds": time.process_time() - start, "peak": peak}
print(json.dumps(found))
"""
)


@pytest.fixture(scope="module")
def sound(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact as `export` makes it, with golden vectors and all."""
    out = tmp_path_factory.mktemp("sound")
    model = exports.checkpoint("bert", TASKS[0]).path
    return build.export(str(model), layers=2, target="cpu", precision="fp32", out=out)[0].path


@pytest.fixture(scope="module")
def corpus(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    (root / "canary").write_text("untouched")
    for name, (case, _) in {**CASES, **GOLDEN_CASES}.items():
        shutil.copytree(sound, root / name)
        case(root / name)
    return root


@pytest.fixture(scope="module")
def opened(sound: Path, corpus: Path) -> dict[str, Any]:
    cases = [(name, str(corpus / name), "load") for name in CASES]
    cases += [(name, str(corpus / name), "verify") for name in GOLDEN_CASES]
    command = [sys.executable, "-c", OPENER, str(sound), json.dumps(cases)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout)
    return found


@pytest.mark.parametrize("name", [*CASES, *GOLDEN_CASES])
def test_a_hostile_artifact_is_refused_by_name(name: str, opened: dict[str, Any], corpus: Path) -> None:
    _, match = {**CASES, **GOLDEN_CASES}[name]
    found = opened[name]
    assert found["error"] is not None, "it was opened"
    kind, code, message, remedy = found["error"]
    assert (kind, code) == ("InputError", 3)
    assert re.search(match, message)
    assert str(corpus / name) in message
    assert remedy
    assert found["seconds"] < MOST_SECONDS
    assert found["peak"] < MOST_BYTES


def test_no_hostile_artifact_touches_anything(opened: dict[str, Any], corpus: Path) -> None:
    assert len(opened) == len(CASES) + len(GOLDEN_CASES)
    assert (corpus / "canary").read_text() == "untouched"
    assert not (corpus / "canary-run").exists()


@pytest.mark.parametrize("name", ["symbolic link", "foreign operators", "a bomb"])
def test_the_command_says_one_line(name: str, corpus: Path) -> None:
    command = [sys.executable, "-m", "edgebert", "verify", str(corpus / name), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(corpus / name) in line


def test_every_flipped_bit_is_noticed_before_the_engine_sees_it(sound: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    names = [MANIFEST, MANIFEST_HASH, *Artifact.open(copy).manifest.files]
    generator = random.Random(0)
    for _ in range(1000):
        # Each file as often as the others, however small it is.
        path = copy / generator.choice(names)
        content = path.read_bytes()
        harmed = bytearray(content)
        harmed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(harmed)
        with pytest.raises(InputError) as caught:
            load(copy, threads=1)
        assert "ONNX Runtime" not in caught.value.what
        path.write_bytes(content)
    load(copy, threads=1).close()


@pytest.mark.parametrize(("family", "task"), PAIRS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_edgebert_writes_is_accepted(exports: Exports, family: str, task: str, precision: str) -> None:
    artifact = exports.artifact(family, task, precision=precision)
    graph = inspect(artifact.read("model.onnx"), "here")
    check_agreement(artifact.manifest, graph, "here")
    load(artifact.path, threads=1).close()


def test_a_file_swapped_after_it_was_read_changes_nothing(sound: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    artifact = Artifact.open(copy)
    checked = partial(artifact.read, "model.onnx")
    before = checked()
    (copy / "model.onnx").write_bytes(before[::-1])
    with pytest.raises(InputError, match="does not match its hash"):
        checked()
    with pytest.raises(InputError, match="does not match its hash"):
        load(copy)


def test_a_graph_changed_at_random_is_read_or_refused(exports: Exports) -> None:
    content = exports.artifact("roberta", TASKS[0], precision="int8").read("model.onnx")
    generator = random.Random(1)
    refused = 0
    for _ in range(200):
        harmed = bytearray(content)
        for _ in range(generator.choice((1, 3, 20))):
            harmed[generator.randrange(len(content))] = generator.randrange(256)
        try:
            inspect(bytes(harmed[: generator.choice((len(content), generator.randrange(len(content))))]), "here")
        except InputError:
            refused += 1
    assert 50 < refused < 200
