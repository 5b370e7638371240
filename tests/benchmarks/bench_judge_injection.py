"""Prints how often each attack on the judge's prompt gets a good verdict out of a careless model's reply.

    python tests/benchmarks/bench_judge_injection.py

Each attack is put into a passage and into the agent's message, and the model repeats it before its own verdict,
after it, and inside its analysis: six tries. The model (`fixtures/judge_attacks.py`) stands behind a real HTTP
server, and its own verdict is always 0 and 0. "naive" takes the first JSON object of the reply; "llm" is the judge.
What a real model lets itself be talked into is not measured here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.judge_attacks import ATTACKS, ECHOES, PLACES, careless_reply, naive_verdict, trace
from fixtures.stub_llm import StubLLM

from searchgym.judges.llm.judge import LLMJudge


def measure() -> dict[str, dict[str, int]]:
    """By attack: how often it "fooled" the naive reader and the judge, how often the judge had no verdict "lost"."""
    tries = [(place, echo) for place in PLACES for echo in ECHOES]
    found = {}
    with StubLLM() as stub:
        judge = LLMJudge(model=stub.model, base_url=stub.url, api_key_env=None, cache=False)
        for attack, hostile in ATTACKS.items():
            row = {"tries": len(tries), "naive": 0, "llm": 0, "lost": 0}
            for place, echo in tries:
                replies: list[str] = []

                def reply(
                    prompt: str, place: str = place, echo: str = echo, kept: list[str] = replies
                ) -> str:
                    kept.append(careless_reply(prompt, place, echo))
                    return kept[-1]

                stub.reply = reply
                (verdict,) = judge.judge([trace(hostile(place), place)])
                row["naive"] += any(naive_verdict(replies[0]) or ())
                row["llm"] += bool(verdict.utility or verdict.reasoning)
                row["lost"] += verdict.status != "ok"
            found[attack] = row
    return found


def main() -> None:
    found = measure()
    print(f"{'attack':30} {'tries':>5} {'naive':>6} {'llm':>5} {'llm without verdict':>20}")
    for attack, row in found.items():
        print(f"{attack:30} {row['tries']:5} {row['naive']:6} {row['llm']:5} {row['lost']:20}")
    total = {name: sum(row[name] for row in found.values()) for name in ("tries", "naive", "llm", "lost")}
    print(f"{'all':30} {total['tries']:5} {total['naive']:6} {total['llm']:5} {total['lost']:20}")


if __name__ == "__main__":
    main()
