"""Triton, as far as a model repository needs it: its schema, its Python backend's module, and ensembles on the CPU."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from edgebert.runtimes.session import Array

_NUMPY = {"TYPE_INT64": "int64", "TYPE_FP32": "float32", "TYPE_STRING": "object"}


@cache
def schema() -> Any:
    """Triton's published model_config.proto; without gRPC, which its package would import."""
    package = importlib.util.find_spec("tritonclient")
    places = package.submodule_search_locations if package else None
    assert places, "the fixture triton_schema asks for it"
    with warnings.catch_warnings():
        # It was generated for the protobuf before ours.
        warnings.simplefilter("ignore", UserWarning)
        return _module("model_config_pb2", Path(places[0]) / "grpc" / "model_config_pb2.py")


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(folder: Path) -> Any:
    """A model's configuration. Raises ParseError where it is not what the schema says."""
    return text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), schema().ModelConfig())


class Tensor:
    """An array by a name."""

    def __init__(self, name: str, array: Array) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Array:
        return self.array


@dataclass
class Response:
    """What one request got."""

    tensors: Sequence[Tensor] = ()
    error: str | None = None


def install(patch: pytest.MonkeyPatch) -> None:
    """The module that Triton's Python backend gives to models."""
    stub = types.ModuleType("triton_python_backend_utils")
    vars(stub).update(
        Tensor=Tensor, InferenceResponse=Response, TritonError=str,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]),
    )  # fmt: skip
    patch.setitem(sys.modules, "triton_python_backend_utils", stub)


@dataclass
class Server:
    """A repository's ensemble, computed on the CPU; every tensor is held against the configurations."""

    root: Path
    name: str
    configs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.configs = {folder.name: config_of(folder) for folder in sorted(self.root.iterdir())}
        assert all((folder / "1").is_dir() for folder in self.root.iterdir())
        assert all(config.name == name for name, config in self.configs.items())

    def ask(self, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array] | str]:
        """The answer to each request, or what is wrong with it."""
        ensemble = self.configs[self.name]
        assert ensemble.platform == "ensemble"
        tensors = [dict(request) for request in requests]
        wrong: dict[int, str] = {}
        for step in ensemble.ensemble_scheduling.step:
            alive = [place for place in range(len(tensors)) if place not in wrong]
            given = [{name: tensors[i][other] for name, other in step.input_map.items()} for i in alive]
            for place, found in zip(alive, self._run(step.model_name, given), strict=True):
                if isinstance(found, str):
                    wrong[place] = found
                else:
                    tensors[place] |= {step.output_map[name]: array for name, array in found.items()}
        names = [output.name for output in ensemble.output]
        return [wrong.get(place) or {name: each[name] for name in names} for place, each in enumerate(tensors)]

    def _run(self, model: str, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array] | str]:
        config = self.configs[model]
        for request in requests:
            _check(config.input, request, config.max_batch_size)
        found: list[dict[str, Array] | str] = self._backends[model](requests)
        for answer in found:
            if not isinstance(answer, str):
                _check(config.output, answer, config.max_batch_size)
        return found

    @cached_property
    def _backends(self) -> dict[str, Any]:
        made = {"python": _python, "onnxruntime": _onnxruntime}
        return {name: made[config.backend](self.root / name) for name, config in self.configs.items() if config.backend}


def _check(declared: Any, tensors: Mapping[str, Array], most: int) -> None:
    assert {each.name for each in declared} == set(tensors)
    for each in declared:
        array = tensors[each.name]
        kind = schema().DataType.Name(each.data_type)
        assert array.dtype == np.dtype(_NUMPY[kind]), each.name
        assert 1 <= len(array) <= most
        assert len(array.shape) == 1 + len(each.dims)
        assert all(wanted in (-1, size) for wanted, size in zip(each.dims, array.shape[1:], strict=True)), each.name


def _python(folder: Path) -> Any:
    model = _module(f"{folder.name}_model", folder / "1" / "model.py").TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1"})

    def run(requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array] | str]:
        responses = model.execute(list(requests))
        return [each.error or {tensor.name: tensor.array for tensor in each.tensors} for each in responses]

    return run


def _onnxruntime(folder: Path) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda requests: [dict(zip(names, session.run(names, dict(each)), strict=True)) for each in requests]


def strings(rows: Sequence[str | tuple[str, str]]) -> dict[str, Array]:
    """Texts, or pairs, as a request holds them."""
    parts = [(row,) if isinstance(row, str) else row for row in rows]
    return {"TEXT": np.array([[part.encode() for part in row] for row in parts], dtype=object)}
