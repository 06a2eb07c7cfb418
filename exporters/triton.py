"""An artifact as a Triton model repository: tokens, graph and, of encoders, pooling, joined by an ensemble.

The configuration's schema is Triton's model_config.proto; what its backends do is in
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgebert.artifact import Artifact, Pooling, axis_size
from edgebert.errors import UsageError
from edgebert.exporters.pbtxt import Word, entries, text_format
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.profiles import Profile
from edgebert.runtimes.session import padded_right
from edgebert.stage import publish, write_json
from edgebert.tasks import TASKS
from edgebert.tokenizer import TOKENIZER, pad_id

# Tokens to which requests are padded, so that those of similar length can be batched.
PAD_TO = 16
_MOST_TEXTS = 32
# How long a request waits for company; long enough for a burst, short beside a network.
_DELAY_MICROSECONDS = 500
_VERSION = "1"
_TYPES = {"int64": Word("TYPE_INT64"), "float32": Word("TYPE_FP32")}
# Triton's way to run each target's artifacts.
_GPU = {"cpu": False, "cuda": True, "ort-trt": True, "trt": True}


@dataclass(frozen=True)
class Repository:
    """A written repository: where, and its models; the first is the one to ask."""

    path: Path
    models: tuple[str, ...]


def write_repository(
    artifact: Artifact, out: Path, name: str, preferred: Sequence[int] = (), *, force: bool = False
) -> Repository:
    """Write the repository, whole or not at all. ``preferred`` are the batch sizes that measurements speak for.

    Raises UsageError for artifacts that Triton has no way to run, InputError for broken ones.
    """
    _check(artifact)
    models = _models(artifact, name, preferred)
    with publish(out, force=force) as root:
        for model, config in models.items():
            (root / model / _VERSION).mkdir(parents=True)
            (root / model / "config.pbtxt").write_text(text_format({"name": model, **config}), "utf-8")
        _fill(artifact, root, name)
    return Repository(out, tuple(models))


def _check(artifact: Artifact) -> None:
    manifest = artifact.manifest
    where = str(artifact.path)
    if manifest.target not in _GPU:
        raise UsageError(f"Triton runs nothing for target {manifest.target}", where, f"export for {', '.join(_GPU)}")
    if TASKS[manifest.task].use not in ("predict", "encode"):
        raise UsageError(f"no ensemble answers {manifest.task}", where, "package a classifier or an encoder")
    if manifest.fixed is not None:
        raise UsageError("a graph of one shape cannot be batched", where, "export it without --fixed")
    if (profile := _profile(artifact)) is not None and profile.least[0] > 1:
        raise UsageError(f"its engine takes no single text ({profile})", where, "export it with --profile 1x...")


def _models(artifact: Artifact, name: str, preferred: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The configuration of each model by its name."""
    models = {
        name: _ensemble(artifact, name),
        f"{name}-tokens": _tokens(artifact),
        f"{name}-graph": _graph(artifact, preferred),
    }
    if _pools(artifact):
        models[f"{name}-vectors"] = _vectors(artifact)
    return models


def _pools(artifact: Artifact) -> bool:
    return TASKS[artifact.manifest.task].pools


def _profile(artifact: Artifact) -> Profile | None:
    about = artifact.manifest.needs.get("engine")
    return None if about is None else Profile.of(about["profile"])


def _most(artifact: Artifact) -> int:
    profile = _profile(artifact)
    return _MOST_TEXTS if profile is None else profile.most[0]


def _token_tensors(artifact: Artifact) -> list[dict[str, Any]]:
    return [_tensor(spec.name, spec.dtype, [-1]) for spec in artifact.manifest.inputs]


def _graph_outputs(artifact: Artifact) -> list[dict[str, Any]]:
    """The graph's outputs without the batch; a classifier's has its labels beside it."""
    found = []
    for output in TASKS[artifact.manifest.task].outputs:
        dims = [-1 if axis == "sequence" else axis_size(artifact.manifest, axis) for axis in output.shape[1:]]
        found.append(_tensor(output.name, "float32", dims))
        if artifact.manifest.labels:
            found[-1]["label_filename"] = "labels.txt"
    return found


def _answers(artifact: Artifact) -> list[dict[str, Any]]:
    """What the ensemble gives."""
    if _pools(artifact):
        return [_tensor("embedding", "float32", [artifact.manifest.architecture.hidden])]
    return [{key: value for key, value in each.items() if key != "label_filename"} for each in _graph_outputs(artifact)]


def _tensor(name: str, dtype: str, dims: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "data_type": _TYPES[dtype], "dims": list(dims)}


_TEXT = {"name": "TEXT", "data_type": Word("TYPE_STRING"), "dims": [-1]}


def _tokens(artifact: Artifact) -> dict[str, Any]:
    return {
        "backend": "python", "max_batch_size": _most(artifact), "input": [_TEXT], "output": _token_tensors(artifact),
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
    }  # fmt: skip


def _vectors(artifact: Artifact) -> dict[str, Any]:
    return {
        "backend": "python", "max_batch_size": _most(artifact),
        "input": [*_bare(_graph_outputs(artifact)), _tensor("attention_mask", "int64", [-1])],
        "output": _answers(artifact), "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
    }  # fmt: skip


