"""edgebert's own artifacts, through ``edgebert.load``. Runs in the project's environment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker import Feed, Settings, once, serve_peer

import edgebert

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("edgebert", "exporters", "runtimes")


class Edgebert:
    """An artifact for ``target`` in ``precision``, calibrated and judged on ``data`` where there is some."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # The code that exports is what is measured: other code, another artifact.
        files = sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        name = f"{settings['target']}-{settings['precision']}"
        self._folder = Path(settings["folder"]) / digest[:12] / name

    def prepare(self) -> None:
        """Export, with all the checks there are."""
        from edgebert.build import export

        def make(folder: Path) -> None:
            target, precision = self._settings["target"], self._settings["precision"]
            data = self._settings.get("data")
            (made,) = export(self._settings["model"], target=target, precision=precision, out=folder, data=data)
            made.path.rename(folder / "artifact")

        once(self._folder, make)

    def open(self) -> dict[str, str]:
        """Load the artifact."""
        self._model = edgebert.load(self._folder / "artifact", threads=self._settings["threads"])
        manifest, facts = self._model.artifact.manifest, self._model.facts()
        self._numbers = {name: number for number, name in enumerate(manifest.labels)}
        chosen = "".join(f" = {trial['precision']}" for trial in manifest.checks.get("schemes", ()) if trial["chosen"])
        return {
            "versions": f"edgebert {edgebert.__version__}, {facts['runtime']} {facts['version']}",
            "settings": f"target {manifest.target}, {manifest.precision}{chosen}",
        }

    def logits(self, feed: Feed) -> Any:
        """As serving computes them."""
        return self._model.run({spec.name: feed[spec.name] for spec in self._model.artifact.manifest.inputs})

    def labels(self, texts: Sequence[str]) -> list[int]:
        """All texts in one call, which sorts them and cuts them into batches."""
        return [self._numbers[item.label] for item in self._model.predict(texts)]


if __name__ == "__main__":
    serve_peer(Edgebert)
