"""Which engine a session opens: the artifact's own, one that was kept, or one that is built now, before any request.

An engine that an artifact brings is native code, opened only where the caller trusts it. What is built here is kept in
a private folder where the caller names one: under the artifact's digest, so that two models of one shape are never
each other's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.checked_graph import read_checked_graph
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.files import read_plain
from edgebert.profiles import Profile, default_profile
from edgebert.runtimes.session import SessionConfig
from edgebert.runtimes.trt_library import Identity, Library, Network, Timings, check_precision, described
from edgebert.strict_json import canonical_json

log = logging.getLogger("edgebert")

_CONTENT = "content"
_MOST_BYTES = 2**36


@dataclass(frozen=True)
class Place:
    """Where an engine is to run: the library's identity for this GPU, and what the GPU is called."""

    identity: Identity
    gpu: str


class EngineCache:
    """A private folder of engines and of what TensorRT measured of kernels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plan(self, artifact: Artifact, place: Place, profile: Profile) -> bytes | None:
        """The engine that was kept; None where there is none."""
        return self._read(_key("engine", artifact.digest, place, str(profile)))

    def keep_plan(self, artifact: Artifact, place: Place, profile: Profile, plan: bytes) -> None:
        """Keep an engine for the next time."""
        self._write(_key("engine", artifact.digest, place, str(profile)), plan)

    def timings(self, place: Place) -> Timings:
        """What was measured on this GPU by this version of the library, whatever the model was."""
        return Timings(self._read(_key("timings", "", place, "")) or b"")

    def keep_timings(self, place: Place, timings: Timings) -> None:
        """Keep them for the next time."""
        self._write(_key("timings", "", place, ""), timings.content)

    def _read(self, key: str) -> bytes | None:
        try:
            return read_plain(self._folder, f"{key}/{_CONTENT}", _MOST_BYTES)
        except FileNotFoundError:
            return None

    def _write(self, key: str, content: bytes) -> None:
        with stage.publish(self._folder / key, force=True) as folder:
            (folder / _CONTENT).write_bytes(content)


def _key(kind: str, digest: str, place: Place, profile: str) -> str:
    identity = place.identity
    facts = [digest, identity.library, identity.version, identity.capability, place.gpu, profile]
    return f"{kind}-{hashlib.sha256(canonical_json(facts)).hexdigest()}"


def open_engine(artifact: Artifact, config: SessionConfig, library: Library, place: Place) -> tuple[Any, Profile, str]:
    """The engine of an artifact on this GPU, the shapes it takes, and where it is from.

    Raises EnvironmentMissing, naming both, where the artifact's engine is for another GPU or library and there is no
    ``cache_dir`` to build one into; InputError where the library refuses the graph or the trusted engine.
    """
    shipped, identities = described(artifact.manifest.needs)
    profile = shipped or _profile(artifact)
    ours = identities.get(place.identity.file)
    if config.trust_engine and ours == place.identity:
        where = str(artifact.path / ours.file)
        return library.open(artifact.read(ours.file), where), profile, "the artifact's"
    if config.trust_engine and identities:
        theirs = "; ".join(map(str, identities.values()))
        if config.cache_dir is None:
            what = f"engines for {theirs}, where this is {place.identity}"
            remedy = "pass cache_dir to have one built and kept, or export it for this GPU"
            raise EnvironmentMissing(what, str(artifact.path), remedy)
        log.warning("%s has engines for %s; this is %s", artifact.path, theirs, place.identity)
    cache = None if config.cache_dir is None else EngineCache(config.cache_dir)
    engine = cache and _kept(cache, artifact, library, place, profile)
    if engine:
        return engine, profile, "the cache's"
    return library.open(_built(cache, artifact, library, place, profile), str(artifact.path)), profile, "built here"


def _profile(artifact: Artifact) -> Profile:
    fixed = artifact.manifest.fixed
    return default_profile(artifact.manifest.max_length) if fixed is None else Profile(fixed, fixed, fixed)


def _kept(cache: EngineCache, artifact: Artifact, library: Library, place: Place, profile: Profile) -> Any:
    plan = cache.plan(artifact, place, profile)
    if plan is None:
        return None
    # What was kept went through the same checks when it was built; the artifact may have changed since.
    read_checked_graph(artifact)
    try:
        return library.open(plan, "the cache")
    except InputError as error:
        # Another driver may refuse what an older one took.
        # Its words alone: the error holds this call, and with it the GPU's memory.
        log.warning("building anew: %s", str(error))
        return None


def _built(cache: EngineCache | None, artifact: Artifact, library: Library, place: Place, profile: Profile) -> bytes:
    log.info("building an engine of %s for %s (this may take minutes)", artifact.path, place.identity)
    timings = cache.timings(place) if cache else Timings()
    plan = build_plan(artifact, library, (place.identity.capability,), profile, timings)
    if cache:
        cache.keep_plan(artifact, place, profile, plan)
        if timings.content:
            cache.keep_timings(place, timings)
    return plan


def build_plan(
    artifact: Artifact, library: Library, capabilities: Sequence[str], profile: Profile, timings: Timings
) -> bytes:
    """The engine of an artifact's graph, of the very bytes that were checked.

    Raises EnvironmentMissing for GPUs that the library does not know, or that do not compute in the graph's precision.
    """
    if library.foreign and (unknown := [each for each in capabilities if each not in library.foreign]):
        what = f"no engine for compute capability {', '.join(unknown)}"
        known = f"{library.identity('').library} {library.version} knows {', '.join(library.foreign)}"
        raise EnvironmentMissing(what, f"target {library.target}", known)
    check_precision(artifact.manifest.precision, capabilities, EnvironmentMissing, f"target {library.target}")
    model, weights = read_checked_graph(artifact)
    network = Network(model, weights, str(artifact.path))
    return library.build(network, profile, capabilities, timings)