def _bare(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: tensor[key] for key in ("name", "data_type", "dims")} for tensor in tensors]


def _graph(artifact: Artifact, preferred: Sequence[int]) -> dict[str, Any]:
    target = artifact.manifest.target
    kind = Word("KIND_GPU" if _GPU[target] else "KIND_CPU")
    batching: dict[str, Any] = {"max_queue_delay_microseconds": _DELAY_MICROSECONDS}
    if fitting := [size for size in preferred if size <= _most(artifact)]:
        batching["preferred_batch_size"] = fitting
    return {
        **_backend(artifact), "max_batch_size": _most(artifact), "input": _token_tensors(artifact),
        "output": _graph_outputs(artifact), "instance_group": [{"count": 1, "kind": kind}],
        "dynamic_batching": batching, "model_warmup": _warm_up(artifact),
    }  # fmt: skip


def _backend(artifact: Artifact) -> dict[str, Any]:
    target = artifact.manifest.target
    if target == "trt":
        plans = {
            each: f"engine-sm{each.replace('.', '')}.plan" for each in artifact.manifest.needs["engine"]["capabilities"]
        }
        return {"backend": "tensorrt", "cc_model_filenames": entries(plans)}
    accelerated = {
        "gpu_execution_accelerator": [{"name": "tensorrt", "parameters": entries(_trt_parameters(artifact))}]
    }
    optimization = {"optimization": {"execution_accelerators": accelerated}} if target == "ort-trt" else {}
    return {"backend": "onnxruntime", **optimization}


def _trt_parameters(artifact: Artifact) -> dict[str, str]:
    return {"precision_mode": "FP16" if artifact.manifest.needs.get("typed") else "FP32"}


def _least(artifact: Artifact) -> int:
    """Tokens in a request at least."""
    profile = _profile(artifact)
    return 1 if profile is None else profile.least[1]


def _warm_up(artifact: Artifact) -> list[dict[str, Any]]:
    """One text and a full batch before the first request; zeros are tokens too.

    Attention that is told lengths has nothing to compute under a mask of zeros, and nobody tried what it makes of that.
    """
    if padded_right(artifact):
        return []
    length = max(_least(artifact), min(PAD_TO, artifact.manifest.max_length))
    inputs = {
        spec.name: {"data_type": _TYPES[spec.dtype], "dims": [length], "zero_data": True}
        for spec in artifact.manifest.inputs
    }
    sizes = sorted({1, _most(artifact)})
    return [{"name": f"{size} texts", "batch_size": size, "inputs": entries(inputs)} for size in sizes]


def _ensemble(artifact: Artifact, name: str) -> dict[str, Any]:
    tokens = {spec.name: spec.name for spec in artifact.manifest.inputs}
    outputs = {output.name: output.name for output in TASKS[artifact.manifest.task].outputs}
    steps = [_step(f"{name}-tokens", {"TEXT": "TEXT"}, tokens), _step(f"{name}-graph", tokens, outputs)]
    if _pools(artifact):
        inputs = {**outputs, "attention_mask": "attention_mask"}
        steps.append(_step(f"{name}-vectors", inputs, {"embedding": "embedding"}))
    return {
        "platform": "ensemble", "max_batch_size": _most(artifact), "input": [_TEXT], "output": _answers(artifact),
        "ensemble_scheduling": {"step": steps},
    }  # fmt: skip


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    maps = {"input_map": entries(inputs), "output_map": entries(outputs)}
    return {"model_name": model, "model_version": -1, **maps}


def _fill(artifact: Artifact, root: Path, name: str) -> None:
    """The files that models are made of."""
    manifest = artifact.manifest
    tokens, graph = root / f"{name}-tokens" / _VERSION, root / f"{name}-graph"
    artifact.copy(TOKENIZER, tokens / TOKENIZER)
    _program("triton_tokens", tokens)
    write_json(
        tokens / "settings.json",
        {
            "inputs": [spec.name for spec in manifest.inputs], "max_length": manifest.max_length,
            "pad_id": pad_id(artifact), "pad_to": PAD_TO, "least": _least(artifact),
        },
    )  # fmt: skip
    for each in manifest.files:
        if each.endswith(".plan") if manifest.target == "trt" else each in (GRAPH, EXTERNAL):
            artifact.copy(each, graph / _VERSION / each)
    if manifest.labels:
        (graph / "labels.txt").write_text("".join(f"{label}\n" for label in manifest.labels), "utf-8")
    if _pools(artifact):
        vectors = root / f"{name}-vectors" / _VERSION
        _program("triton_vectors", vectors)
        pooling = manifest.pooling or Pooling("mean", normalize=False)
        write_json(vectors / "settings.json", {"mode": pooling.mode, "normalize": pooling.normalize})


def _program(module: str, folder: Path) -> None:
    source = files("edgebert.exporters").joinpath(f"{module}.py").read_text("utf-8")
    (folder / "model.py").write_text(source, "utf-8")
