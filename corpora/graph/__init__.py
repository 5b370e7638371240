"""Questions made from a knowledge graph: triples, random walks over them, and the corpus that the walks become.

    >>> from searchgym.corpora.graph import questions_from_graph
    >>> questions_from_graph("triples.tsv", "walks", train=1000, dev=100, hops=(5, 9))

`triples` reads the graph, `index` finds what a description fits, `walks` draws the questions, `wording` writes them,
`building` makes the corpus directory.
"""

from .building import WalkOptions, questions_from_graph

__all__ = ["WalkOptions", "questions_from_graph"]
