"""Opening one file of a folder that somebody else may have packed: no links, nothing but plain files.

What the bytes mean is the caller's business; how many there may be is told by the caller.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgebert.errors import EnvironmentMissing, InputError

_REMEDY = "copy the folder again, with files in place of links (cp -rL)"
# A named pipe must not make us wait; what it is comes out afterwards.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def read_plain(root: Path, name: str, limit: int, size: int | None = None, *, links: bool = False) -> bytes:
    """The bytes of ``root/name``; see :func:`open_plain`."""
    with open_plain(root, name, limit, size, links=links) as file:
        # One byte more than there should be: a file that grows meanwhile is not the one that was measured.
        return file.read(os.fstat(file.fileno()).st_size + 1)


@contextmanager
def open_plain(
    root: Path, name: str, limit: int, size: int | None = None, *, links: bool = False
) -> Iterator[BinaryIO]:
    """``root/name`` for reading: a plain file of at most ``limit`` bytes (of exactly ``size`` where given).

    Below ``root`` no symbolic link is followed and no hard link opened, unless ``links`` allows both.
    Sizes are compared before anything is read. Raises InputError, or FileNotFoundError where nothing is.
    """
    where = str(root / name)
    with _opened(root, name, links=links) as descriptor:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise InputError("not a plain file", where, _REMEDY)
        if state.st_nlink > 1 and not links:
            # The other name may be anywhere, also where only the reader may look.
            raise InputError("a hard link, which could lead out of the folder", where, _REMEDY)
        if size is not None and state.st_size != size:
            what = f"file does not match its hash in the manifest ({state.st_size} bytes instead of {size})"
            raise InputError(what, where, "copy or export the artifact again")
        if state.st_size > limit:
            raise InputError(
                f"file too large ({state.st_size} bytes)", where, f"at most {limit} are read; export again"
            )
        with open(descriptor, "rb", closefd=False) as file:
            yield file


@contextmanager
def _opened(root: Path, name: str, *, links: bool) -> Iterator[int]:
    follow = 0 if links else os.O_NOFOLLOW
    *folders, last = PurePosixPath(name).parts
    descriptor = os.open(root, _FOLDER)
    try:
        for part, flags in (*((folder, _FOLDER) for folder in folders), (last, _FILE)):
            below = _open_below(descriptor, part, flags | follow, str(root / name))
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _open_below(folder: int, name: str, flags: int, where: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise InputError("a link, which could lead out of the folder", where, _REMEDY) from None
        if error.errno == errno.ENXIO:
            raise InputError("not a plain file", where, _REMEDY) from None
        error.filename = where
        raise


def private_folder(path: Path) -> Path:
    """A folder that nobody else can write to, made (0700) where there is none.

    Raises EnvironmentMissing for one that is open to others or belongs to someone else: what is loaded
    from it runs as code.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    state = os.stat(path)
    if not stat.S_ISDIR(state.st_mode):
        raise EnvironmentMissing("the cache is not a folder", str(path), "name another cache_dir")
    if state.st_uid != os.geteuid():
        raise EnvironmentMissing("the cache folder belongs to someone else", str(path), "name a cache_dir of your own")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EnvironmentMissing("others can write to the cache folder", str(path), "chmod 700 it, or name another")
    return path
