"""Corpora and question sets from the Hugging Face Hub: `corpus={"name": "hub", "corpus": "wiki-18", "questions": "nq"}`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError, did_you_mean
from searchgym.options import choice
from searchgym.scoring import DEFAULT_SEGMENTATION

from .fields import SPLITS, Source
from .hub_files import Repository, RepositoryFile, fetch_files, list_files, missing_bytes, pin
from .jsonl import JsonlCorpus, find_passages, find_questions, split_of
from .lines import SUFFIXES
from .packing import packed_size

__all__ = ["KNOWN", "HubSet", "find_set", "open_hub"]

_FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"
KNOWN: dict[str, tuple[str, str, str]] = {
    "wiki-18": ("PeterJinGo/wiki-18-corpus", "wiki-18.jsonl.gz", "21 M passages of Wikipedia (2018)"),
    "nq": (_FLASHRAG, "nq", "Natural Questions"),
    "triviaqa": (_FLASHRAG, "triviaqa", "TriviaQA"),
    "popqa": (_FLASHRAG, "popqa", "PopQA"),
    "hotpotqa": (_FLASHRAG, "hotpotqa", "HotpotQA, two hops"),
    "2wikimultihopqa": (_FLASHRAG, "2wikimultihopqa", "2WikiMultihopQA, two and four hops"),
    "musique": (_FLASHRAG, "musique", "MuSiQue, two to four hops"),
    "bamboogle": (_FLASHRAG, "bamboogle", "Bamboogle, two hops"),
    "nq_hotpotqa_train": ("PeterJinGo/nq_hotpotqa_train", "", "the training and test questions of Search-R1"),
}
"""Short names: repository, path in it, description."""

_NAME = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^@:\s]+))?(?::(?P<path>[^:]+))?")


@dataclass(frozen=True, slots=True)
class HubSet:
    """Files of one data set that belong together: passages, or the questions of a set.

    Attributes:
        name: the short name, or the last part of the address.
        repository: the data set at its commit.
        files: its files of passages or questions.
    """

    name: str
    repository: Repository
    files: list[RepositoryFile]

    @property
    def label(self) -> str:
        """Name and commit, for messages and records."""
        return f"{self.name}@{self.repository.commit[:7]}"

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes still to be downloaded."""
        return missing_bytes(self.repository, self.files)

    def fetch(self, reserve: int = 0) -> list[Path]:
        """The files on this machine; see `fetch_files`."""
        return fetch_files(self.repository, self.files, reserve=reserve)

    def origin(self) -> dict[str, Any]:
        """Where it comes from, as JSON data."""
        paths = [file.path for file in self.files]
        return {
            "name": self.name,
            "repository": self.repository.id,
            "commit": self.repository.commit,
            "files": paths,
        }


