"""PyTorch's compiler makes a folder for its cache as soon as it is imported, in the system's folder of temporary files.

It is imported to export and to train, though nothing is compiled then. So while a command runs, that folder has a name
of its own, and goes when the command ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Where torch (seen with 2.13) puts the folder; it writes its choice there too, so children share their parent's.
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def passing_compiler_cache() -> Iterator[None]:
    """Inside, torch's compiler has a cache that is removed at the end; a user's own choice stays as it is."""
    if _VARIABLE in os.environ:
        yield
        return
    try:
        place = Path(tempfile.gettempdir()) / f"edgebert-torch-{secrets.token_hex(8)}"
    except FileNotFoundError:
        # No folder for temporary files, as on a read-only device: torch is not what runs there.
        yield
        return
    # Only torch makes it: commands that work without torch write nothing.
    os.environ[_VARIABLE] = str(place)
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
        shutil.rmtree(place, ignore_errors=True)
