"""Sealed directories: complete when they have a manifest, and damage in them is found before it gives a wrong result.

`seal` writes two files beside the others: `manifest.json` (what the directory was made from, and the size and hash of
every file) and the checksums of blocks (`checksums`). Opening such a directory compares the sizes and the content of
its small files; the content of files that are declared lazy is compared block by block when it is first read.
"""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.files import sync

from .checksums import (
    BLOCK,
    CHECKSUMS,
    DAMAGED,
    CheckedFile,
    block_sums,
    read_checksums,
    write_checksums,
)

__all__ = [
    "MANIFEST",
    "canonical_json",
    "damage",
    "digest",
    "open_checked",
    "read_key",
    "seal",
    "verify_directory",
]

MANIFEST = "manifest.json"
_SCHEMA = 3
_HEAD = b'{\n "checksum": "%08x",'  # of a manifest: the CRC-32 of its text without this member
_UNCHECKED = 1  # the schema of directories without checksums of blocks: every byte of them is compared when they are opened


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """32 hexadecimal digits that name a JSON value (BLAKE2b-128 of its canonical JSON)."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def seal(directory: Path, name: str, key: Mapping[str, Any], lazy: Iterable[str] = ()) -> None:
    """Write checksums and manifest of a finished directory and push all of it to the disk.

    After that a rename makes it durable: a directory with its final name is complete, even after a power cut.

    Args:
        directory: the directory.
        name: the kind of directory.
        key: the JSON values that it was made from.
        lazy: patterns of files that callers read through `open_checked` only: their content is compared when it is first
            read.
    """
    for left in (MANIFEST, CHECKSUMS):  # by a build that was killed between here and the rename
        (directory / left).unlink(missing_ok=True)
    names = [path.relative_to(directory).as_posix() for path in _paths(directory)]
    write_checksums(directory, names)
    files: dict[str, dict[str, Any]] = {}
    for file in (*names, CHECKSUMS):
        path = directory / file
        files[file] = {"size": path.stat().st_size, "blake2b": _file_digest(path)}
        if any(fnmatch.fnmatch(file, pattern) for pattern in lazy):
            files[file]["lazy"] = True
    manifest = {"schema": _SCHEMA, "name": name, "key": dict(key), "files": files}
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    (directory / MANIFEST).write_bytes(_HEAD % zlib.crc32(text) + text[1:] + b"\n")
    for path in _paths(directory):
        sync(path)
    for path in {path.parent for path in _paths(directory)}:
        sync(path)


def damage(directory: Path) -> str | None:
    """Why a sealed directory cannot be used; None if it can.

    Compared are all sizes, and the content of all files except of those that are read through `open_checked`.
    Directories of version 0.1.0 have no checksums of blocks: all their content is compared, which takes about a second
    per gigabyte. `verify_directory` always compares everything.
    """
    return next(_problems(directory, every_byte=False), None)


def verify_directory(directory: Path) -> list[str]:
    """The problems of a sealed directory, found by reading every byte; an empty list if it is intact."""
    return list(_problems(directory, every_byte=True))


def read_key(directory: Path) -> dict[str, Any]:
    """The key of an intact sealed directory."""
    return copy.deepcopy(_read_manifest(directory).key)


def open_checked(directory: Path, *names: str) -> list[CheckedFile]:
    """Files of a sealed directory, memory-mapped, whose content is compared when it is first read.

    Args:
        directory: a sealed directory. In any other one, e.g. while it is built, nothing is compared.
        names: the files.

    Raises:
        OSError: a file cannot be read.
        ValueError: the checksums do not fit the files.
    """
    sums: Mapping[str, Any] = {}
    if (directory / MANIFEST).exists():
        manifest = _read_manifest(directory)
        if manifest.schema != _UNCHECKED:  # every byte of those was compared when they were opened
            sums = read_checksums(directory, manifest.sizes)
    return [CheckedFile(directory / name, sums.get(name)) for name in names]


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest as it was read. It is shared, so its parts are not to be changed.

    Attributes:
        schema: its version; the rest means nothing where it is unknown.
        intact: its own checksum is right.
        key: what the directory was made from.
        files: size and hash of every file.
        lazy: the files whose content is compared when it is first read.
    """

    schema: Any
    intact: bool
    key: dict[str, Any]
    files: dict[str, tuple[int, str]]
    lazy: frozenset[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every file that has checksums of blocks, in order of name."""
        return {name: self.files[name][0] for name in sorted(self.files) if name != CHECKSUMS}


def _read_manifest(directory: Path) -> _Manifest:
    """Raises OSError, and what a text that is no manifest raises: ValueError, TypeError, KeyError, …"""
    return _parsed((directory / MANIFEST).read_bytes())


@lru_cache(maxsize=16)
def _parsed(text: bytes) -> _Manifest:
    """By content: opening an index asks for its manifest three times, and parsing it costs more than reading it."""
    head = len(_HEAD % 0)
    intact = text[:head] == _HEAD % zlib.crc32(b"{" + text[head:-1])
    manifest = json.loads(text.decode("utf-8"))
    schema = manifest["schema"]
    if schema not in (_SCHEMA, _UNCHECKED):
        return _Manifest(schema, False, {}, {}, frozenset())
    files = {name: (int(facts["size"]), facts["blake2b"]) for name, facts in manifest["files"].items()}
    if schema == _SCHEMA and CHECKSUMS not in files:
        raise KeyError(CHECKSUMS)
    lazy = frozenset(name for name, facts in manifest["files"].items() if facts.get("lazy"))
    return _Manifest(schema, intact or schema == _UNCHECKED, manifest["key"], files, lazy)


def _problems(directory: Path, *, every_byte: bool) -> Iterator[str]:
    try:
        manifest = _read_manifest(directory)
    except OSError as error:
        yield f"{error.filename or directory} cannot be read ({error.strerror})"
        return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        yield f"{directory / MANIFEST} is not a manifest ({error})"
        return
    if manifest.schema not in (_SCHEMA, _UNCHECKED):
        yield f"{directory / MANIFEST} has schema {manifest.schema!r}, this version reads {_SCHEMA}"
        return
    if not manifest.intact:
        yield f"{directory / MANIFEST} has changed since it was written"
        return
    if os.path.exists(f"{directory}/{DAMAGED}"):
        yield f"{(directory / DAMAGED).read_text('utf-8', 'replace')} (noted in {DAMAGED})"
    hashed = {
        name
        for name, (size, _) in manifest.files.items()
        if every_byte
        or manifest.schema == _UNCHECKED
        or name == CHECKSUMS
        or (size <= BLOCK and name not in manifest.lazy)
    }
    intact = yield from _file_problems(directory, manifest, hashed)
    if rest := manifest.files.keys() - hashed - manifest.lazy if intact else None:
        yield from _block_problems(directory, manifest, sorted(rest))
    if every_byte:
        there = (path.relative_to(directory).as_posix() for path in _paths(directory))
        yield from (
            f"{directory / name} is not part of it: remove it"
            for name in there
            if name not in {*manifest.files, MANIFEST, DAMAGED}
        )


def _file_problems(directory: Path, manifest: _Manifest, hashed: Iterable[str]) -> Generator[str, None, bool]:
    """What is wrong with the sizes of files, and with the content of those to be hashed; returns whether nothing is."""
    intact = True
    for name, (size, content) in manifest.files.items():
        file = f"{directory}/{name}"
        problem = ""
        try:
            facts = os.stat(file)
            if not stat.S_ISREG(facts.st_mode):
                problem = f"{file} is not a file"
            elif facts.st_size != size:
                problem = f"{file} has {facts.st_size} bytes instead of {size}"
            elif name in hashed and _file_digest(file) != content:
                problem = f"{file} has changed since it was written"
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            problem = f"{file} cannot be read ({getattr(error, 'strerror', None) or error})"
        if problem:
            intact = False
            yield problem
    return intact


def _block_problems(directory: Path, manifest: _Manifest, names: Iterable[str]) -> Iterator[str]:
    """The files, among some, whose content differs from the checksums of their blocks: six times faster than a hash."""
    try:
        sums = read_checksums(directory, manifest.sizes)
        for name in names:
            if not np.array_equal(block_sums(directory / name), sums[name]):
                yield f"{directory / name} has changed since it was written"
    except (OSError, ValueError) as error:
        yield f"{directory} cannot be read ({error})"


def _paths(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _file_digest(path: Path | str) -> str:
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= BLOCK:  # `file_digest` begins with a buffer of 256 KiB
            return hashlib.blake2b(file.readall(), digest_size=16).hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
