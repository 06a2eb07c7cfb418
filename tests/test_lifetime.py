"""A model among threads and processes: shared, forked, closed at the worst moment; and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from hostile import relist
from tiny import TASKS, Exports, texts

from edgebert.artifact import Artifact
from edgebert.errors import InputError, ItemError
from edgebert.registry import TARGETS
from edgebert.serving.model import load

TEXTS = texts(12, seed=5)

each_engine = pytest.mark.parametrize("target", [t.name for t in TARGETS.values() if t.name != "torch" and not t.ready])


def run(program: str, path: Path, target: str = "cpu", timeout: float = 300) -> Any:
    command = [sys.executable, "-B", "-c", program, str(path), target]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=timeout)
    return json.loads(done.stdout)


@each_engine
def test_closing_during_calls_gives_typed_errors_only(exports: Exports, target: str) -> None:
    path = exports.artifact("bert", TASKS[0]).path
    for _ in range(5):
        model = load(path, target, threads=1)
        truth = model.logits(TEXTS)
        started = threading.Barrier(9)

        def ask(model: Any = model, truth: Any = truth, started: threading.Barrier = started) -> str:
            started.wait()
            try:
                while True:
                    np.testing.assert_array_equal(model.logits(TEXTS), truth)
            except InputError as error:
                return error.what

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask) for _ in range(8)]
            started.wait()
            model.close()
            model.close()
            assert {job.result(timeout=300) for job in asked} == {"the model is closed"}
        with pytest.raises(InputError, match="closed"):
            model.predict(["film"])
        assert model.facts()["precision"] == "fp32"


@pytest.mark.parametrize("bad", [None, b"film", 7, ("a",), ("a", None), "\ud800", ["a", "b"]], ids=repr)
def test_one_bad_item_is_named_and_harms_no_later_call(exports: Exports, bad: Any) -> None:
    with load(exports.artifact("bert", TASKS[0]).path, threads=1) as model:
        truth = model.logits(TEXTS)
        with pytest.raises(ItemError, match="item 3") as caught:
            model.predict([*TEXTS[:3], bad, *TEXTS[3:]])
        assert caught.value.index == 3
        np.testing.assert_array_equal(model.logits(TEXTS), truth)


FORK = """
import json, os, sys, threading
import edgebert
model, closed, unused = (edgebert.load(sys.argv[1], sys.argv[2], threads=2) for _ in range(3))
texts = ["a fine film", "dull"] * 20
truth = model.logits(texts).tolist()
# Another thread is in the middle of calls when we fork.
busy = threading.Thread(target=lambda: [model.logits(texts) for _ in range(50)])
busy.start()
read, write = os.pipe()
child = os.fork()
if child == 0:
    closed.close()
    try:
        closed.logits(texts)
    except edgebert.EdgebertError as error:
        said = error.what
    try:
        found = [model.logits(texts).tolist() for _ in range(3)] == [truth] * 3
    except edgebert.EdgebertError as error:
        found = error.what
    os.write(write, json.dumps([found, said]).encode())
    del model
    sys.exit(0)  # and not os._exit: what the parent's threads held must not be waited for
busy.join()
_, status = os.waitpid(child, 0)
print(json.dumps([status, json.loads(os.read(read, 200)), model.logits(texts).tolist() == truth]))
"""


@each_engine
def test_a_forked_child_answers_or_says_at_once_that_it_cannot(exports: Exports, target: str) -> None:
    found = {"cpu": True, "openvino": "the engine does not go on in a forked process"}[target]
    assert run(FORK, exports.artifact("bert", TASKS[0]).path, target) == [0, [found, "the model is closed"], True]


WATCHED = """
import json, os, sys
import edgebert
import numpy, tokenizers
from edgebert.registry import TARGETS
TARGETS[sys.argv[2]].resolve()
from edgebert.serving import model
seen = []
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        flags = args[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or str(args[1] or "").strip("rb"):
            seen.append([event, str(args)])
    elif event.startswith(("socket.", "subprocess.", "urllib.", "http.")) or event in (
        "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod",
        "os.system", "os.exec", "os.fork", "os.posix_spawn", "shutil.copyfile", "tempfile.mkstemp",
        "tempfile.mkdtemp",
    ):
        seen.append([event, str(args)])
sys.addaudithook(watch)
edgebert.load(sys.argv[1], sys.argv[2]).predict(["a film", "dull"])
# What native code does, no hook sees.
paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
seen += [os.readlink(path) for path in paths if os.path.islink(path) and os.readlink(path).startswith("socket")]
print(json.dumps(seen))
"""


@each_engine
def test_nothing_is_written_and_no_socket_opened(
    exports: Exports, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Set for this process when edgebert was imported; the child has to do it by itself.
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert run(WATCHED, exports.artifact("bert", TASKS[0]).path, target) == []
    assert list(tmp_path.iterdir()) == []


ONE_CPU = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import edgebert
model = edgebert.load(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
model.predict(["a film"] * 40)
print(json.dumps([model.facts()["threads"], before, len(os.listdir("/proc/self/task"))]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_on_one_cpu_no_more_than_one_thread_computes(exports: Exports) -> None:
    threads, before, after = run(ONE_CPU, exports.artifact("bert", TASKS[0]).path)
    # The tokenizer's pool has a thread of its own, which the caller waits for.
    assert (threads, before) == (1, 1)
    assert after <= 2


def copy_with_weights_beside(sound: Artifact, folder: Path) -> None:
    for name in ("edgebert.json", *sound.manifest.files):
        (folder / name).write_bytes((sound.path / name).read_bytes())
    graph = onnx_ir.load(sound.path / "model.onnx")
    onnx_ir.save(graph, folder / "model.onnx", external_data="model.onnx_data")


def test_weights_beside_the_graph_are_the_bytes_that_were_checked(exports: Exports, tmp_path: Path) -> None:
    sound = exports.artifact("bert", TASKS[0])
    copy_with_weights_beside(sound, tmp_path)
    relist(tmp_path)
    assert "model.onnx_data" in Artifact.open(tmp_path).manifest.files
    with load(sound.path, threads=1) as model:
        truth = model.logits(TEXTS)
    weights = (tmp_path / "model.onnx_data").read_bytes()
    with load(tmp_path, threads=1) as model:
        # Whoever still read them by their path would read zeros.
        (tmp_path / "model.onnx_data").write_bytes(bytes(len(weights)))
        np.testing.assert_array_equal(model.logits(TEXTS), truth)
    with pytest.raises(InputError, match=r"does not match its hash.*model\.onnx_data"):
        load(tmp_path)


def test_weights_beside_the_graph_may_not_be_cut(exports: Exports, tmp_path: Path) -> None:
    sound = exports.artifact("bert", TASKS[0])
    copy_with_weights_beside(sound, tmp_path)
    content = (tmp_path / "model.onnx_data").read_bytes()
    (tmp_path / "model.onnx_data").write_bytes(content[:-1000])
    relist(tmp_path)
    with pytest.raises(InputError, match="external data of"):
        load(tmp_path)
