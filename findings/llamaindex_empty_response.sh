#!/usr/bin/env bash
# A LlamaIndex query engine whose retriever found nothing answers "Empty Response", in the place of the model's answer: the model
# is not asked, and nothing but the text tells this from an answer.
#
# Versions: llama-index-core 0.14.25, Python 3.11.
# Behaviour: with no node, RetrieverQueryEngine returns a Response whose text is the words "Empty Response". The language model is
#   not called, although it may know the answer or could say that it does not; with every response mode but "generation" (which
#   uses no text at all). With one node, however useless, it is called. The object has no error and no flag, only an empty
#   list of source nodes, so a grader scores the two words as an answer, and a judge reads them as the model's style. An
#   evaluation that compares retrievers by answers has to leave out, or to count apart, responses without source nodes.
# Seen 2026-11-29:
#   compact: answered 'Empty Response', model calls 0, source nodes 0
#   refine: answered 'Empty Response', model calls 0, source nodes 0
#   tree_summarize: answered 'Empty Response', model calls 0, source nodes 0
#   generation: answered 'Bern.', model calls 1, source nodes 0
#   compact with a useless node: answered 'Bern.', model calls 1, source nodes 1
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat > "$work/probe.py" <<'PY'
from typing import Any

from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

calls = []


class Knowing(CustomLLM):
    """Knows the capital of Switzerland, whatever it is given to read."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        calls.append(prompt)
        return CompletionResponse(text="Bern.")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        raise NotImplementedError


class Finds(BaseRetriever):
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        super().__init__()

    def _retrieve(self, query_bundle: Any) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in self.texts]


def ask(mode: str, texts: list[str]) -> tuple[str, int, int]:
    calls.clear()
    engine = RetrieverQueryEngine.from_args(Finds(texts), llm=Knowing(), response_mode=mode)
    answer = engine.query("What is the capital of Switzerland?")
    return str(answer), len(calls), len(answer.source_nodes)


for mode in ("compact", "refine", "tree_summarize", "generation"):
    seen = ask(mode, [])
    print(f"{mode}: answered {seen[0]!r}, model calls {seen[1]}, source nodes {seen[2]}")
    assert seen == (("Bern.", 1, 0) if mode == "generation" else ("Empty Response", 0, 0)), (mode, seen)
seen = ask("compact", ["A recipe."])
print(f"compact with a useless node: answered {seen[0]!r}, model calls {seen[1]}, source nodes {seen[2]}")
assert seen == ("Bern.", 1, 1), seen
PY
"$work/venv/bin/python" "$work/probe.py"
