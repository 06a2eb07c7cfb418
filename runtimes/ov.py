"""Target ``openvino``: OpenVINO's CPU plugin on the portable graph, compiled once for every shape.

Each shape that the plugin has not met before costs it some milliseconds, so lengths are padded to a few: what that
wastes is among the facts. What it computes is asked of the plugin itself, and refused where it is not the precision
that the artifact names. https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from edgebert.artifact import Artifact
from edgebert.checked_graph import read_checked_graph
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.machine import has_bf16
from edgebert.runtimes.engine import Held
from edgebert.runtimes.fixed import cut_back, fitted, to_its_shape
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig, checked
from edgebert.tokenizer import pad_id


def _quietly_imported() -> Any:
    """The library without its telemetry: to import it writes below HOME and tells Intel, unless this is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


openvino = _quietly_imported()
_DEVICE = "CPU"
# What surrounds the products: int8 graphs keep attention, LayerNorm and GELU in fp32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# The types that each precision's products with weights may have in the compiled graph.
_PRODUCTS = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"u8", "i8"}}
# Multiples of this many tokens: docs/decisions/015-openvino-and-static-int8.md has the measurements.
LENGTH_STEP = 8


def open(artifact: Artifact, config: SessionConfig) -> Session:
    """A session on the artifact's graph, in exactly the precision that its manifest names.

    Raises InputError where we or OpenVINO refuse the graph, or where an int8 graph would run in float;
    EnvironmentMissing where this CPU does not compute in bf16.
    """
    return to_its_shape(_OvSession(artifact, config), artifact)


@dataclass
class _Engine:
    """A compiled graph, the requests that are free, and what the plugin says of it."""

    compiled: Any
    facts: Mapping[str, Any]
    idle: list[Any] = field(default_factory=list)

    @contextmanager
    def request(self) -> Iterator[Any]:
        """A request of this caller's own: there come to be as many as there are calls at once."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        yield request
        self.idle.append(request)


class _OvSession:
    def __init__(self, artifact: Artifact, config: SessionConfig) -> None:
        self._artifact, self._config = artifact, config
        self._held: Held[_Engine] = Held(partial(_engine, artifact, config), artifact, forks=False)
        self._facts = self._held.get().facts
        self._names = [output.any_name for output in self._held.get().compiled.outputs]
        self._fill = {"input_ids": pad_id(artifact)}
        self._given = self._computed = 0

    def run(self, feed: Feed) -> dict[str, Array]:
        engine = self._held.get()
        arrays = checked(feed, self._artifact)
        rows, length = next(iter(arrays.values())).shape
        width = self._width(arrays["attention_mask"])
        # Without a lock: calls at once may lose a count, and a share needs no more.
        self._given, self._computed = self._given + rows * length, self._computed + rows * width
        padded = fitted(arrays, rows, width, self._fill)
        with _refusals("this input", self._artifact, "check its token ids and shapes"), engine.request() as request:
            found = request.infer(padded, share_inputs=True)
        results = {name: found[name] for name in self._names}
        return cut_back(results, self._artifact.manifest.task, rows, length)

    def _width(self, mask: Array) -> int:
        """The next of the lengths that there are; the longest is the model's own.

        A row without any token attends to all of its places, so that more of them would change it.
        """
        length: int = mask.shape[1]
        if self._artifact.manifest.fixed or not mask.any(axis=1).all():
            return length
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, max(length, self._artifact.manifest.max_length))

    def facts(self) -> dict[str, Any]:
        padding = 1 - self._given / self._computed if self._computed else 0.0
        return {**self._facts, "padding": round(padding, 4)}

    def close(self) -> None:
        self._held.close()


def _engine(artifact: Artifact, config: SessionConfig) -> _Engine:
    """OpenVINO on exactly the bytes that were checked."""
    precision = artifact.manifest.precision.partition("-")[0]
    if precision == "bf16" and not has_bf16():
        raise EnvironmentMissing(
            "this CPU does not compute in bf16", "target openvino", "needs avx512_bf16 or amx_bf16; use fp32 or int8"
        )
    model, weights = read_checked_graph(artifact)
    if precision not in _HINTS:
        what = f"OpenVINO computes nothing in {precision}"
        raise InputError(what, str(artifact.path), "export it with --target openvino")
    if weights is not None:
        raise InputError(
            f"OpenVINO reads no weights beside the graph ({EXTERNAL})", str(artifact.path), "use target cpu"
        )
    core = openvino.Core()
    with _refusals("the graph", artifact, "export it again"):
        compiled = core.compile_model(core.read_model(model, b""), _DEVICE, _settings(artifact, config, precision))
    products = {kind: len(names) for kind, names in _weight_products(compiled).items()}
    wrong = sorted(products.keys() - _PRODUCTS[precision])
    others = sum(products[kind] for kind in wrong)
    if others > _excluded(artifact) or not products:
        what = f"OpenVINO computes in {', '.join(wrong) or 'nothing'} what the manifest calls {precision}"
        raise InputError(what, str(artifact.path / GRAPH), "export it with --target openvino")
    facts = {
        "runtime": "openvino",
        "version": openvino.__version__,
        "provider": ", ".join(compiled.get_property("EXECUTION_DEVICES")),
        "device": core.get_property(_DEVICE, "FULL_DEVICE_NAME"),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        # Types of the products with weights, and of what stands around them.
        "products": products,
        "around": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
    }
    return _Engine(compiled, facts)


def _excluded(artifact: Artifact) -> int:
    """How many products with weights the manifest says were left in float."""
    match artifact.manifest.checks.get("integer"):
        case {"float": list(names)}:
            return len(names)
    return 0


def _settings(artifact: Artifact, config: SessionConfig, precision: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": config.thread_count,
        "NUM_STREAMS": config.lanes,
        # Pinned threads would all sit on the same first cores, whoever else has a model there.
        "ENABLE_CPU_PINNING": False,
    }
    if config.cache_dir is not None:
        # A folder for each artifact: two models of one shape are never each other's.
        settings["CACHE_DIR"] = str(config.cache_dir / artifact.digest)
    return settings


def integer_coverage(model: Path) -> dict[str, Any]:
    """Which products with weights run in integers, in the graph as OpenVINO compiles it.

    Returns ``{"integer": {type: count}, "float": [names of modules]}``; attention's products have no weight.
    """
    settings = {"INFERENCE_PRECISION_HINT": _HINTS["int8"]}
    found = _weight_products(openvino.Core().compile_model(model, _DEVICE, settings))
    return {
        "integer": {kind: len(names) for kind, names in found.items() if kind in _PRODUCTS["int8"]},
        "float": [name for kind, names in found.items() if kind not in _PRODUCTS["int8"] for name in names],
    }


def _weight_products(compiled: Any) -> dict[str, list[str]]:
    """The products with weights of a compiled graph, by the type that the plugin computes them in."""
    found: dict[str, list[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) == "FullyConnected":
            found.setdefault(facts["runtimePrecision"].astype(str), []).append(_module(node))
    return dict(sorted(found.items()))


def _module(product: Any) -> str:
    """The module whose weight a product multiplies by: the plugin calls it so, or as the node of the portable graph."""
    weight: str = product.input(1).get_source_output().get_node().get_friendly_name()
    return re.split(r"\.weight|/", weight)[0]


@contextmanager
def _refusals(what: str, artifact: Artifact, remedy: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # What openvino::Exception becomes in Python.
        reason = str(error).strip().splitlines()[-1][:200]
        raise InputError(f"OpenVINO refuses {what} ({reason})", str(artifact.path / GRAPH), remedy) from error
