"""A retriever and a judge that fail at random, for training runs whose tapes must say when.

`python flaky_parts.py CONFIG RUN_DIR` trains in a child that kills itself with SIGKILL in the middle of an
iteration, and then resumes; the failures of both are different.
"""

import json
import os
import random
import signal
import sys

from searchgym.corpora.bm25.index import BM25
from searchgym.errors import RetrievalError
from searchgym.judges import Verdict
from searchgym.judges.oracle import OracleJudge

_search, _judge = BM25.search, OracleJudge.judge


def break_parts(seed, kill_at=None):
    """From now on about one in twenty queries and verdicts fails; judgement number `kill_at` is this process's last."""
    chance, judged = random.Random(seed), 0

    def search(self, queries, k):
        results = _search(self, queries, k)
        return [RetrievalError("down") if chance.random() < 0.05 else r for r in results]

    def judge(self, traces):
        nonlocal judged
        judged += len(traces)
        if kill_at is not None and judged >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        verdicts = _judge(self, traces)
        return [Verdict.error("timeout") if chance.random() < 0.05 else v for v in verdicts]

    BM25.search, OracleJudge.judge = search, judge


def mend_parts():
    BM25.search, OracleJudge.judge = _search, _judge


if __name__ == "__main__":
    import torch

    from searchgym.trainers.training.api import resume, train

    torch.set_num_threads(1)
    config, path = json.loads(sys.argv[1]), sys.argv[2]
    child = os.fork()
    if child == 0:
        break_parts(1, kill_at=160)
        train(config, path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    break_parts(2)
    resume(path)
