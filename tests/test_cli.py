from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from commands import ROOT, command, edgebert, environment, program, tree
from tiny import checkpoint, labelled

from edgebert import stage
from edgebert.artifact import MANIFEST, Artifact, Manifest
from edgebert.cli import _COMMANDS


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


def _file(path: Path) -> Path:
    path.write_text("somebody's")
    return path


def _resize(model: Path) -> list[object]:
    return ["resize", "--model", model, "--layers", "1"]


def _distill(model: Path, data: object) -> list[object]:
    return ["distill", "--model", model, "--data", data, "--layers", "1"]


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


_LAST, _MIXED = (("--budget", "p50=9ms", "--keep", keep) for keep in ("1,2", "2,1,0"))

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
    "fit with a list for other depths": (2, "2 layers are listed for --layers 1", _fit(*_LAST, "--layers", "1,2")),
    "fit with a teacher in another order": (2, "full depth", _fit(*_MIXED, "--layers", "3")),
    "no such target": (2, "one of cpu, openvino, torch", _export("--target", "toaster")),
    "target not here": (6, "missing package: tensorrt", _plain("bench", "--target", "trt")),
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
    "no name": (2, "comma-separated list", _export("--precision", ",")),
    "the same depth twice": (2, "asked for twice", _export("--layers", "1,1")),
    "one of two targets not here": (6, "missing package: tensorrt", _export("--target", "cpu,trt")),
    "onto a file": (3, "mixed up", lambda m, d, t: _export("-o", _file(t / "file"))(m, d, t)),
    "fit onto a file": (3, "mixed up", lambda m, d, t: _fit("--budget", "p50=9ms", "-o", _file(t / "file"))(m, d, t)),
    "fit onto the checkpoint": (2, "itself", lambda m, d, t: _fit("--budget", "p50=9ms", "-o", m)(m, d, t)),
    "resize onto the checkpoint": (2, "itself", lambda m, d, t: [*_resize(m), "-o", m, "--force"]),
    "resize to nowhere": (2, "Missing option '-o'", lambda m, d, t: _resize(m)),
    "distill onto the checkpoint": (2, "itself", lambda m, d, t: [*_distill(m, d), "-o", m]),
    "distill by magic": (2, "one of none, logits, hidden", lambda m, d, t: [*_distill(m, d), "--method", "magic"]),
    "distill at no rate": (2, "lr is nan", lambda m, d, t: [*_distill(m, d), "--lr", "nan"]),
    "distill layers 4 of 3": (2, "4 of 3", lambda m, d, t: [*_distill(m, d), "--layers", "4"]),
    "columns of another form": (2, "text=sentence", _export("--columns", "text")),
    "no such column field": (
        2,
        "no field is called",
        lambda m, d, t: [*_distill(m, d), "--columns", "y=text"],
    ),
    "no such task": (2, "one of auto", _export("--task", "poetry")),
    "sizes of no layers": (2, "0 layers", lambda m, d, t: ["sizes", "--model", m, "--layers", "0"]),
    "pick without a unit": (2, "no unit", _plain("pick", ".", "--budget", "p95=10")),
    "pick by nothing": (2, "nothing to pick by", _plain("pick", ".")),
    "report of nothing": (3, "not a sweep folder", _plain("report", ".")),
    "a checkpoint is no artifact": (3, "not an edgebert artifact", lambda m, d, t: ["doctor", m]),
    "layers beyond counting": (2, "of 3 layers", _export("--layers", "99999999999999999999")),
    "fewer than no layers": (2, "-1 of 3 layers", _fit("--budget", "p50=9ms", "--layers", "-1")),
    "layers in part": (2, "whole number", _export("--layers", "1.5")),
    "a layer left out": (2, "whole number", _export("--layers", "1,,2")),
    "no threads": (2, "--threads", _fit("--budget", "p50=9ms", "--threads", "0")),
    "fewer than no threads": (2, "--threads", _fit("--budget", "p50=9ms", "--threads", "-1")),
    "threads beyond counting": (2, "--threads", _fit("--budget", "p50=9ms", "--threads", "99999999999999999999")),
    "batches beyond counting": (2, "--batch-size", _fit("--budget", "p50=9ms", "--batch-size", "99999999999999999999")),
    "texts of two tokens": (2, "--seq-len", _fit("--budget", "p50=9ms", "--seq-len", "2")),
    "no samples": (2, "--samples", _plain("bench", "--samples", "0")),
    "samples beyond counting": (2, "--samples", _plain("bench", "--samples", "99999999999999999999")),
    "no epochs": (2, "--epochs", lambda m, d, t: [*_distill(m, d), "--epochs", "0"]),
    "epochs without end": (2, "epochs is inf", lambda m, d, t: [*_distill(m, d), "--epochs", "inf"]),
    "no steps": (2, "--max-steps", lambda m, d, t: [*_distill(m, d), "--max-steps", "-1"]),
    "no training batch": (2, "--train-batch-size", lambda m, d, t: [*_distill(m, d), "--train-batch-size", "0"]),
    "alpha of two": (2, "--alpha", lambda m, d, t: [*_distill(m, d), "--alpha", "2"]),
    "alpha of nothing": (2, "alpha is nan", lambda m, d, t: [*_distill(m, d), "--alpha", "nan"]),
    "seed in words": (2, "--seed", lambda m, d, t: [*_distill(m, d), "--seed", "x"]),
    "a seed below nothing": (2, "--seed", lambda m, d, t: [*_distill(m, d), "--seed", "-1"]),
    "a seed beyond counting": (2, "--seed", lambda m, d, t: [*_distill(m, d), "--seed", "99999999999999999999"]),
    "a drop of nothing": (2, "drop of nan", _fit("--max-drop", "nan")),
    "a negative drop": (2, "drop of -1", _plain("pick", ".", "--max-drop", "-1")),
    **{
        f"budget {budget!r}": (2, "--budget", _plain("pick", ".", "--budget", budget))
        for budget in (
            "nan",
            "-1",
            "0",
            "10",
            "",
            "10ms",
            "p95=",
            "=10ms",
            "p95=nanms",
            "p95=-1ms",
            "p95=0ms",
            "p95=infms",
            "p95=1e400ms",
            "p99=1ms",
            "p95=10min",
            "p95==10ms",
            "p95=10ms,p95=2ms",
            "p95=10ms,",
            "size=25ms",
            "p95=1_0ms",
        )
    },
    "a name that is too long": (3, "unusable path", lambda m, d, t: [*_distill(m, "x" * 5000)]),
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
    bad = arguments(model, data, tmp_path)
    for flags in ((), ("-q",)) if case.startswith("unknown ") else (("--json",), ("-q",)):
        done = edgebert(*bad, *flags)
        assert (done.code, done.out) == (code, ""), done.err
        assert re.search(message, done.error), done.error
    assert done.err == done.error + "\n"
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
    stage.write_manifest(copy, Manifest.from_dict(document, "copy"))
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


