"""Random corpora and queries: the compiled search of BM25 has the hits and scores of numpy, which reads every posting, bit for bit.

    python tests/campaigns/bm25_exact.py                 1,000 corpora, about three minutes
    python tests/campaigns/bm25_exact.py --count 50 --first 7000

Each corpus has 1 to 40,000 passages, of words from 2 to 3,000 by Zipf's law of some exponent, a part of the passages identical;
k1 and b are drawn too. Half of the corpora have their postings as indexes of more than 65,536 passages have. Each has
eight queries of 1 to 40 words, with k from 1 to 1,000. Exit status 1 if a result differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "corpora"))

from bm25_comparison import compare

from searchgym.corpora.bm25 import loader


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    if not loader.wait():
        sys.exit("numba is needed: pip install searchgym[fast]")
    compared, wrong = 0, []
    for seed in range(options.first, options.first + options.count):
        try:
            compared += compare(seed)
        except AssertionError as error:
            wrong.append(seed)
            print(f"differs: {error}", flush=True)
    print(f"bm25_exact corpora={options.count} results={compared} different={len(wrong)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