def find_set(name: str, *, questions: bool | None = None, update: bool = False) -> HubSet:
    """Find passages or a question set on the hub; only downloads the list of files.

    Args:
        name: a short name of `KNOWN`, or "owner/name", each optionally with "@revision" and ":path/in/it".
        questions: True for questions, False for passages; None for questions if the files are named after splits.
        update: use the branch's current commit instead of the one used before.

    Raises:
        ConfigError: not such a name.
        CorpusError: no suitable files, or the hub cannot be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None or ("/" not in match["id"] and match["id"] not in KNOWN):
        known = ", ".join(KNOWN)
        raise ConfigError(
            f"{name!r} is neither a path nor a data set of the hub.{did_you_mean(name, KNOWN)} Short names: "
            f"{known}. Others are owner/name, with :path if a data set has several"
        )
    repository, path = match["id"], match["path"] or ""
    short = repository
    if match["id"] in KNOWN:
        if path:
            raise ConfigError(
                f"{name!r}: a short name cannot have a path. Write {KNOWN[match['id']][0]}:{path}"
            )
        short = match["id"]
        repository, path, _ = KNOWN[short]
    pinned = pin(repository, match["revision"] or "", update=update)
    path = path.strip("/")
    files = _select(list_files(pinned), path, questions, repository)
    if match["id"] not in KNOWN:  # the folder, or the data set if there is none
        folder = path.rpartition("/")[0] if [file.path for file in files] == [path] else path
        short = (folder or repository).rpartition("/")[2]
    return HubSet(short, pinned, files)


def open_hub(
    corpus: str,
    questions: str | Sequence[str] | None = None,
    split: str = "train",
    segmentation: str = DEFAULT_SEGMENTATION,
) -> JsonlCorpus:
    """Open passages and questions, some of which are on the hub; the entry point `hub` of `searchgym.corpora`.

    Files that are not on this machine are downloaded, after a check of the free disk space. The commit that is used
    first is used from then on; it is part of the corpus's name.

    Args:
        corpus: the passages: a data set of the hub (see `find_set`), or a local directory or file.
        questions: a question set of the hub or a local one, or several.
        split: the split of questions without one.
        segmentation: what F1 and substring match count as a word; see `searchgym.scoring.SEGMENTATIONS`.

    Raises:
        ConfigError: a name that cannot be used, or too little disk space.
        CorpusError: no such data set, it cannot be downloaded, or its lines cannot be used.
        MissingExtraError: a file has to be downloaded and the extra `hub` is not installed.
    """
    choice("split", split, SPLITS)
    sets_or_paths = [questions] if isinstance(questions, str) else list(questions or ())
    for name in (corpus, *sets_or_paths):
        if not isinstance(name, str):
            raise ConfigError(f"{name!r} is not a string: give a name of the hub, or a path")
    # Everything is found before anything is downloaded.
    passages = None if os.path.exists(corpus) else find_set(corpus, questions=False)
    sets = [None if os.path.exists(name) else find_set(name, questions=True) for name in sets_or_paths]
    origin: dict[str, Any] = {"passages": corpus, "questions": sets_or_paths}
    label = Path(corpus).resolve().name.split(".")[0]
    if passages is None:
        sources = [find_passages(Path(corpus).resolve())]
    else:
        reserve = packed_size((file.path, file.size) for file in passages.files)
        files = [Source(path, foreign=True) for path in passages.fetch(reserve)]
        sources, label, origin["passages"] = files, passages.label, passages.origin()
    found: list[Source] = []
    for position, (name, here) in enumerate(zip(sets_or_paths, sets, strict=True)):
        if here is None:
            found += find_questions(Path(name), split)
            label += f"+{Path(name).resolve().name.split('.')[0]}"
            continue
        for path in here.fetch():
            found.append(Source(path, split_of(path.name) or split, here.name, foreign=True))
        label += f"+{here.label}"
        origin["questions"][position] = here.origin()
    reopen = (open_hub, (corpus, questions, split, segmentation))
    return JsonlCorpus(label, sources, found, reopen, origin, segmentation)


def _select(
    files: list[RepositoryFile], path: str, questions: bool | None, repository: str
) -> list[RepositoryFile]:
    """The files of passages or questions at a path of a data set."""
    readable = [file for file in files if file.path.endswith(SUFFIXES)]
    chosen = [file for file in readable if file.path == path]
    if chosen:
        return chosen
    chosen = [file for file in readable if not path or file.path.startswith(f"{path}/")]
    folders = sorted({file.path.rpartition("/")[0] for file in chosen})
    if not chosen:
        paths = sorted({file.path.rpartition("/")[0] or file.path for file in readable})
        raise CorpusError(
            f"{repository} has no {', '.join(SUFFIXES)} file{f' in {path!r}' if path else ''}."
            f"{did_you_mean(path, paths)} It has: {', '.join(paths[:20]) or 'none'}"
        )
    if len(folders) > 1:
        raise CorpusError(
            f"{repository} has files in {len(folders)} folders: name one, as in {repository}:{folders[-1]}. "
            f"They are: {', '.join(folders[:20])}"
        )
    named = [file for file in chosen if split_of(file.path.rpartition("/")[2])]
    if questions and not named:
        raise CorpusError(
            f"{repository}: no file in {folders[0] or 'it'} is named train…, dev…, validation… or test…: name one "
            f"file of questions, as in {repository}:{chosen[0].path}"
        )
    chosen = named if named and questions is not False else chosen
    return sorted(chosen, key=lambda file: file.path)
