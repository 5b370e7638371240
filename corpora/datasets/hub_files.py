"""Files of data sets on the Hugging Face Hub, downloaded once and kept; the extra `hub`.

The directory `SEARCHGYM_HOME/hub/OWNER--NAME/` contains `refs.json` (the commit of a branch when it was first used),
`COMMIT/tree.json` (the files of that commit, their sizes and hashes) and `COMMIT/files/…`. A data set stays at the
commit that was used first and needs no network after that. The client library's own download starts again from the
beginning after a kill, which is impractical for 5 GB. Here a `.part` file is continued and renamed when its hash is
right.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError, MissingExtraError, SearchGymError, printable
from searchgym.files import lock_file, sync, write_text

from ..indexing.cache import home
from ..indexing.disk import human, require_disk

__all__ = ["Repository", "RepositoryFile", "fetch_files", "list_files", "pin"]

_BRANCH = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\:]")
# Modules whose errors mean a bad connection.
_NETWORK = ("httpx2", "httpx", "httpcore", "requests", "urllib3", "json")


@dataclass(frozen=True, slots=True)
class Repository:
    """A data set repository at one commit."""

    id: str
    commit: str

    @property
    def directory(self) -> Path:
        return _directory(self.id) / self.commit


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file of a repository.

    Attributes:
        path: inside the repository.
        size: bytes.
        sha256: of its content; "" for a small file, which is stored in git itself.
        git: the git hash of a small file (SHA-1 of a header and the content).
    """

    path: str
    size: int
    sha256: str
    git: str


def pin(repository: str, revision: str = "", *, update: bool = False) -> Repository:
    """The commit of a data set that is used here: that of its branch when it was first used.

    Args:
        repository: "owner/name".
        revision: a commit, branch or tag; "" for the main branch.
        update: ask the hub for the branch's current commit.

    Raises:
        CorpusError: the hub has no such data set or revision, refuses it, or cannot be reached.
        MissingExtraError: the extra `hub` is not installed.
    """
    requested = revision or _BRANCH
    refs = _read_json(_directory(repository) / "refs.json")
    # A commit becomes the name of a directory, so it must be one, whoever named it.
    known = str(refs.get(requested, requested))
    if not update and _is_commit(known):
        found = Repository(repository, known)
        if requested in refs or (found.directory / "tree.json").exists():
            return found
    with _hub_errors(f"{repository}, revision {requested}", repository):
        info = _api().dataset_info(repository, revision=requested)
    if not info.sha:
        raise CorpusError(
            f"{repository}: {_endpoint()} does not say which commit {requested} is. Name one: {repository}@…"
        )
    if not _is_commit(info.sha):
        raise CorpusError(
            f"{repository}: {_endpoint()} says that {requested} is commit {str(info.sha)[:80]!r}, which is not the id of a "
            "commit: do not use this server"
        )
    found = Repository(repository, info.sha)
    with _locked(repository):
        refs = _read_json(_directory(repository) / "refs.json")
        _write_json(_directory(repository) / "refs.json", {**refs, requested: found.commit})
    return found


def list_files(repository: Repository) -> list[RepositoryFile]:
    """All files of a data set at its commit.

    Raises:
        CorpusError: the list cannot be downloaded, or names a file outside the repository.
    """
    kept = repository.directory / "tree.json"
    if kept.exists():
        return [RepositoryFile(**facts) for facts in _read_json(kept)["files"]]
    with _hub_errors(repository.id, repository.id):
        tree = list(
            _api().list_repo_tree(
                repository.id, repo_type="dataset", revision=repository.commit, recursive=True
            )
        )
    files = [
        RepositoryFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
        for entry in tree
        if hasattr(entry, "blob_id")  # not a folder
    ]
    for file in files:
        if not _is_inside(file.path):
            raise CorpusError(
                f"{repository.id} names a file {file.path!r}, which is outside the repository: do not use it"
            )
    _write_json(kept, {"files": [asdict(file) for file in files]})
    return files


def _is_commit(name: object) -> bool:
    return isinstance(name, str) and _COMMIT.fullmatch(name) is not None


def _is_inside(path: str) -> bool:
    """Whether a path stays inside its repository, and every part of it is a plain name."""
    parts = path.split("/")
    return not _NOT_IN_NAMES.search(path) and all(part not in ("", ".", "..") for part in parts)


def local_path(repository: Repository, file: RepositoryFile) -> Path:
    """The path of the file on this machine, whether it exists or not."""
    return repository.directory / "files" / file.path


def missing_bytes(repository: Repository, files: list[RepositoryFile]) -> int:
    """The number of bytes of the files that are not downloaded yet."""
    total = 0
    for file in files:
        path = local_path(repository, file)
        if not path.exists():
            part = _part(path)
            total += file.size - (min(part.stat().st_size, file.size) if part.exists() else 0)
    return total


