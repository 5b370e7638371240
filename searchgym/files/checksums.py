"""Checksums of the files in a directory, so that damage is an error and never another number.

A directory of weights holds `checksums.json`: the CRC-32 and the size of each of its files. CRC-32 finds
accidental damage at several GB/s; it is no protection against a person who changes files on purpose.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .atomic import json_digest, open_regular, read_json, write_text

__all__ = [
    "CHECKSUMS",
    "arrays_check",
    "check_files",
    "checksums",
    "compare_checksums",
    "crc32",
    "forget_checksums",
    "seal",
    "unseal",
    "write_checksums",
]

CHECKSUMS = "checksums.json"
_BLOCK = 1 << 18  # bytes read at a time: what a processor's cache holds


def crc32(path: Path) -> str:
    """The CRC-32 of a regular file, as eight hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    value, block = 0, memoryview(bytearray(_BLOCK))
    with open_regular(path) as file:
        while size := file.readinto(block):  # type: ignore[attr-defined]  # BinaryIO lacks it
            value = zlib.crc32(block[:size], value)
    return f"{value:08x}"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a digest of itself, as `check`, its last key.

    Args:
        value: the object, without that key.
    """
    return {**value, "check": json_digest(value)}


def unseal(value: Any) -> dict[str, Any]:
    """What `seal` was given.

    Raises:
        ValueError: it is not what was sealed.
    """
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    rest = {name: part for name, part in value.items() if name != "check"}
    if value.get("check") != json_digest(rest):
        raise ValueError("its digest does not fit its content")
    return rest


def arrays_check(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """The CRC-32 of a JSON object and of all numbers of some arrays, as eight hexadecimal digits.

    Args:
        about: the object.
        arrays: by name.
    """
    value = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def checksums(directory: Path) -> dict[str, list[Any]]:
    """Size and CRC-32 of the files that lie directly in a directory, by name.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != CHECKSUMS)
    return {path.name: [path.stat().st_size, crc32(path)] for path in files}


def write_checksums(directory: Path) -> None:
    """Write the checksums of the files that lie directly in a directory, and in each directory below it.

    Raises:
        OSError: a file cannot be read, or the directory cannot be written.
    """
    for folder in (directory, *(path for path in sorted(directory.rglob("*")) if path.is_dir())):
        content = json.dumps({"files": checksums(folder)}, indent=1) + "\n"
        write_text(folder / CHECKSUMS, content, alone=True)


def forget_checksums(directory: Path) -> None:
    """Remove the list of checksums from a directory whose files are about to be replaced."""
    (directory / CHECKSUMS).unlink(missing_ok=True)


def check_files(directory: Path, read: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Compare the files of a directory with its checksums; without a list of them (older versions) only their kind is checked.

    Files that the list does not name are not looked into, and neither are directories below.

    Args:
        directory: of weights, or of a checkpoint.
        read: the content of files that were read already, by name; it is compared in their place.

    Raises:
        CheckpointError: a file is damaged or missing, or something in it is not a file (a pipe, a device).
    """
    try:
        with os.scandir(directory) as entries:
            names = {entry.name: entry for entry in entries}
        for entry in names.values():
            if not (entry.is_file() or entry.is_dir()):
                raise CheckpointError(
                    f"{entry.path} is not a regular file: remove it, or use another checkpoint"
                )
        if CHECKSUMS in names:
            compare_checksums(directory, read_json(directory / CHECKSUMS)["files"], read)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{directory} is damaged ({getattr(error, 'strerror', None) or error}): use another checkpoint"
        ) from error


def compare_checksums(
    directory: Path,
    expected: Mapping[str, Sequence[Any]],
    read: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Compare files of a directory with what `checksums` returned when they were complete.

    Args:
        directory: of the files.
        expected: size and CRC-32 of each, by name.
        read: see `check_files`.

    Raises:
        CheckpointError: a file is damaged or missing, or the checksums are.
    """
    try:
        for name, (size, crc) in dict(expected).items():
            path = directory / name
            if path.parent != directory:
                raise ValueError(f"a file named {name!r}")
            content = read.get(name)
            if content is not None:
                same = len(content) == size and f"{zlib.crc32(content):08x}" == crc
            else:
                same = path.stat().st_size == size and crc32(path) == crc
            if not same:
                raise CheckpointError(
                    f"{path} is damaged: it is not the file that was saved. Use another checkpoint; if you changed the file "
                    f"yourself, remove {CHECKSUMS} next to it"
                )
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{directory} is damaged ({getattr(error, 'strerror', None) or error}): use another checkpoint"
        ) from error
