"""Publishing: whole or not at all, whatever happens in between, and a history that says where from."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from test_artifact import MANIFEST_OF_A_PAIR_MODEL

from edgebert import stage
from edgebert.artifact import MANIFEST, MANIFEST_HASH, Artifact, Manifest
from edgebert.errors import EnvironmentMissing, InputError, UsageError
from edgebert.machine import versions


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    keep: tuple[int, ...] = (0, 1)


def build(source: Artifact, config: Settings, out: Path) -> Manifest:
    (out / "sub").mkdir()
    (out / "sub" / "weights.bin").write_bytes(b"12345")
    (out / "config.json").write_text(f"{config.rate}")
    return replace(source.manifest, name="built")


PUBLISHED = [
    "out", "out/config.json", f"out/{MANIFEST}", f"out/{MANIFEST_HASH}", "out/sub", "out/sub/weights.bin",
]  # fmt: skip
SOURCE = Artifact(Path("nowhere"), MANIFEST_OF_A_PAIR_MODEL)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


PUBLISHED = ["out", "out/config.json", f"out/{MANIFEST}", f"out/{MANIFEST_HASH}", "out/sub", "out/sub/weights.bin"]


def test_a_stage_publishes_files_manifest_and_history(out: Path) -> None:
    artifact = stage.run("build", build, SOURCE, Settings(), out)
    assert names(out.parent) == PUBLISHED
    assert sorted(artifact.manifest.files) == ["config.json", "sub/weights.bin"]
    assert artifact.read("sub/weights.bin") == b"12345"
    assert artifact.manifest.name == "built"
    assert artifact == Artifact.open(out)
    first, second = artifact.manifest.history
    assert first == SOURCE.manifest.history[0]
    assert (second.stage, second.source) == ("build", SOURCE.digest)
    assert second.config == {"rate": 0.5, "keep": [0, 1]}
    assert second.versions == versions()


def test_the_history_grows_by_a_step_a_stage(out: Path) -> None:
    first = stage.run("first", build, SOURCE, Settings(), out / "1")
    second = stage.run("second", build, first, Settings(0.25), out / "2")
    assert [step.stage for step in second.manifest.history] == ["graph", "first", "second"]
    assert [step.source for step in second.manifest.history[1:]] == [SOURCE.digest, first.digest]


def test_the_same_stage_gives_the_same_artifact(out: Path) -> None:
    once, again = (stage.run("build", build, SOURCE, Settings(), out / name) for name in "ab")
    assert once.digest == again.digest
    assert stage.run("build", build, SOURCE, Settings(0.25), out / "c").digest != once.digest


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_nothing(error: BaseException, force: bool, out: Path) -> None:
    def fail(source: Artifact, config: Settings, folder: Path) -> Manifest:
        build(source, config, folder)
        raise error

    if force:
        stage.run("build", build, SOURCE, Settings(), out)
    before = names(out.parent) if force else []
    with pytest.raises(type(error)):
        stage.run("build", fail, SOURCE, Settings(0.25), out, force=force)
    assert names(out.parent) == before
    assert not force or (out / "config.json").read_text() == "0.5"


def test_a_manifest_that_could_not_be_read_again_is_not_published(out: Path) -> None:
    def wrong(source: Artifact, config: Settings, folder: Path) -> Manifest:
        (folder / "a\\b").touch()
        return source.manifest

    with pytest.raises(InputError, match="leads out of the artifact"):
        stage.run("build", wrong, SOURCE, Settings(), out)
    assert names(out.parent) == []


def test_an_existing_folder_is_refused_without_force(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"already exists.*--force") as caught:
        stage.run("build", build, SOURCE, Settings(), out)
    assert caught.value.exit_code == 2
    assert names(out.parent) == ["out", "out/thesis.txt"]


def test_force_replaces(out: Path) -> None:
    stage.run("build", build, SOURCE, Settings(), out)
    (out / "left.txt").touch()
    replaced = stage.run("build", build, SOURCE, Settings(0.25), out, force=True)
    assert Artifact.open(out) == replaced
    assert (out / "config.json").read_text() == "0.25"
    assert names(out.parent) == PUBLISHED


def test_publishing_to_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with stage.publish(Path("out")) as folder:
        (folder / "a").touch()
        assert not Path("out").exists()
    assert names(tmp_path) == ["out", "out/a"]


def leave(out: Path, kind: str, pid: int, content: str) -> Path:
    """What a run of process ``pid`` left beside ``out`` when it was killed."""
    folder = out.with_name(f".{out.name}.{kind}-{pid}-0badcafe")
    folder.mkdir(parents=True)
    (folder / "content").write_text(content)
    return folder


def test_a_way_there_through_the_folder_itself(out: Path) -> None:
    for _ in range(2):
        with stage.publish(out / ".." / out.name, force=True) as folder:
            (folder / "file").write_text("x")
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    stage.write_text(out / ".." / out.name / ".." / "text", "x")
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([out.name, "text"])


def test_a_kill_between_the_two_renames_is_undone(out: Path, dead_pid: int) -> None:
    leave(out, "old", dead_pid, "the old one")
    leave(out, "tmp", dead_pid, "the new one, perhaps not whole")
    stage.recover(out)
    assert names(out.parent) == ["out", "out/content"]
    assert (out / "content").read_text() == "the old one"


def test_a_kill_before_the_last_step_is_finished(out: Path, dead_pid: int) -> None:
    leave(out, "old", dead_pid, "the old one")
    with stage.publish(out.with_name("new")) as folder:
        (folder / "content").write_text("the new one")
    os.rename(out.with_name("new"), out)
    stage.recover(out)
    assert names(out.parent) == ["out", "out/content"]
    assert (out / "content").read_text() == "the new one"


def test_the_next_run_recovers_first(out: Path, dead_pid: int) -> None:
    leave(out, "old", dead_pid, "the old one")
    with pytest.raises(UsageError, match="already exists"):
        stage.run("build", build, SOURCE, Settings(), out)
    assert (out / "content").read_text() == "the old one"
    leave(out, "tmp", dead_pid, "half of one")
    stage.run("build", build, SOURCE, Settings(), out, force=True)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_only_what_the_dead_left_is_removed(out: Path, dead_pid: int) -> None:
    others = leave(out.with_name("out2"), "tmp", dead_pid, "of another folder")
    foreign = out.with_name(f".{out.name}.notes-{dead_pid}")
    foreign.mkdir()
    # A container gives its processes the numbers of the last one's.
    leave(out, "tmp", os.getpid(), "stale")
    with stage.publish(out) as alive:
        leave(out, "tmp", dead_pid, "stale too")
        stage.recover(out)
        assert sorted(out.parent.iterdir()) == sorted([alive, others, foreign])
    stage.recover_all(out.parent)
    assert sorted(out.parent.iterdir()) == sorted([foreign, out])


def test_what_another_process_writes_is_left_alone(out: Path) -> None:
    code = "import sys; from pathlib import Path; from edgebert import stage\n"
    code += "with stage.publish(Path(sys.argv[1])) as folder: print(folder, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        temporary = Path(writer.stdout.readline().strip())
        # Another container does not see its process id; its lock it does.
        hidden = temporary.rename(temporary.with_name(f".{out.name}.tmp-999999999-0badcafe"))
        stage.recover_all(out.parent)
        assert hidden.is_dir()
        hidden.rename(temporary)
        writer.communicate("")
    assert names(out.parent) == ["out"]


def test_two_runs_do_not_replace_one_folder_at_once(out: Path) -> None:
    stage.run("build", build, SOURCE, Settings(), out)
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(EnvironmentMissing, match="another run is replacing"):
        stage.run("build", build, SOURCE, Settings(0.25), out, force=True)
    os.close(lock)
    assert (out / "config.json").read_text() == "0.5"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_space_is_asked_for_where_the_folder_will_be(out: Path) -> None:
    stage.require_space(out, 1, "this")
    with pytest.raises(EnvironmentMissing, match=r"disk full: this needs 1,000,000,000,000,000,000 bytes, [0-9,]+ are"):
        stage.require_space(out, 10**18, "this")
    stage.require_space(out, 10**18, "this", held=10**18)
    assert not out.parent.exists()


def test_recovering_where_nothing_is_does_nothing(out: Path) -> None:
    stage.recover(out)
    assert not out.parent.exists()


KILLED_WHILE_BUILDING = """
import os, signal, sys
from pathlib import Path
from edgebert import stage
with stage.publish(Path(sys.argv[1]), force=True) as folder:
    (folder / "content").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_while_building_leaves_the_old_artifact(out: Path) -> None:
    with stage.publish(out) as folder:
        (folder / "content").write_text("the old one")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_BUILDING, str(out)])
    assert killed.returncode == -signal.SIGKILL
    assert (out / "content").read_text() == "the old one"
    assert len(list(out.parent.iterdir())) == 2
    stage.recover(out)
    assert names(out.parent) == ["out", "out/content"]


def test_scratch_is_gone_afterwards(out: Path, dead_pid: int) -> None:
    leave(out, "tmp", dead_pid, "of a killed run")
    with stage.scratch(out) as folder:
        (folder / "content").touch()
        assert names(out.parent) == [folder.name, f"{folder.name}/content"]
    assert names(out.parent) == []


def test_write_json_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    stage.write_json(path, {"ä": 1})
    assert json.loads(path.read_text("utf-8")) == {"ä": 1}
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            stage.write_json(path, bad)
    assert json.loads(path.read_text("utf-8")) == {"ä": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_file_that_a_killed_run_was_writing_is_cleaned_by_the_next(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / f".a.json.tmp-{dead_pid}-0badcafe").write_text('{"half')
    stage.write_json(tmp_path / "a.json", [])
    assert names(tmp_path) == ["a.json"]
