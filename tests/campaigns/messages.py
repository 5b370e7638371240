"""10,000 generated messages in each dialect, streamed token by token through each engine.

    python tests/campaigns/messages.py                 (about 15 minutes on one core)
    python tests/campaigns/messages.py --count 400

Thoughts quote acts, closing tags, calls and other thoughts; calls hold closing tags in strings, numbers, and JSON inside
JSON (`tests/fixtures/messages.py`). After each engine the act has to be the one that the message was made for, and
sampling has to end with it. The engines are real, and their models write the messages: the engine of this process, the
part of vLLM's two engines that they share, and vLLM over HTTP, each with four chat templates and tokenizers, one of
which opens a thought in every reply; the tiny model's; and the agent `api` with servers that stop at the first stop
string. The exit status is 1 if any act is wrong.

The last lines are the cost: time in the stop rule as a share of decoding, for the tiny model and for a chat model
with random weights, both on this machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "agents")]

import torch  # noqa: E402
from fixtures.streaming import (  # noqa: E402
    FAMILIES,
    chat_messages,
    own_engine,
    summary,
    vllm,
    vllm_server,
    wrong_acts,
    wrong_api_acts,
    wrong_tiny_acts,
)

from searchgym.agents.lm.engine import Engine  # noqa: E402
from searchgym.agents.lm.network import DecoderNetwork  # noqa: E402
from searchgym.agents.lm.sampling import Sampling  # noqa: E402
from searchgym.agents.tiny import TinyAgent  # noqa: E402
from searchgym.agents.tiny.model import TinyConfig, build_model  # noqa: E402


def run(count: int) -> int:
    """Stream messages through everything; returns how many acts were wrong.

    Args:
        count: messages for each engine and dialect, a quarter of them for each template or server.
    """
    total, part = 0, max(1, count // 4)

    def report(wrong: list[str], what: str, number: int = part) -> None:
        nonlocal total
        total += len(wrong)
        print(summary(wrong, number, what), flush=True)

    for dialect in ("tags", "tools"):
        for family in FAMILIES:
            for engine in (own_engine, vllm, vllm_server):
                report(wrong_acts(engine, family, dialect, part), f"{engine.__name__}, {family}, {dialect}")
        for opened in (False, True):
            for includes_stop in (False, True):
                wrong = wrong_api_acts(dialect, part, opened=opened, includes_stop=includes_stop)
                report(wrong, f"api, {dialect}, {opened=}, {includes_stop=}")
    report(wrong_tiny_acts(count), "tiny, tags", count)
    return total


def cost(family: str, engine: Engine) -> str:
    """Time in the stop rule as a share of decoding the same number of tokens, 16 acts at a time."""
    chat, _, scripts = chat_messages(family, "tags", 200, 1)
    start = time.perf_counter()
    for script in scripts:
        completes = chat.watch()
        for token in script:
            completes(token)
    token = (time.perf_counter() - start) / sum(map(len, scripts))
    slots = list(range(16))
    engine.begin(slots)
    engine.generate(slots, [[1]] * 16, Sampling(torch.Generator().manual_seed(0)))
    decode = engine.stats.decode_seconds / engine.stats.sampled_tokens
    return f"stop rule {token * 1e6:.2f} us a token, decoding {decode * 1e6:.0f} us: {token / decode:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="messages for each engine and dialect")
    wrong = run(parser.parse_args().count)
    print("tiny model:", cost("qwen", TinyAgent(max_new_tokens=48).engine))
    shape = TinyConfig(1_000, width=256, layers=4, heads=4, kv_heads=4, head_dim=64)
    network = DecoderNetwork(build_model(shape, seed=0), whole_logits=True)
    print("4 layers of width 256:", cost("qwen", Engine(network, (), max_new_tokens=64, max_context=128)))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
