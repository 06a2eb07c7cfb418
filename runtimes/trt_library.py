"""Building and opening engines, over what TensorRT 10, TensorRT 11 and TensorRT-RTX have in common.

Networks are strongly typed: what is computed in which precision stands in the graph. An engine is native code for one
kind of GPU and one version of the library.
https://docs.nvidia.com/deeplearning/tensorrt/latest/ and https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from edgebert.errors import EdgebertError, EnvironmentMissing, InputError, UsageError, missing_package
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.profiles import Profile
from edgebert.progress import Counted

log = logging.getLogger("edgebert")

# The modules of the targets that have engines.
_MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
_CAPABILITY = re.compile(r"SM(\d+)(\d)")
# The least compute capability that multiplies in a precision, where not all do: Ada is the first with fp8.
_LEAST = {"fp8": "8.9"}


@dataclass(frozen=True)
class Identity:
    """What an engine can run on: a library of one version, a GPU of one compute capability (``8.9``)."""

    library: str
    version: str
    capability: str

    def __str__(self) -> str:
        return f"{self.library} {self.version} for compute capability {self.capability}"

    @property
    def file(self) -> str:
        """The engine's name in an artifact."""
        return f"engine-sm{self.capability.replace('.', '')}.plan"


@dataclass(frozen=True)
class Network:
    """What an engine is made of: a checked graph, the weights beside it if any, and where both are from."""

    model: bytes
    weights: bytes | None
    where: str


