"""What is searched, from the names that commands and adapters are given."""

from __future__ import annotations

import os
from dataclasses import dataclass

from searchgym.errors import ConfigError
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever
from searchgym.specs import Spec, open_corpus, open_retriever

from .backend import open_index, read_index

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """An index with its corpus, as a command line or a file names them.

    Attributes:
        index: the directory of a built index, or the spec of a retriever, which needs the corpus.
        corpus: the spec of the corpus; None for the one recorded in the directory.
    """

    index: Spec
    corpus: Spec | None = None

    def open(self, *, cached: bool = True) -> tuple[Retriever, Corpus]:
        """Open both.

        Args:
            cached: False for no query cache, because the caller has one. The directory of an index has none either way.

        Raises:
            IndexMismatchError: the directory holds no usable index.
            ConfigError: the corpus is unknown or cannot be used.
        """
        if isinstance(self.index, str) and os.path.isdir(self.index):
            spec = self.corpus if self.corpus is not None else read_index(self.index)["corpus"]
            if spec is None:
                raise ConfigError(
                    f"the index in {self.index} does not say how to open its corpus: give --corpus"
                )
            corpus = open_corpus(spec)
            return open_index(self.index, corpus), corpus
        if self.corpus is None:
            raise ConfigError(
                f"{self.index!r} is not the directory of an index: give one, or name a retriever and its --corpus"
            )
        corpus = open_corpus(self.corpus)
        return open_retriever(self.index, corpus, cached=cached), corpus
