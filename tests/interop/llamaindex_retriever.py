"""The LlamaIndex retriever in a query engine of the real package.

python tests/interop/llamaindex_retriever.py        # with searchgym[llamaindex]
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from scripts import WORLD, Down

import searchgym
from searchgym.errors import RetrievalError
from searchgym.interop.llamaindex import SearchGymRetriever


def main() -> None:
    corpus = searchgym.open_corpus(WORLD)
    index = searchgym.open_retriever("bm25", corpus)
    retriever = SearchGymRetriever(index, similarity_top_k=2)
    (expected,) = index.search(["Eskhoff Museum"], 2)
    nodes = retriever.retrieve("Eskhoff Museum")
    assert [(n.node.node_id, n.node.get_content(), n.score) for n in nodes] == [
        (hit.id, hit.text, hit.score) for hit in expected
    ]
    assert [n.node.node_id for n in SearchGymRetriever.open("bm25", WORLD, 2).retrieve("Eskhoff Museum")] == [
        hit.id for hit in expected
    ]
    assert retriever.retrieve("") == []
    assert len(asyncio.run(retriever.aretrieve("river"))) == 2
    answer = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("Eskhoff Museum")
    assert [node.node.node_id for node in answer.source_nodes] == [hit.id for hit in expected]
    assert expected[0].text in str(answer)
    try:
        SearchGymRetriever(Down()).retrieve("river")
    except RetrievalError:
        print(f"llama-index-core {version('llama-index-core')}: retrieve, async, query engine, failure: ok")
    else:
        raise AssertionError("a retriever that is down was read as one that found nothing")


main()
