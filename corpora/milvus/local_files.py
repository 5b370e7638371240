"""The files of a milvus-lite collection, which it reads without checksums: compared with what they were when it was filled.

NAME.db/collections/COLLECTION/…    written by milvus-lite when rows are flushed, and not changed by searching
NAME.db.checksums.json              {COLLECTION: {path: [size, CRC-32]}}, written by us after filling
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from searchgym.errors import DamagedFileError
from searchgym.files import crc32, read_json, seal, unseal, write_text

__all__ = ["check_local", "record_local"]

_DATA = ".parquet"


def check_local(uri: str, name: str) -> None:
    """Compare the files of a collection with the record of them, if there is one.

    If there are new files, another program has written to the collection since: then its rows are compared (`Collection`), and
    here only the data files, which are never changed.

    Args:
        uri: path of the data base, which nobody has open.
        name: of the collection.

    Raises:
        DamagedFileError: they differ.
    """
    known = _read(uri).get(name)
    if known is None:
        return
    try:
        found = _checksums(uri, name)
    except OSError as error:
        raise DamagedFileError(f"{uri} cannot be read: {error.strerror or error}") from error
    compared = known.keys()
    if found.keys() - known.keys():
        compared = {path for path in known.keys() & found.keys() if path.endswith(_DATA)}
    changed = sorted(path for path in compared if known[path] != found.get(path))
    if changed and found:  # without any file, the collection was dropped
        raise DamagedFileError(
            f"the Milvus file {uri} is damaged: {changed[0]} is not what was written when collection {name!r} was filled. "
            f"Remove {uri} and {_record(uri)} to fill it again; if another program changed it on purpose, remove the latter"
        )


def record_local(uri: str, name: str) -> None:
    """Note what the files of a collection are, unless that is known already.

    Args:
        uri: path of the data base.
        name: of the collection, which was filled and flushed.
    """
    known, found = _read(uri), _checksums(uri, name)
    if found and known.get(name) != found:
        write_text(_record(uri), json.dumps(seal({**known, name: found})) + "\n")


def _record(uri: str) -> Path:
    return Path(f"{uri}.checksums.json")


def _read(uri: str) -> dict[str, Any]:
    path = _record(uri)
    try:
        return unseal(read_json(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}): remove it and {uri} to fill the collections again"
        ) from error


def _checksums(uri: str, name: str) -> dict[str, list[Any]]:
    folder = Path(uri) / "collections" / name
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(uri)): [path.stat().st_size, crc32(path)] for path in files}
