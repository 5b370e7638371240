"""A LangChain retriever over any index. Tested versions: `peers.PEERS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchgym.corpora.indexing.source import Source
from searchgym.errors import RetrievalError
from searchgym.records.retriever import Retriever, SearchResult
from searchgym.specs import Spec

from .peers import check_peer

check_peer("langchain")

from langchain_core.callbacks import CallbackManagerForRetrieverRun  # noqa: E402  # after the check of its version
from langchain_core.documents import Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from langchain_core.runnables import RunnableConfig  # noqa: E402

__all__ = ["SearchGymRetriever"]


class SearchGymRetriever(BaseRetriever):  # type: ignore[misc]  # the package need not be installed
    """Searches an index; `batch` is one call of the index, and callbacks see every query.

    A document has the passage's text and id, and `title` and `score` in its metadata.

    Args:
        retriever: a `searchgym.Retriever`; `open` takes names instead.
        k: passages per query.

    Raises:
        RetrievalError: by `invoke` and `batch`: the retriever failed. An empty list means that nothing was found.
    """

    retriever: Any
    k: int = 3

    @classmethod
    def open(cls, index: Spec, corpus: Spec | None = None, k: int = 3) -> SearchGymRetriever:
        """Open an index.

        Args:
            index: directory of a built index, or a retriever (a name, or a dict with options), which needs the corpus.
            corpus: name, path or dict; None for the one that the index records.
            k: passages per query.

        Raises:
            ConfigError: index or corpus cannot be opened.
        """
        return cls(retriever=Source(index, corpus).open()[0], k=k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        (found,) = self.retriever.search([query], self.k)
        if isinstance(found, RetrievalError):
            raise found
        return [
            Document(page_content=hit.text, id=hit.id, metadata={"title": hit.title, "score": hit.score})
            for hit in found
        ]

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Search several queries in one call of the index; see `langchain_core.runnables.Runnable.batch`."""
        known = SearchGymRetriever(retriever=_Known(self.retriever, inputs, self.k), k=self.k)
        found: list[list[Document]] = super(SearchGymRetriever, known).batch(
            inputs, config, return_exceptions=return_exceptions, **kwargs
        )
        return found


class _Known:
    """The results of some queries, as a retriever."""

    def __init__(self, retriever: Retriever, queries: Sequence[str], k: int) -> None:
        distinct = list(dict.fromkeys(queries))
        found: Sequence[SearchResult] = []
        try:
            found = retriever.search(distinct, k) if distinct else []
        except RetrievalError as error:  # of the whole batch: every query has failed
            found = [error] * len(distinct)
        self._results = dict(zip(distinct, found, strict=True))

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [self._results[query] for query in queries]