def test_a_strategy_shows_in_names_and_manifests(model: Path, data: Path, tmp_path: Path) -> None:
    def told(*arguments: object) -> list[tuple[str, tuple[int, ...]]]:
        done = edgebert(*arguments, "--json")
        assert done.code == 0, done.err
        made = [Artifact.open(entry["path"]) for entry in done.json["artifacts"]]
        return [(artifact.path.name, artifact.manifest.kept_layers) for artifact in made]

    flags = ("--model", model, "--layers", "2", "--keep")
    assert told("export", *flags, "last", "-o", tmp_path / "out") == [("tiny-l2-keep1-2-cpu-fp32", (1, 2))]
    assert told("resize", *flags, "symmetric", "-o", tmp_path / "small") == [("small", (0, 2))]
    training = ("--data", data, "--max-steps", 1, "-o", tmp_path / "students")
    assert told("distill", *flags, "last", *training) == [("tiny-l2-keep1-2", (1, 2))]
    # Another choice of layers is another student, not the same one again.
    assert told("distill", *flags, "first", *training) == [("tiny-l2", (0, 1))]


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


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_refuses_flags_that_it_does_not_know(name: str) -> None:
    done = edgebert(name, "--no-such-flag")
    assert (done.code, done.out) == (2, "")
    assert "--no-such-flag" in done.error


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("export", "LAYERS", "many"), ("export", "JSON", "perhaps"), ("export", "FORCE", "x"), ("sizes", "LAYERS", ","),
        ("resize", "LAYERS", "x"), ("distill", "LR", "fast"), ("bench", "SAMPLES", "-1"), ("fit", "THREADS", "0"),
        ("pick", "MAX_DROP", "x"), ("report", "QUIET", "x"), ("doctor", "JSON", "x"), ("verify", "COLUMNS", "text"),
    ],
)  # fmt: skip
def test_a_bad_environment_variable_is_a_usage_error(
    name: str, flag: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EDGEBERT_{flag}", value)
    given = {"resize": ["-o", "x"], "distill": ["--data", "x", "--layers", "1"], "fit": ["--data", "x"]}
    folder = [] if name in ("export", "sizes", "bench", "resize", "distill", "fit") else ["x"]
    done = edgebert(name, *given.get(name, folder))
    assert (done.code, done.out) == (2, "")
    assert f"--{flag.lower().replace('_', '-')}" in done.error


def test_the_program_alone_shows_its_help() -> None:
    done = edgebert()
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Usage: edgebert")
    assert "fit" in done.err


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


def test_paths_with_blanks_and_letters_work_where_file_names_are_ascii(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "mein Módell 模型")
    arguments = ("resize", "--model", folder, "--layers", 1, "-o", tmp_path / "aus gäbe")
    done = program(*arguments, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.code == 0, done.err
    assert Artifact.open(tmp_path / "aus gäbe").manifest.name == "mein Módell 模型"


def test_without_a_model_the_default_is_named(minilm: str) -> None:
    done = edgebert("sizes", "--layers", 1)
    assert done.err.startswith(f"{minilm}\n")
    assert done.out == ""


def test_bench_without_an_artifact_finds_those_of_the_default_folder(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = exported / "tiny-l1-cpu-fp32"
    # An export, a fit with its copy of the best, and what a killed run left.
    half_made = Path("fit", "work", "stages", "l1")
    for place in ("one", "fit/artifacts/two", "fit/best", ".work.tmp-1-00/l1", half_made):
        shutil.copytree(one, tmp_path / "edgebert-out" / place)
    done = edgebert("bench", "--samples", 2, "--threads", 1, "--json")
    found = [row["artifact"] for row in done.json["results"]]
    assert found == ["edgebert-out/fit/artifacts/two", "edgebert-out/one"]
    assert "benchmarking" in done.err
    assert all(path in done.err for path in found)


def test_bench_compares_targets_on_lengths_that_are_asked_for(exported: Path) -> None:
    flags = ("--target", "cpu,torch", "--batch-size", 2, "--seq-len", 12, "--samples", 3, "--threads", 1, "--json")
    done = edgebert("bench", exported / "tiny-l1-cpu-fp32", *flags)
    rows = [(row["target"], row["batch_size"], row["seq_len"], row["p95_ms"]) for row in done.json["results"]]
    assert rows == [("cpu", 2, 12, None), ("torch", 2, 12, None)]


def test_verify_compares_with_a_checkpoint_and_judges_on_data(
    exported: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    assert edgebert("resize", "--model", model, "--layers", 2, "-o", tmp_path / "two").code == 0
    artifact = exported / "tiny-l2-cpu-fp32"
    done = edgebert("verify", artifact, "--reference", tmp_path / "two", "--data", data, "--json")
    assert done.code == 0, done.err
    keys = {"name", "max_abs_error", "cosine", "label_agreement", "tolerance", "ok"}
    assert all(keys <= stage.keys() for stage in done.json["stages"])
    assert [stage["name"] for stage in done.json["stages"]] == ["golden", "reference"]
    assert done.json["metric"].keys() == {"name", "value", "low", "high"}
    other = edgebert("verify", artifact, "--reference", model)
    assert other.code == 2
    assert "3 layers, the artifact 2" in other.error


def test_distill_refuses_a_folder_of_other_settings(model: Path, data: Path, tmp_path: Path) -> None:
    training = ("distill", "--model", model, "--data", data, "--layers", 1, "--max-steps", 1, "-o", tmp_path)
    assert edgebert(*training).code == 0
    before = tree(tmp_path)
    done = edgebert(*training, "--lr", 1e-3)
    assert done.code == 2
    assert "lr changed since this was trained" in done.error
    assert tree(tmp_path) == before


def test_the_readme_names_only_commands_and_flags_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for line in re.findall(r"`?edgebert ([a-z]+ [^`\n|]*)", text):
        name, *rest = line.split()
        if name not in _COMMANDS:
            continue
        shown = edgebert(name, "--help").out
        for flag in (word for word in rest if word.startswith("--")):
            assert flag in shown, f"{name} {flag}"