class Library:
    """One of the libraries. Raises EnvironmentMissing where it is not installed, or its own parts are missing."""

    def __init__(self, target: str) -> None:
        self.target, self._name = target, _MODULES[target]
        try:
            self._trt = import_module(self._name)
        except ModuleNotFoundError as error:
            raise missing_package(error.name or self._name) from None
        except (ImportError, OSError, RuntimeError) as error:
            what = f"{self._name} cannot be loaded ({_first_line(error)})"
            raise EnvironmentMissing(what, f"target {target}", f"pip install 'edgebert[{target}]'") from None
        self._log = _make_log(self._trt)

    @property
    def version(self) -> str:
        """As the library tells it."""
        return str(self._trt.__version__)

    def identity(self, capability: str) -> Identity:
        """What an engine of this library for such a GPU is."""
        return Identity(self._name, self.version, capability)

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """The compute capabilities that it builds for without such a GPU; none of TensorRT itself."""
        names = dir(self._trt.ComputeCapability) if hasattr(self._trt, "ComputeCapability") else []
        found = [tuple(map(int, match.groups())) for name in names if (match := _CAPABILITY.fullmatch(name))]
        return tuple("{}.{}".format(*numbers) for numbers in sorted(found))

    def check_capabilities(self, wanted: Sequence[str]) -> None:
        """Raise UsageError for a GPU that this library cannot build for from here."""
        if wrong := [name for name in wanted if name not in self.foreign]:
            known = "TensorRT builds for the GPU at hand alone: leave it out, or use --target trt-rtx"
            if self.foreign:
                known = f"{self._name} {self.version} knows {', '.join(self.foreign)}"
            raise UsageError(f"no compute capability {', '.join(wrong)}", "--compute-capability", known)

    def build(
        self, network: Network, profile: Profile, capabilities: Sequence[str], timings: Timings | None = None
    ) -> bytes:
        """An engine that runs on GPUs of these compute capabilities, of TensorRT itself on the one at hand.

        Raises InputError, with the library's reason, where it does not take the graph.
        """
        trt, log_ = self._trt, self._log
        log_.errors.clear()
        builder = trt.Builder(log_)
        made = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(made, log_)
        if not _parsed(parser, network):
            raise self._refused("does not read the graph", network.where, _parser_errors(parser))
        config = builder.create_builder_config()
        # fp32 is meant: the tensor cores would round its products to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        if self.foreign:
            config.num_compute_capabilities = len(capabilities)
            for place, capability in enumerate(capabilities):
                kind = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
                config.set_compute_capability(kind, place)
        elif timings is not None:
            config.set_timing_cache(config.create_timing_cache(timings.content), ignore_mismatch=False)
        shapes = builder.create_optimization_profile()
        for place in range(made.num_inputs):
            shapes.set_shape(made.get_input(place).name, profile.least, profile.best, profile.most)
        config.add_optimization_profile(shapes)
        with Counted("building the engine") as counted:
            config.progress_monitor = _make_monitor(trt, counted)
            plan = builder.build_serialized_network(made, config)
        if plan is None:
            raise self._refused("builds no engine of the graph", network.where, log_.errors)
        if timings is not None and not self.foreign:
            timings.content = bytes(config.get_timing_cache().serialize())
        return bytes(plan)

    def check(self, plan: bytes, where: str) -> None:
        """Raise InputError for bytes that the library, where it can tell, does not take for an engine of its own."""
        runtime = self._trt.Runtime(self._log)
        if hasattr(runtime, "get_engine_validity"):
            malformed = int(self._trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
            if int(runtime.get_engine_validity(plan)[1]) & malformed:
                raise self._refused("reads no engine in this file", where, ["its header is another"])

    def open(self, plan: bytes, where: str) -> Any:
        """The engine, on the GPU. Raises InputError where the library refuses it."""
        self.check(plan, where)
        self._log.errors.clear()
        engine = self._trt.Runtime(self._log).deserialize_cuda_engine(plan)
        if engine is None:
            raise self._refused("refuses the engine", where, self._log.errors)
        return engine

    def is_input(self, engine: Any, name: str) -> bool:
        """Whether a tensor of an engine is one that it reads."""
        return bool(engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def dtype(self, engine: Any, name: str) -> Any:
        """The numpy type of one of an engine's tensors."""
        return self._trt.nptype(engine.get_tensor_dtype(name))

    def _refused(self, what: str, where: str, reasons: Sequence[str]) -> InputError:
        reason = _first_line(reasons[-1]) if reasons else "it does not say why"
        remedy = "use another --precision or an artifact made for this target"
        return InputError(f"{self._name} {self.version} {what} ({reason})", where, remedy)


@dataclass
class Timings:
    """What TensorRT measured of kernels on one GPU, in its own format; empty at first."""

    content: bytes = b""


def _parsed(parser: Any, network: Network) -> bool:
    if network.weights is None:
        return bool(parser.parse(network.model))
    # Weights beside the graph are found by a path alone: the checked bytes, where nobody else writes.
    with tempfile.TemporaryDirectory() as folder:
        for name, content in ((GRAPH, network.model), (EXTERNAL, network.weights)):
            (Path(folder) / name).write_bytes(content)
        return bool(parser.parse_from_file(str(Path(folder) / GRAPH)))


def _parser_errors(parser: Any) -> list[str]:
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    return [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]


def _make_log(trt: Any) -> Any:
    """A logger that keeps errors for ours and drops the rest; its class exists only where the library does."""
    severity = trt.ILogger

    class Log(severity):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            severity.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if int(level) <= int(severity.ERROR):
                self.errors.append(message)
            else:
                log.debug("%s", message)

    return Log()


def _make_monitor(trt: Any, counted: Counted) -> Any:
    """Tells of the outermost phase, the one without a parent."""
    base = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.outer = ""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if not parent:
                self.outer = name
                counted.start(steps)

        def step_complete(self, name: str, step: int) -> bool:
            if name == self.outer:
                counted.step()
            return True

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()


def _first_line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def check_precision(precision: str, capabilities: Sequence[str], error: type[EdgebertError], where: str) -> None:
    """Raise ``error``, naming the least that will do, for GPUs that do not multiply in a precision."""
    least = _LEAST.get(precision)
    if least and (older := [each for each in capabilities if _numbers(each) < _numbers(least)]):
        what = f"no {precision} on compute capability {', '.join(older)}"
        raise error(what, where, f"{precision} needs {least} or more")


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def described(needs: Mapping[str, Any]) -> tuple[Profile | None, dict[str, Identity]]:
    """What a manifest says of its engines: their profile, and by the file's name what each runs on."""
    found = needs.get("engine")
    try:
        if found is None:
            return None, {}
        library, version = str(found["library"]), str(found["version"])
        identities = [Identity(library, version, str(each)) for each in found["capabilities"]]
        return Profile.of(found["profile"]), {each.file: each for each in identities}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"needs.engine is unreadable ({error!r})", "the manifest", "export it again") from None
