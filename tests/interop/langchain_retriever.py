"""The LangChain retriever in a chain of the real package: invoke, batch, async, callbacks, failures.

python tests/interop/langchain_retriever.py        # with searchgym[langchain]
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from scripts import WORLD, Down

import searchgym
from searchgym.errors import RetrievalError
from searchgym.interop.langchain import SearchGymRetriever


class Seen(BaseCallbackHandler):
    """Counts what callbacks are told."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.documents = 0

    def on_retriever_start(self, serialized: Any, query: str, **_: Any) -> None:
        self.queries.append(query)

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self.documents += len(documents)


class Counting:
    """Counts the calls of an index."""

    name, index_hash = "counting", "counting"

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def search(self, queries: Any, k: int) -> Any:
        self.calls += 1
        return self.inner.search(queries, k)


def main() -> None:
    corpus = searchgym.open_corpus(WORLD)
    counting = Counting(searchgym.open_retriever("bm25", corpus))
    retriever = SearchGymRetriever(retriever=counting, k=2)
    (expected,) = counting.inner.search(["Eskhoff Museum"], 2)
    documents = retriever.invoke("Eskhoff Museum")
    assert [(d.id, d.page_content, d.metadata["title"]) for d in documents] == [
        (hit.id, hit.text, hit.title) for hit in expected
    ]
    assert SearchGymRetriever.open("bm25", WORLD, k=2).invoke("Eskhoff Museum") == documents
    seen, counting.calls = Seen(), 0
    queries = ["river", "cider", "", "river"]
    batched = retriever.batch(queries, config={"callbacks": [seen]})
    assert counting.calls == 1, counting.calls
    assert sorted(seen.queries) == sorted(queries), seen.queries
    assert batched == [retriever.invoke(query) for query in queries]
    assert batched[2] == []
    assert seen.documents == sum(map(len, batched)), seen.documents
    assert asyncio.run(retriever.ainvoke("river")) == batched[0]
    chain = retriever | RunnableLambda(lambda found: [document.metadata["title"] for document in found])
    assert chain.invoke("Eskhoff Museum")[0] == "Eskhoff Museum"
    down = SearchGymRetriever(retriever=Down())
    failures = down.batch(["a", "b"], return_exceptions=True)
    try:
        down.invoke("a")
    except RetrievalError as error:
        failures.append(error)
    assert len(failures) == 3, failures
    assert all(isinstance(failure, RetrievalError) for failure in failures), failures
    print(
        f"langchain-core {version('langchain-core')}: invoke, batch (one call of the index), async, chain, failures: ok"
    )


main()
