"""A LlamaIndex retriever over any index. Tested versions: `peers.PEERS`."""

from __future__ import annotations

from typing import Any

from searchgym.corpora.indexing.source import Source
from searchgym.errors import RetrievalError
from searchgym.options import integer
from searchgym.records.retriever import Retriever
from searchgym.specs import Spec

from .peers import check_peer

check_peer("llamaindex")

from llama_index.core.retrievers import BaseRetriever  # noqa: E402  # after the check of its version
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # noqa: E402

__all__ = ["SearchGymRetriever"]


class SearchGymRetriever(BaseRetriever):  # type: ignore[misc]  # the package need not be installed
    """Searches an index. A node has the passage's text and id, and its title in the metadata.

    Args:
        retriever: a `searchgym.Retriever`; `open` takes names instead.
        similarity_top_k: passages per query.
        **options: of LlamaIndex's base class, e.g. `callback_manager`.

    Raises:
        ConfigError: `similarity_top_k` is not a whole number of at least 1.
        RetrievalError: by `retrieve`: the retriever failed. An empty list means that nothing was found.
    """

    def __init__(self, retriever: Retriever, similarity_top_k: int = 3, **options: Any) -> None:
        self._searchgym = retriever
        self._k = integer("similarity_top_k", similarity_top_k, 1)
        super().__init__(**options)

    @classmethod
    def open(cls, index: Spec, corpus: Spec | None = None, similarity_top_k: int = 3) -> SearchGymRetriever:
        """Open an index.

        Args:
            index: directory of a built index, or a retriever (a name, or a dict with options), which needs the corpus.
            corpus: name, path or dict; None for the one that the index records.
            similarity_top_k: passages per query.

        Raises:
            ConfigError: index or corpus cannot be opened.
        """
        return cls(Source(index, corpus).open()[0], similarity_top_k)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        (found,) = self._searchgym.search([query_bundle.query_str], self._k)
        if isinstance(found, RetrievalError):
            raise found
        return [
            NodeWithScore(
                node=TextNode(id_=hit.id, text=hit.text, metadata={"title": hit.title}), score=hit.score
            )
            for hit in found
        ]
