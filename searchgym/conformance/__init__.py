"""Executable contracts: run these on your own plug-in.

    from . import check_retriever
    check_retriever(MyRetriever(corpus), corpus)

Each check raises `ConformanceError` at the first broken promise, naming the promise, what was seen and, where
it helps, the input. The built-in parts pass the same checks in the tests.
"""

from .judging import check_judge
from .retrieval import check_corpus, check_retriever

__all__ = ["check_corpus", "check_judge", "check_retriever"]
