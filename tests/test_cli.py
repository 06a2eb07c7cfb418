from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from commands import ROOT, command, edgebert, environment, program, tree
from tiny import checkpoint, labelled

from edgebert.artifact import MANIFEST, Artifact
from edgebert.cli import _COMMANDS

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("cli-data"))


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli-out") / "out"
    done = edgebert("export", "--model", model, "--layers", "1,2", "--precision", "fp32,int8", "-o", out, "--json")
    assert done.code == 0, done.err
    keys = {"path", "layers", "target", "precision", "bytes", "checks"}
    assert all(keys <= entry.keys() for entry in done.json["artifacts"])
    assert len(done.json["artifacts"]) == 4
    return out


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    done = edgebert(name, "--help")
    assert done.code == 0
    assert f"edgebert {name}" in " ".join(done.out.split("Example:")[1].split())


def _pickle_only(folder: Path) -> Path:
    checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def _other_family(folder: Path) -> Path:
    checkpoint(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _data(folder: Path, train: str, test: str | None = None) -> Path:
    folder.mkdir()
    (folder / "train.csv").write_text(train)
    if test is not None:
        (folder / "test.csv").write_text(test)
    return folder


GOOD = "text,label\na film,yes\na song,no\nthe city,yes\nthe road,no\n"

OTHER = "text,label\na,other\n"
Arguments = Callable[[Path, Path, Path], list[object]]


def _export(*more: object) -> Arguments:
    return lambda model, data, folder: ["export", "--model", model, *more]


def _fit(*more: object) -> Arguments:
    return lambda model, data, folder: ["fit", "--model", model, "--data", data, *more]


def _fit_on(train: str, test: str | None = None) -> Arguments:
    return lambda model, data, folder: _fit("--budget", "p50=9ms")(model, _data(folder / "in", train, test), folder)


def _plain(*arguments: object) -> Arguments:
    return lambda model, data, folder: list(arguments)


# What is wrong: the exit code, what the line must say, the command.
BAD: dict[str, tuple[int, str, Arguments]] = {
    "other family": (3, r"gpt2.*bert, distilbert, roberta", lambda m, d, t: _export()(_other_family(t / "in"), d, t)),
    "pickle only": (3, "pickle", lambda m, d, t: _export()(_pickle_only(t / "in"), d, t)),
    "no such checkpoint": (3, "no such checkpoint", lambda m, d, t: _export()(t / "nowhere", d, t)),
    "layers 0": (2, "0 of 3 layers", _export("--layers", "0")),
    "layers 4 of 3": (2, "4 of 3 layers", _export("--layers", "4")),
    "layers no number": (2, "whole number", _export("--layers", "many")),
    "keep twice": (2, "repeat", _export("--layers", "2", "--keep", "0,0")),
    "keep words": (2, "unreadable", _export("--layers", "2", "--keep", "a,b")),
    "no such target": (2, "one of cpu, torch", _export("--target", "toaster")),
    "target not here": (6, "no runtime for target trt", _plain("bench", "--target", "trt")),
    "no such pair": (2, "torch: fp32", _export("--target", "torch", "--precision", "int8")),
    "onto the checkpoint": (2, "checkpoint itself", lambda m, d, t: _export("-o", m)(m, d, t)),
    "missing column": (3, "column", _fit_on("sentence,label\na film,yes\na song,no\n")),
    "empty file": (3, "empty|no rows", _fit_on("")),
    "new label in test": (3, "not in train", _fit_on(GOOD, OTHER)),
    "fit layers 4 of 3": (2, "4 of 3", _fit("--budget", "p50=9ms", "--layers", "4")),
    "budget without a unit": (2, "no unit", _fit("--budget", "p95=10")),
    "no budget": (2, "nothing to fit to", _fit()),
    "nothing to bench": (3, "no artifacts", _plain("bench")),
    "no artifact": (3, "not an edgebert artifact", _plain("verify", ".")),
    "no sweep": (3, "not a sweep folder", _plain("pick", ".", "--budget", "p50=1ms")),
    "unknown flag": (2, "No such option", _plain("sizes", "--colour")),
    "unknown command": (2, "No such command", _plain("frobnicate")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, message, arguments = BAD[case]
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = tree(model)
    done = edgebert(*arguments(model, data, tmp_path), *([] if case.startswith("unknown ") else ["--json"]))
    assert (done.code, done.out) == (code, ""), done.err
    assert re.search(message, done.error), done.error
    assert tree(work) == {}
    assert tree(model) == before


def test_an_artifact_that_exists_is_not_overwritten(model: Path, exported: Path) -> None:
    before = tree(exported)
    done = edgebert("export", "--model", model, "--layers", "1", "-o", exported)
    assert done.code == 2
    assert "already exists" in done.error
    assert tree(exported) == before


def test_exporting_again_with_force_gives_the_same_bytes(model: Path, exported: Path) -> None:
    before = tree(exported)
    done = edgebert(
        "export", "--model", model, "--layers", "1,2", "--precision", "fp32,int8", "-o", exported, "--force"
    )
    assert done.code == 0
    assert tree(exported) == before
    assert "tiny" in done.err
    assert "packaged text sample" in done.err
    assert len(done.out.splitlines()) == 4


def test_bench_reports_what_the_contract_says(exported: Path) -> None:
    done = edgebert("bench", exported, "--samples", "6", "--threads", "1", "--json")
    keys = {
        "artifact",
        "layers",
        "target",
        "precision",
        "batch_size",
        "seq_len",
        "threads",
        "samples",
        "p50_ms",
        "p95_ms",
        "texts_per_s",
    }
    assert len(done.json["results"]) == 4
    assert all(keys <= row.keys() for row in done.json["results"])


def test_verify_proves_an_artifact_and_refuses_a_flipped_byte(exported: Path, model: Path, tmp_path: Path) -> None:
    artifact = Artifact.open(next(exported.glob("*-l2-cpu-fp32")))
    done = edgebert("verify", artifact.path, "--json")
    assert done.json["ok"] is True
    assert done.json["stages"][0]["name"] == "golden"
    copy = shutil.copytree(artifact.path, tmp_path / "copy")
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    broken = edgebert("verify", copy)
    assert broken.code == 3
    assert "does not match its hash" in broken.error


def test_golden_vectors_of_another_model_fail_the_check(exported: Path, tmp_path: Path) -> None:
    right, other = (next(exported.glob(f"*-l{n}-cpu-fp32")) for n in (2, 1))
    copy = shutil.copytree(right, tmp_path / "copy")
    shutil.copyfile(other / "golden.npz", copy / "golden.npz")
    document = json.loads((copy / MANIFEST).read_text())
    document["files"]["golden.npz"] = json.loads((other / MANIFEST).read_text())["files"]["golden.npz"]
    (copy / MANIFEST).write_text(json.dumps(document))
    done = edgebert("verify", copy, "--json")
    assert done.code == 4
    assert done.json["ok"] is False


def test_sizes_lists_every_depth(model: Path) -> None:
    shapes = edgebert("sizes", "--model", model, "--json").json["shapes"]
    assert [shape["layers"] for shape in shapes] == [1, 2, 3]
    keys = {"layers", "hidden", "heads", "ffn", "vocab", "params", "flops_per_token", "bytes"}
    assert all(keys <= shape.keys() for shape in shapes)


def test_resize_writes_a_checkpoint_that_transformers_loads(model: Path, tmp_path: Path) -> None:
    assert edgebert("resize", "--model", model, "--layers", "2", "--keep", "0,2", "-o", tmp_path / "small").code == 0
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert loaded.config.num_hidden_layers == 2


def test_distill_trains_several_depths(model: Path, data: Path, tmp_path: Path) -> None:
    arguments = (
        "distill",
        "--model",
        model,
        "--data",
        data,
        "--layers",
        "1,2",
        "--max-steps",
        "2",
        "-o",
        tmp_path / "out",
    )
    done = edgebert(*arguments, "--json")
    assert [entry["layers"] for entry in done.json["artifacts"]] == [1, 2]
    before = tree(tmp_path / "out")
    assert edgebert(*arguments).code == 0
    assert tree(tmp_path / "out") == before


def test_doctor_says_what_runs_here(exported: Path) -> None:
    done = edgebert("doctor", next(exported.glob("*-l1-cpu-int8")), "--json")
    assert done.json["targets"]["cpu"] == "ready"
    assert "golden vectors right" in done.json["artifact"]["state"]


def test_flags_are_environment_variables_too(model: Path) -> None:
    done = program("sizes", EDGEBERT_MODEL=str(model), EDGEBERT_LAYERS="2", EDGEBERT_JSON="1")
    assert [shape["layers"] for shape in done.json["shapes"]] == [2]


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    many = ",".join(map(str, range(1, 2000)))
    with subprocess.Popen(
        command("sizes", "--model", model, "--layers", many, "--json"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdout
        assert writer.stderr
        writer.stdout.read(10)
        writer.stdout.close()
        assert b"Traceback" not in writer.stderr.read()
        assert writer.wait(60) == 0


def test_paths_with_blanks_and_letters_work_in_the_c_locale(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "mein Módell 模型")
    done = program("sizes", "--model", folder, "--json", LC_ALL="C")
    assert done.json["model"] == "mein Módell 模型"


@pytest.mark.parametrize("seconds", [3.0, 9.0])
def test_a_killed_export_leaves_all_or_nothing(model: Path, tmp_path: Path, seconds: float) -> None:
    out = tmp_path / "out"
    arguments = ("export", "--model", model, "--layers", "1,2", "-q", "-o", out)
    process = subprocess.Popen(command(*arguments), env=environment())
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in out.glob("tiny-*"):
        Artifact.open(folder).read("model.onnx")
    assert edgebert(*arguments, "--force").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["tiny-l1-cpu-fp32", "tiny-l2-cpu-fp32"]


def test_the_readme_names_only_commands_and_flags_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for line in re.findall(r"`?edgebert ([a-z]+ [^`\n|]*)", text):
        name, *rest = line.split()
        if name not in _COMMANDS:
            continue
        shown = edgebert(name, "--help").out
        for flag in (word for word in rest if word.startswith("--")):
            assert flag in shown, f"{name} {flag}"
