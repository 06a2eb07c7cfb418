"""Every error a user can meet, its exit code, and the one place where foreign exceptions become ours.

Nothing here knows about a particular stage, runtime or file format.
"""

from __future__ import annotations

import errno
import re
from typing import Any


class EdgebertError(Exception):
    """An error the user can act on; printed as ``error: what: where: remedy`` without a traceback.

    ``document`` is what a command may still print under ``--json`` (exits 4 and 5 only).
    """

    exit_code = 1

    def __init__(self, what: str, where: str, remedy: str, document: dict[str, Any] | None = None) -> None:
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy = what, where, remedy
        self.document = document

    def __str__(self) -> str:
        return " ".join(f"{self.what}: {self.where}: {self.remedy}".split())


class UsageError(EdgebertError):
    """A flag, or a combination of flags, that means nothing."""

    exit_code = 2


class InputError(EdgebertError):
    """Data, a checkpoint or an artifact that cannot be used."""

    exit_code = 3


class CheckFailed(EdgebertError):
    """Parity, accuracy or integer coverage is not what it must be."""

    exit_code = 4


class NothingFits(EdgebertError):
    """No candidate meets the budget."""

    exit_code = 5


class EnvironmentMissing(EdgebertError):
    """This machine lacks a package, a provider, disk space, a permission or a free lock."""

    exit_code = 6


class OutOfMemory(EnvironmentMissing):
    """This process asked for more memory than there is."""


class ItemError(InputError, ValueError):
    """One item of a list of texts cannot be answered; ``index`` says which."""

    def __init__(self, index: int, what: str, remedy: str = "pass text, or a pair of texts") -> None:
        super().__init__(what, f"item {index}", remedy)
        self.index = index


class Unanswered(EdgebertError):
    """A request that got no answer, through no fault of its text."""

    exit_code = 6


class QueueFull(Unanswered):
    """As many requests wait already as may."""


class DeadlinePassed(Unanswered, TimeoutError):
    """There was no answer in the time that the caller allows."""


class BatcherClosed(Unanswered):
    """No more requests are taken here."""


# Import name -> the extra that brings it.
_EXTRA_OF = {
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt": "trt",
    "tensorrt_rtx": "trt-rtx",
    "cuda": "trt",
    "torch": "build",
    "transformers": "build",
    "safetensors": "build",
    "accelerate": "build",
    "onnx": "build",
    "onnx_ir": "build",
    "onnxscript": "build",
    "jinja2": "report",
    "matplotlib": "report",
    "prometheus_client": "serve",
}


def missing_package(name: str, extra: str = "") -> EnvironmentMissing:
    """The error for an import that failed, with the command that brings the package; ``extra`` where several do."""
    root = name.partition(".")[0]
    extra = extra or _EXTRA_OF.get(root, "")
    remedy = f"pip install 'edgebert[{extra}]'" if extra else f"pip install {root}"
    return EnvironmentMissing("missing package", root, remedy)


def translate(error: BaseException) -> EdgebertError | None:
    """Our error for a foreign one, or None where it is a bug and deserves its traceback."""
    if isinstance(error, EdgebertError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("edgebert"):
        return missing_package(error.name)
    if isinstance(error, MemoryError):
        return OutOfMemory("out of memory", str(error) or "this process", "free memory or use fewer layers")
    if isinstance(error, OSError):
        return _translate_os_error(error)
    hidden = _hidden_os_error(error)
    return None if hidden is None else _translate_os_error(hidden)


def with_place(error: Exception, where: str) -> Exception:
    """The error with the place it happened at, where it is one of the file system that says none."""
    found = error if isinstance(error, OSError) else _hidden_os_error(error)
    if found is None:
        return error
    if found.errno is not None and found.filename is None:
        found.filename = where
    return found


_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITES = re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos")


def _hidden_os_error(error: BaseException) -> OSError | None:
    """The file system's error behind a library's own, or None."""
    if isinstance(error, EdgebertError):
        return None
    if found := _OS_ERROR.search(str(error)):
        # safetensors and tokenizers, written in Rust, put the number into the text.
        return OSError(int(found[1]), str(error))
    if _TORCH_WRITES.search(str(error)):
        # torch.save drops the number; what is left to fail in the middle of a file is the disk.
        return OSError(errno.ENOSPC, str(error))
    return None


def _translate_os_error(error: OSError) -> EdgebertError | None:
    where = str(error.filename) if error.filename is not None else "file system"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EnvironmentMissing("disk full", where, "free space, or choose another folder with -o")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentMissing("permission denied", where, "choose a folder you may write to with -o")
    if isinstance(error, FileNotFoundError):
        return InputError("no such file", where, "check the path")
    if isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
        return InputError("file and folder mixed up", where, "check the path")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return InputError(f"unusable path ({error.strerror})", where[:80], "check the path")
    return None
