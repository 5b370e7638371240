"""Stand-ins for four families of chat models: small tokenizers and templates with the traps of the real ones.

qwen     ChatML; a default system text, thoughts (dropped from earlier messages, empty ones added), tools in Hermes form.
llama    a start token, today's date, trimmed messages, tools before the question, bare calls, results as JSON strings.
mistral  SentencePiece pieces with a space before every text; strict turns, the system text in the LAST user message,
         tools in front of it, calls that need an id. It ends messages with its end token.
gemma    SentencePiece pieces without that space; no system role, strict turns, trimmed messages, runs of line breaks
         as tokens.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from searchgym.agent import AgentContext
from searchgym.agents.hf.chat import ChatFormat
from searchgym.conformance.traces import ordinary_traces
from searchgym.dialects import get_dialect
from searchgym.judges.llm.prompt import round_prompt

QWEN = """\
{%- set last = namespace(question=0) %}
{%- for m in messages if m.role == 'user' %}{% set last.question = messages.index(m) %}{% endfor %}
{{- '<|im_start|>system\\n' }}
{{- messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\nCalls: <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.question and loop.last %}
            {{- '<think>\\n' + m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') + '\\n</think>\\n\\n'
                if '</think>' in m.content else '<think>\\n\\n</think>\\n\\n' }}
        {%- endif %}
        {{- m.content.split('</think>')[-1].lstrip('\\n') }}
        {%- for call in m.tool_calls or [] %}
            {{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

LLAMA = """\
{{- bos_token }}
{%- macro head(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- set rest = messages %}
{{- head('system') + 'Today Date: ' + strftime_now('%d %b %Y') + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set rest = messages[1:] %}{% endif %}
{{- '<|eot_id|>' }}
{%- for m in rest %}
    {%- if m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- head('assistant') + '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- elif m.role == 'tool' %}
        {{- head('ipython') + m.content | tojson }}
    {%- else %}
        {{- head(m.role) }}
        {%- if tools and loop.first %}
            {{- 'Answer with the JSON of a call of one of these functions.\\n\\n' }}
            {%- for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}
        {%- endif %}
        {{- m.content | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set rest = messages[1:] if system is not none else messages %}
{%- set turn = namespace(count=0) %}
{%- for m in rest if m.role != 'tool' and not m.tool_calls %}
    {%- if (m.role == 'user') != (turn.count % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- set turn.count = turn.count + 1 %}
{%- endfor %}
{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system is not none else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls or m.role == 'tool' %}
        {%- for id in ([m.tool_call_id] if m.role == 'tool' else m.tool_calls | map(attribute='id')) %}
            {%- if id is not defined or id | length != 9 %}{{ raise_exception('call ids have 9 characters') }}{% endif %}
        {%- endfor %}
        {{- '[TOOL_CALLS] ' + m.tool_calls | tojson + eos_token if m.tool_calls else '[TOOL_RESULTS] ' + m.content }}
    {%- else %}
        {{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA}
FAMILIES = tuple(TEMPLATES)
CONTROL = {
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ),
    "mistral": (
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
    ),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
}
MARKS = {
    "qwen": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    "gemma": ("\n\n", "\n\n\n"),
}
_NAMED = {
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
}


@functools.cache
def family_tokenizer(family: str, template: str | None = None) -> Any:
    """The tokenizer of a family, trained on the judge's prompts; only qwen's has a padding token."""
    texts = [m["content"] for t in ordinary_traces() if (p := round_prompt(t)) for m in p.messages()]
    texts += [f"{d.system_prompt(feedback=True, max_queries=2)}" for d in map(get_dialect, ("tags", "tools"))]
    tokenizer = _bytes(texts) if family in ("qwen", "llama") else _pieces(texts, family)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in CONTROL[family]])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKS.get(family, ())])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        name_or_path=f"stand-in for {family}",
        chat_template=TEMPLATES[family] if template is None else template,
        **_NAMED[family],
    )


def _bytes(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _pieces(texts: list[str], family: str) -> Tokenizer:
    """Words with `▁` for the space before them, and 256 bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE())
    if family == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    data = json.loads(tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    data["model"] |= {"byte_fallback": True, "fuse_unk": True}
    tokenizer = Tokenizer.from_str(json.dumps(data))
    strip = [decoders.Strip(" ", 1, 0)] if family == "mistral" else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def agent_context(
    dialect: str, *, feedback: bool = False, max_queries: int = 1, system: str | None = None
) -> AgentContext:
    """An environment's setting without its corpus, which chats do not read."""
    spoken = get_dialect(dialect)
    given = spoken.system_prompt(feedback=feedback, max_queries=max_queries) if system is None else system
    corpus: Any = None
    return AgentContext(spoken, given, corpus, 8, int(feedback), max_queries)


@functools.cache
def family_format(family: str, dialect: str = "tags", thinking: bool = False) -> ChatFormat:
    """The chat format of a family in one dialect."""
    return ChatFormat(family_tokenizer(family), agent_context(dialect), thinking=thinking)
