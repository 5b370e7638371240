"""Tiny chat models made on the spot: a tokenizer trained on the judge's prompts, random or overfitted weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from searchgym.agents.hf.chat_encoder import ChatEncoder
from searchgym.agents.tiny.model import TinyConfig, build_model, save_model
from searchgym.conformance.traces import PLAIN, ordinary_traces
from searchgym.judges.llm.prompt import Message, Prompt, grade_prompt, round_prompt

CONTEXT = 2048
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
PROMPTS: list[Prompt] = [p for t in ordinary_traces() if (p := round_prompt(t)) is not None]
GRADED = grade_prompt(PLAIN, "Tarn")


def make_tokenizer(
    template: str | None = TEMPLATE,
    *,
    digits: bool = False,
    words: bool = True,
    nfkc: bool = False,
    added: Sequence[str] = (),
) -> Any:
    """A byte-level BPE tokenizer trained on the judge's prompts.

    Args:
        digits: every digit is a token of its own, as in Qwen3; else " 1" is one token, as in Llama 3.
        words: tokens end at words; else they run on, which makes prompts very short.
        nfkc: text is normalised before control tokens are looked for.
        added: further tokens that are not special, such as Qwen3's `<think>`.
    """
    tokenizer = Tokenizer(models.BPE())
    split: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    split.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    if nfkc:
        tokenizer.normalizer = normalizers.NFKC()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[AddedToken(text, normalized=nfkc) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for prompt in [*PROMPTS, GRADED] for message in prompt.messages()]
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def save_chat_model(folder: Path, tokenizer: Any, model: Any = None) -> str:
    """Write tokenizer and model (by default one with random weights) as `from_pretrained` reads them."""
    tokenizer.save_pretrained(folder)
    config = _config(tokenizer)
    save_model(model if model is not None else build_model(config, seed=0), config, folder)
    return str(folder)


def overfit(tokenizer: Any, replies: Sequence[tuple[Sequence[Message], str]]) -> Any:
    """A model that writes exactly these replies to these conversations; takes some three seconds."""
    encoder = ChatEncoder(tokenizer)
    model: Any = build_model(_config(tokenizer), seed=0).train()
    rows = [(encoder.encode(messages), encoder.plain(reply)) for messages, reply in replies]
    longest = max(len(prompt) + len(reply) + 1 for prompt, reply in rows)
    ids_BT = torch.full((len(rows), longest), tokenizer.pad_token_id)
    wanted_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for row, (prompt, reply) in enumerate(rows):
        whole = [*prompt, *reply, tokenizer.eos_token_id]
        ids_BT[row, : len(whole)] = torch.tensor(whole)
        wanted_BT[row, len(prompt) : len(whole)] = True
    targets_N, before_BT = ids_BT[wanted_BT], wanted_BT[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        hidden_BTW = model.model(input_ids=ids_BT).last_hidden_state[:, :-1]
        logits_NV = model.lm_head(hidden_BTW[before_BT])
        loss = cross_entropy(logits_NV, targets_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.05:
            return model.eval()
    raise AssertionError(f"the model did not learn its replies: loss {float(loss):.3f}")


def _config(tokenizer: Any) -> TinyConfig:
    return TinyConfig(
        vocab_size=len(tokenizer), width=32, layers=2, heads=2, kv_heads=1, head_dim=16, max_positions=CONTEXT
    )