def fetch_files(repository: Repository, files: list[RepositoryFile], *, reserve: int = 0) -> list[Path]:
    """The paths of files on this machine, after downloading the missing ones.

    Shows progress on standard error. A download that was interrupted or killed is continued.

    Args:
        repository: the data set at its commit.
        files: which of its files.
        reserve: bytes that must be free in addition, for later steps.

    Raises:
        CorpusError: the download failed, or its content has another hash than the hub says.
        ConfigError: too little disk space.
    """
    paths = [local_path(repository, file) for file in files]
    if all(path.exists() for path in paths):
        return paths
    need = missing_bytes(repository, files)
    require_disk(home(), need + reserve, f"{repository.id}: the download ({human(need)}) and packing it")
    commit = printable(repository.commit[:7])  # the hub sent it
    print(f"{repository.id}@{commit}: downloading {human(need)} to {home()}", file=sys.stderr)
    with _locked(repository.id), _progress(need) as advance:
        for file, path in zip(files, paths, strict=True):
            if not path.exists():
                _download(repository, file, path, advance)
    return paths


def _download(repository: Repository, file: RepositoryFile, path: Path, advance: Any) -> None:
    """Continue the `.part` file, check it and rename it."""
    part = _part(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    there = part.stat().st_size if part.exists() else 0
    with _hub_errors(f"{repository.id}: {file.path}", repository.id, part, file.size):
        hub: Any = importlib.import_module("huggingface_hub.file_download")
        url = hub.hf_hub_url(
            repository.id, file.path, repo_type="dataset", revision=repository.commit, endpoint=_endpoint()
        )
        # Text may be compressed for the transfer; then lengths and ranges would refer to the compressed data.
        headers = {**hub.build_hf_headers(), "Accept-Encoding": "identity"}
        with part.open("ab") as out:
            hub.http_get(
                url, out, resume_size=there, headers=headers, expected_size=file.size, _tqdm_bar=_Bar(advance)
            )
        sync(part)
    if not _is_content(part, file):
        part.unlink()
        raise CorpusError(
            f"{repository.id}: {file.path} arrived with other content than the hub announced (its hash differs). "
            "It was removed: try again"
        )
    part.rename(path)


def _is_content(part: Path, file: RepositoryFile) -> bool:
    with part.open("rb") as stream:
        if file.sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
        state = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while chunk := stream.read(1 << 20):
            state.update(chunk)
        return state.hexdigest() == file.git


class _Bar:
    """A progress bar for the client library."""

    def __init__(self, advance: Any) -> None:
        self.update = advance


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from searchgym.cli.progress import progress_bar

    with progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task("", total=total)
        yield lambda count: bars.advance(task, count)


@contextlib.contextmanager
def _hub_errors(what: str, repository: str, part: Path | None = None, size: int = 0) -> Iterator[None]:
    """Turn every failure of a request to the hub into one error."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise CorpusError(
            f"{what} is not on this machine and HF_HUB_OFFLINE is set. Unset it, or download on a machine with a network "
            f"(searchgym corpus fetch) and copy {home() / 'hub'}"
        )
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} on the hub", error.name or "huggingface_hub", "hub") from error
    page = f"{_endpoint()}/datasets/{repository}"

    def again() -> str:
        kept = f"{human(part.stat().st_size)} of {human(size)} are kept. " if part and part.exists() else ""
        return f"{kept}Try again"

    try:
        yield
    except SearchGymError:
        raise
    except errors.GatedRepoError:
        raise CorpusError(
            f"{what} is gated: accept its conditions at {page}, then set HF_TOKEN or run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CorpusError(
            f"{what}: {_endpoint()} has no such data set, or it is private. Check the name; for a private one set "
            "HF_TOKEN or run `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise CorpusError(f"{what}: no such revision. {page}/commits/main lists them") from None
    except errors.HFValidationError as error:
        raise ConfigError(f"{what}: {error}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no status")
        if status == 416 and part is not None:
            part.unlink(missing_ok=True)
            raise CorpusError(
                f"{what}: the hub has fewer bytes than it announced. Try again from the start"
            ) from None
        raise CorpusError(f"{what}: {_endpoint()} answered {status}. {again()}") from None
    except Exception as error:  # from the client's network library, which differs between its versions
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ConfigError(
                f"{what}: the disk is full. Make room and try again: the download continues"
            ) from error
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _NETWORK:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CorpusError(f"{what}: a request to {_endpoint()} failed ({reason}). {again()}") from None


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _directory(repository: str) -> Path:
    return home() / "hub" / repository.replace("/", "--")


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextlib.contextmanager
def _locked(repository: str) -> Iterator[None]:
    directory = _directory(repository)
    try:
        lock = lock_file(directory / ".lock", wait=True)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written ({error.strerror or error}): set SEARCHGYM_HOME to a writable directory"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    value: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return value


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(value, indent=1) + "\n")
