"""Prints what questions from a large graph cost: time, peak memory, and what was drawn.

    python tests/benchmarks/bench_from_graph.py [--triples 1000000] [--questions 10000] [--hops 5-5]

The graph is random: people, works, places and organizations with 6 triples each, of which one half leads to other nodes
(the popular ones more often, as in a real graph) and the other half to years, numbers and words.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

LINKS = [f"{kind} {number}" for kind in ("mentor", "founder", "sponsor", "neighbour") for number in range(5)]
WORDS = ["occupation", "language", "religion", "material", "colour"]
NUMBERS = ["height", "population", "area"]
YEARS = ["year of birth", "year of foundation", "year of closure"]


def write_graph(file: Path, triples: int, seed: int = 0) -> None:
    """Write a random graph of this many rows.

    Args:
        file: where.
        triples: rows.
        seed: any integer.
    """
    draw = random.Random(seed)
    letters = "ABCDEFGHIJKLMNOPRSTUVWYZ"
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]

    def name(parts: int) -> str:
        return draw.choice(letters) + "".join(draw.choices(syllables, k=parts))

    entities = [f"{name(2)} {name(3)} {number}" for number in range(triples // 6)]
    words = [name(2) for _ in range(400)]
    with file.open("w", encoding="utf-8") as out:
        for number in range(triples):
            subject = entities[number % len(entities)]
            if draw.random() < 0.5:
                popular = int(len(entities) * draw.random() ** 2)
                row = draw.choice(LINKS), entities[popular]
            elif draw.random() < 0.5:
                row = draw.choice(WORDS), draw.choice(words)
            elif draw.random() < 0.5:
                row = draw.choice(NUMBERS), str(int(10 ** (7 * draw.random())))
            else:
                row = draw.choice(YEARS), str(draw.randrange(1700, 2020))
            out.write("\t".join((subject, *row)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--hops", default="5-5")
    arguments = parser.parse_args()
    low, high = map(int, arguments.hops.split("-"))
    from searchgym.corpora.graph import WalkOptions, questions_from_graph

    with tempfile.TemporaryDirectory() as work:
        file, out = Path(work, "triples.tsv"), Path(work, "corpus")
        write_graph(file, arguments.triples)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started, worked = time.perf_counter(), time.process_time()
        questions_from_graph(file, out, WalkOptions(arguments.questions, 0, 0, (low, high)))
        wall, worked = time.perf_counter() - started, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows = [json.loads(line) for line in (out / "questions.jsonl").open(encoding="utf-8")]
        unique = len({row["question"] for row in rows})
        card = json.loads((out / "card.json").read_text("utf-8"))
        print(json.dumps(card, indent=1))
        print(rows[0]["question"])
        print(
            f"{arguments.triples:,} triples, {unique:,} different questions of {low} to {high} hops: {wall:.1f} s "
            f"({worked:.1f} s of a processor), peak memory {peak:.0f} MB ({before:.0f} MB before)"
        )


if __name__ == "__main__":
    main()
