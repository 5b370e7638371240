"""Memory and time of the language-model head: in blocks of the vocabulary (`searchgym.agents.lm.token_logprobs`)
compared with the plain computation.

    python tests/benchmarks/bench_token_logprobs.py [--tokens 4096] [--words 151936] [--width 1024] [--dtype float32]

Each way runs forward and backward once in a process of its own, with gradients for hidden states and weight, and for
the hidden states only (a frozen weight, as with LoRA). The memory is the peak of the process's resident memory minus the
memory before the first call (inputs, interpreter, libraries after a warm-up on a small case) and minus the weight's
gradient where there is one; it includes temporaries of the libraries. Seconds are
processor time, so other work on the machine has little influence. The outputs of the two ways are compared, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from searchgym.agents.lm.token_logprobs import token_logprobs

sys.path.insert(0, str(Path(__file__).parent))

from processes import figures_of

WAYS = ("plain", "in blocks")


def plain(
    hidden_UW: Tensor, weight_VW: Tensor, targets_U: Tensor, temperatures_U: Tensor
) -> tuple[Tensor, Tensor]:
    """As it is usually written: float32 logits, their log-softmax, the entropy from it."""
    logits_UV = (hidden_UW @ weight_VW.T).float() / temperatures_U.unsqueeze(1)
    logps_UV = torch.log_softmax(logits_UV, dim=-1)
    entropy_U = -(logps_UV.exp() * logps_UV).sum(-1)
    return logps_UV.gather(1, targets_U.unsqueeze(1)).squeeze(1), entropy_U


def resident() -> int:
    """Peak so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Runs in the child process."""
    torch.set_num_threads(options.threads)
    function = plain if options.way == "plain" else token_logprobs
    generator = torch.Generator().manual_seed(0)

    def inputs(tokens: int, words: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = getattr(torch, options.dtype)
        hidden = torch.randn(tokens, options.width, generator=generator, dtype=dtype).requires_grad_()
        weight = torch.randn(words, options.width, generator=generator, dtype=dtype).mul_(options.width**-0.5)
        targets = torch.randint(words, (tokens,), generator=generator)
        return hidden, weight.requires_grad_(not options.frozen), targets, torch.full((tokens,), 0.7)

    def run(given: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, object]:
        start = time.process_time()
        logprobs, entropy = function(*given)
        middle = time.process_time()
        (logprobs.mean() + 0.01 * entropy.mean()).backward()
        end = time.process_time()
        grads = [given[0].grad, given[1].grad if given[1].grad is not None else torch.zeros(1)]
        return {
            "forward": middle - start,
            "backward": end - middle,
            "values": [float(logprobs.detach().double().sum()), float(entropy.detach().double().sum())],
            "gradients": [float(g.double().norm()) if g.numel() < 2**23 else float(g.norm()) for g in grads],
        }

    run(inputs(64, 512))
    given = inputs(options.tokens, options.words)
    before = resident()
    figures = run(given)
    weight_gradient = 0 if options.frozen else given[1].untyped_storage().nbytes()
    return {**figures, "bytes": resident() - before - weight_gradient}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--words", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--frozen", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    print(
        f"{options.tokens} tokens x {options.words} words, width {options.width}, {options.dtype}; logits in float32 "
        f"are {4e-9 * options.tokens * options.words:.2f} GB"
    )
    for frozen in (False, True):
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way, *["--frozen"][: int(frozen)]]
            row = found[way] = figures_of(command)
            print(
                f"{way}, weight {'frozen' if frozen else 'trained'}: {row['bytes'] / 1e9:.3f} GB in addition to inputs"
                f"{'' if frozen else ' and the gradient of the weight'}; forward {row['forward']:.1f} s, "
                f"backward {row['backward']:.1f} s of processor time",
                flush=True,
            )
        gaps = [
            abs(a - b) / max(abs(a), 1e-12)
            for name in ("values", "gradients")
            for a, b in zip(found["plain"][name], found["in blocks"][name], strict=True)
        ]
        print(f"  sums of values and norms of gradients differ by {max(gaps):.1e} (relative) at most")


if __name__ == "__main__":
    main()
