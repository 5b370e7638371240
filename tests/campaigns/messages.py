"""10,000 generated messages in each dialect, streamed token by token through each engine.

    python tests/campaigns/messages.py                 (about 15 minutes on one core)
    python tests/campaigns/messages.py --count 400

Thoughts quote acts, closing tags, calls and other thoughts; calls hold closing tags in strings, numbers, and JSON inside
JSON (`tests/fixtures/messages.py`). After each engine the act has to be the one that the message was made for, and
sampling has to end with it. The engines are real, and their models write the messages: the engine of this process, the
part of vLLM's two engines that they share, and vLLM over HTTP, each with four chat templates and tokenizers, one of
which opens a thought in every reply; the tiny model's; and the agent `api` with servers that stop at the first stop
string. The exit status is 1 if any act is wrong.

The last lines are the cost on these messages, which hold far more tags than usual ones: time in the stop rule of each
engine as a share of decoding, for the tiny model and for a chat model with random weights, both on this machine. vLLM's
engines run the same rule, `api` reads whole replies; for both the line names the speed at which that is 1 %.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "agents")]

import torch  # noqa: E402
from fixtures.messages import generated  # noqa: E402
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
from searchgym.dialects import get_dialect  # noqa: E402


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


def rule_seconds(watch: Callable[[], Callable[[int], bool]], scripts: Sequence[Sequence[int]]) -> float:
    """Processor seconds that the stop rule takes for a token: the least of 5 passes over the messages, each up to the end of its act."""
    passes = []
    for _ in range(5):
        tokens, start = 0, time.process_time()
        for script in scripts:
            completes = watch()
            for token in script:
                tokens += 1
                if completes(token):
                    break
        passes.append((time.process_time() - start) / tokens)
    return min(passes)


def decode_seconds(engine: Engine, acts: int) -> float:
    """Seconds of processor time that sampling a token takes without a stop rule, with so many acts at a time."""
    watch, engine.watch = engine.watch, None
    slots, before = list(range(acts)), engine.stats.sampled_tokens
    engine.begin(slots)
    start = time.process_time()
    engine.generate(slots, [[1]] * acts, Sampling(torch.Generator().manual_seed(0)))
    seconds = time.process_time() - start
    engine.watch = watch
    return seconds / (engine.stats.sampled_tokens - before)


def print_costs() -> None:
    """The stop rule of every engine on the campaign's messages, as a share of decoding."""
    rng, tiny = random.Random(0), TinyAgent()
    scripts = [tiny.tokenizer.encode(generated(rng, "tags", opened=False).text) for _ in range(400)]
    rule = rule_seconds(tiny.engine.watch, scripts)
    for acts in (1, 16, 64, 256):
        decoding = decode_seconds(tiny.engine, acts)
        print(
            f"tiny, {acts} acts at a time: {rule * 1e6:.2f} of {decoding * 1e6:.0f} us: {rule / decoding:.2%}"
        )
    shape = TinyConfig(1_000, width=256, layers=4, heads=4, kv_heads=4, head_dim=64)
    network = DecoderNetwork(build_model(shape, seed=0), whole_logits=True)
    engine = Engine(network, (), max_new_tokens=64, max_context=128)
    decoding = min(decode_seconds(engine, acts) for acts in (16, 64))
    for family in FAMILIES:
        for dialect in ("tags", "tools"):
            chat, messages, scripts = chat_messages(family, dialect, 200, 1)
            rule = rule_seconds(chat.watch, scripts)
            print(
                f"hf, {family}, {dialect}: {rule * 1e6:.2f} of {decoding * 1e6:.0f} us (4 layers of width 256): "
                f"{rule / decoding:.2%}; with vLLM, 1 % at {0.01 / rule:,.0f} tokens a second"
            )
            language, start = get_dialect(dialect), time.process_time()
            for message in messages:  # what the agent does with a reply
                language.close(message.text)
                language.cut(message.text)
            rule = (time.process_time() - start) / sum(map(len, scripts))
            print(f"api, {family}, {dialect}: {rule * 1e6:.2f} us, 1 % at {0.01 / rule:,.0f} tokens a second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="messages for each engine and dialect")
    wrong = run(parser.parse_args().count)
    print_costs()
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
