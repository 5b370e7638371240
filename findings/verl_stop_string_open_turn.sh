#!/usr/bin/env bash
# An agent loop for verl that samples with a stop string, as search agents with tags do (`stop=["</search>"]`), trains on a
# conversation whose assistant messages do not end: verl's token builder appends what comes after a message, never its end.
#
# Versions: verl 0.9.1, transformers as verl resolves it, Python 3.11.
# Behaviour: ContinuousTokenBuilder.merge_context_tokens renders only the appended messages. The builder of the Qwen family adds the
#   newline behind `<|im_end|>` if the model sampled `<|im_end|>`, and nothing if a stop string ended the message before it; the
#   chat template puts both. No error and no warning. The rollout, its log-probabilities and the update agree with each other, so no
#   metric of verl shows it; it shows when the weights are served through the chat template, where the model reads other tokens than
#   in training. A loop with a stop string has to append the end of the turn itself, outside the loss.
# Seen 2026-11-30:
#   sampled to the end: … </search><|im_end|>\n<|im_start|>user …   equal to the template: True
#   stopped at the tag: … </search><|im_start|>user …               equal to the template: False
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "verl[verl-core]==0.9.1"
cat > "$work/probe.py" <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.utils.tokenizer.continuous_token import QwenContinuousTokenBuilder

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
bytes_only = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_only.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bytes_only, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
)
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
question = [{"role": "user", "content": "Which river is longer?"}]
said = "<search> rivers </search>"
before = [*question, {"role": "assistant", "content": said}]
after = [*before, {"role": "user", "content": "<information> A is longer. </information>"}]
template = tokenizer.apply_chat_template(after, tokenize=False, add_generation_prompt=True)
builder = QwenContinuousTokenBuilder(tokenizer)

equal = []
for name, sampled in {"sampled to the end": said + "<|im_end|>", "stopped at the tag": said}.items():
    ids = builder.build_initial_tokens(question)
    ids = builder.merge_assistant_tokens(ids, tokenizer.encode(sampled, add_special_tokens=False)).token_ids
    text = tokenizer.decode(builder.merge_context_tokens(before, after, ids).token_ids)
    equal.append(text == template)
    shown = text[text.index("</search>") : text.index("<information>")]
    print(f"{name}: {shown!r}, equal to the template: {equal[-1]}")
assert equal == [True, False], equal
PY
"$work/venv/bin/python" "$work/probe.py"
