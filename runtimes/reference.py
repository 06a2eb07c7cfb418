"""Target ``torch``: PyTorch itself, what every other target is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.families import FAMILIES
from edgebert.runtimes.fixed import to_its_shape
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig, checked, closed
from edgebert.shaping.checkpoint import load_module, quiet_transformers
from edgebert.shaping.depth import answering_from, encoder_of, only_layers
from edgebert.tasks import TASKS


def open(artifact: Artifact, config: SessionConfig) -> Session:
    """A session on a checkpoint's weights; on an exported graph only for timing, with random weights.

    A graph of one shape is timed at that shape.
    """
    artifact.check_manifest()
    if artifact.manifest.format == "torch":
        return TorchSession(artifact, load_module(artifact, for_training=True), config)
    if config.timing_only:
        return to_its_shape(TorchSession(artifact, _same_shape(artifact), config), artifact)
    raise InputError("target torch needs a checkpoint", str(artifact.path), "load it with target cpu")


def _same_shape(artifact: Artifact) -> torch.nn.Module:
    quiet_transformers()
    settings = json.loads(artifact.read("config.json"))
    hf_config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    task = TASKS[artifact.manifest.task]
    torch.manual_seed(0)
    module: torch.nn.Module = getattr(transformers, task.auto_class).from_config(hf_config).eval()
    return module


class TorchSession:
    """A transformers model behind the session contract; ``module`` is used as it is given, on the device it is on."""

    def __init__(self, artifact: Artifact, module: torch.nn.Module, config: SessionConfig) -> None:
        torch.set_num_threads(config.thread_count)
        self._artifact = artifact
        self._module: torch.nn.Module | None = module
        self._device = next(module.parameters()).device
        self._outputs = [output.name for output in TASKS[artifact.manifest.task].outputs]
        self._weights = "checkpoint" if artifact.manifest.format == "torch" else "random, for timing"

    def run(self, feed: Feed) -> dict[str, Array]:
        """See :class:`~edgebert.runtimes.session.Session`."""
        module = self._module
        if module is None:
            raise closed(self._artifact)
        arrays = checked(feed, self._artifact)
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()})
        return {name: outputs[name].cpu().numpy() for name in self._outputs}

    def facts(self) -> dict[str, Any]:
        """See :class:`~edgebert.runtimes.session.Session`."""
        return {
            "runtime": "torch",
            "version": torch.__version__,
            "provider": self._device.type,
            "threads": torch.get_num_threads(),
            "weights": self._weights,
        }

    def close(self) -> None:
        """See :class:`~edgebert.runtimes.session.Session`."""
        self._module = None


def reference_session(checkpoint: Artifact) -> Session:
    """The checkpoint with eager attention: the arithmetic that parity is judged against."""
    return TorchSession(checkpoint, load_module(checkpoint), SessionConfig())


class FirstLayers:
    """A checkpoint, with eager attention, that answers as its first k layers would, for all ``depths`` k at once."""

    def __init__(self, checkpoint: Artifact, depths: Sequence[int]) -> None:
        self._family = FAMILIES[checkpoint.manifest.architecture.family]
        self._depths = depths
        self._outputs = [output.name for output in TASKS[checkpoint.manifest.task].outputs]
        self._module = load_module(checkpoint)

    def run(self, feed: Feed) -> dict[int, dict[str, Array]]:
        """For each depth its outputs, as a session gives them."""
        tensors = {name: torch.from_numpy(array) for name, array in feed.items()}
        with torch.inference_mode():
            states = encoder_of(self._module)(**tensors, output_hidden_states=True).hidden_states
            return {depth: self._answer(tensors, states[depth]) for depth in self._depths}

    def _answer(self, tensors: dict[str, torch.Tensor], state: torch.Tensor) -> dict[str, Array]:
        """The outputs where ``state`` [batch, sequence, hidden] is what the layers give."""
        with answering_from(self._module, self._family, state):
            found = self._module(**tensors)
        return {name: found[name].numpy() for name in self._outputs}


def hidden_states(checkpoint: Artifact, feed: Feed) -> list[Array]:
    """What a checkpoint's embeddings and each of its layers give, float32 [batch, sequence, hidden]."""
    with torch.inference_mode():
        found = encoder_of(load_module(checkpoint))(
            **{name: torch.from_numpy(array) for name, array in feed.items()}, output_hidden_states=True
        )
    return [state.numpy() for state in found.hidden_states]


def hidden_after(checkpoint: Artifact, keep: Sequence[int], feed: Feed) -> Array:
    """The last hidden state, float32 [batch, sequence, hidden], of a checkpoint of which only ``keep`` runs."""
    module = load_module(checkpoint)
    with torch.inference_mode(), only_layers(module, FAMILIES[checkpoint.manifest.architecture.family], keep):
        states = module(**{name: torch.from_numpy(array) for name, array in feed.items()}, output_hidden_states=True)
    result: Array = states.hidden_states[-1].numpy()
    return result
