"""What is made once a session, by whichever process needs it first, and shared by all of them."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from edgebert.exporters import graph
from edgebert.exporters.graph import Template


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """``path``, which ``make`` makes where nobody has; whoever asks meanwhile waits for it."""
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def once_traced(path: Path, trace: Callable[[], Template]) -> Template:
    """A template that is traced once a session and kept at ``path``."""
    return _read(once(path, lambda path: _write(trace(), path)))


def _write(template: Template, path: Path) -> None:
    model = template.model.clone()
    weights = model.graph.initializers
    names = list(weights)
    for name in names:
        value = weights[name]
        if isinstance(value.const_value, ir.LazyTensor):
            # A weight without values cannot be written, an input can.
            del weights[name]
            value.const_value = None
            model.graph.inputs.append(value)
    content = ir.to_proto(model).SerializeToString()
    fields = template.task, template.architecture, template.layer_ends, template.opset
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(pickle.dumps((content, names, *fields)))
    # Whoever is killed here leaves nothing half.
    os.replace(partial, path)


def _read(path: Path) -> Template:
    content, names, *fields = pickle.loads(path.read_bytes())
    model = ir.from_proto(onnx.load_model_from_string(content))
    inputs = {value.name: value for value in model.graph.inputs}
    # In the order they had, which is that of the file that a graph is written to.
    for name in names:
        value = model.graph.initializers.pop(name, None)
        if value is None:
            value = inputs[name]
            model.graph.inputs.remove(value)
            assert value.shape
            value.const_value = graph._empty(name, value.shape.numpy())
        model.graph.register_initializer(value)
    return Template(model, *fields)
