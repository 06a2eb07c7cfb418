"""The last stage before sealing for targets that run engines: one engine for each GPU, of the graph in the artifact.

The engine and the portable graph travel together: where the engine does not fit, another is built of the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import EdgebertError, EnvironmentMissing, UsageError
from edgebert.files import private_folder
from edgebert.profiles import EngineRequest, Profile, default_profile
from edgebert.progress import bar
from edgebert.registry import target_named
from edgebert.runtimes.trt_engines import EngineCache, Place, build_plan
from edgebert.runtimes.trt_library import Identity, Library, Timings, check_precision

log = logging.getLogger("edgebert")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of the stage: the target, the compute capabilities, and the profile as text x tokens thrice."""

    target: str
    capabilities: tuple[str, ...]
    profile: tuple[tuple[int, int], ...]


def engine_config(target: str, request: EngineRequest, manifest: Manifest, lengths: Sequence[int]) -> EngineConfig:
    """What a request comes to for a model that is asked texts of these lengths; checked before anything is built.

    Raises EnvironmentMissing where the library is not here, or the GPU here does not compute in the manifest's
    precision, UsageError for GPUs and shapes that cannot be.
    """
    library = Library(target)
    library.check_capabilities(request.capabilities)
    profile = request.profile or default_profile(manifest.max_length, lengths)
    if manifest.fixed is not None:
        profile = Profile(manifest.fixed, manifest.fixed, manifest.fixed)
    profile.check(manifest.max_length)
    capabilities = request.capabilities or (_capability_here(library),)
    error, where = (UsageError, "--compute-capability") if request.capabilities else (EnvironmentMissing, "this GPU")
    check_precision(manifest.precision, capabilities, error, where)
    return EngineConfig(target, capabilities, (profile.least, profile.best, profile.most))


def _capability_here(library: Library) -> str:
    try:
        target_named(library.target).resolve()
    except EdgebertError as error:
        if not library.foreign:
            raise
        known = f"--compute-capability with some of {', '.join(library.foreign)}"
        raise UsageError(f"for which GPU? here is none ({error.what})", f"target {library.target}", known) from None
    from edgebert.runtimes import device

    return device.capability()


def build_engines(source: Artifact, config: EngineConfig, out: Path, *, cache_dir: Path | None = None) -> Manifest:
    """Stage: the graph's artifact with an engine for each compute capability.

    ``cache_dir`` has what TensorRT measured of kernels, by GPU and version. Raises InputError, with the library's
    reason, where it does not take the graph.
    """
    for name in source.manifest.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        source.copy(name, out / name)
    library, profile = Library(config.target), Profile.of(config.profile)
    cache = None if cache_dir is None else EngineCache(private_folder(cache_dir))
    for capability in bar(config.capabilities, "building engines"):
        identity = library.identity(capability)
        with _timings(cache, library, identity) as timings:
            plan = build_plan(source, library, (capability,), profile, timings)
        library.check(plan, identity.file)
        (out / identity.file).write_bytes(plan)
        log.info("built an engine of %.1f MB for %s", len(plan) / 1e6, identity)
    about = {
        "library": library.identity("").library, "version": library.version,
        "capabilities": list(config.capabilities), "profile": [list(sizes) for sizes in config.profile],
    }  # fmt: skip
    needs = {**source.manifest.needs, "engine": about}
    # Longer texts are cut to what the engine takes, or read in windows.
    longest = min(source.manifest.max_length, profile.most[1])
    return replace(source.manifest, target=config.target, needs=needs, max_length=longest)


@contextmanager
def _timings(cache: EngineCache | None, library: Library, identity: Identity) -> Iterator[Timings]:
    """What was measured before, to be kept with what is measured now; TensorRT-RTX measures nothing when it builds."""
    if cache is None or library.foreign:
        yield Timings()
        return
    from edgebert.runtimes import device

    place = Place(identity, device.name())
    timings = cache.timings(place)
    yield timings
    cache.keep_timings(place, timings)
