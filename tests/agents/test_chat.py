"""Chat formats: properties over four families of templates, each family's traps, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from chat_families import CONTROL, FAMILIES, GEMMA, QWEN, agent_context, family_format, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from searchgym.agents.hf.chat import ChatFormat
from searchgym.dialects import Act, ToolsDialect, get_dialect
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Outcome, Round, Segment, StopReason

FORMATS = [(family, dialect) for family in FAMILIES for dialect in ("tags", "tools")]
CLOSINGS = ("</search>", "</answer>", "</feedback>", "</tool_call>")
OPENINGS = ("<search>", "<answer>", "<tool_call>", '<tool_call>{"a": "')
NASTY = [
    "",
    "\n",
    "\n\n\n",
    " ",
    "  x",
    "é",
    "😀",
    "▁",
    "<0x0A>",
    "</s",
    ">",
    "</sea",
    "rch>",
    "<think>",
    "</think>",
]
FRAGMENTS = [
    *NASTY,
    *CLOSINGS,
    *(token for family in FAMILIES for token in CONTROL[family]),
    "[/INST] no [INST]",
]
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join),
    st.lists(st.sampled_from(["Who", " wrote", " Tarn", "?", "\n", ", "]), max_size=8).map("".join),
).filter(lambda text: text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text))
QUICK = settings(max_examples=40, deadline=None)


def control(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The ids among these that are control tokens or marks of the family."""
    return [i for i in ids if i in tokenizer.added_tokens_decoder and tokenizer.decode([i]).strip()]


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids in the middle of a conversation: SentencePiece decoders strip the first space of a text."""
    return str(tokenizer.decode([tokenizer.eos_token_id, *ids])).removeprefix(tokenizer.eos_token)


def play(chat: ChatFormat, question: str, rounds: Sequence[tuple[Sequence[int], str]]) -> list[int]:
    """The context after some rounds, each an act's sampled ids and what was observed."""
    ids = chat.opening(question)
    for act, observation in rounds:
        ids = [*ids, *act, *chat.reply(observation, bool(act) and act[-1] in chat.end_ids)]
    return ids


# -- properties over all families ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "dialect"), FORMATS)
@QUICK
@given(st.data())
def test_a_conversation_has_the_templates_control_tokens_and_no_others(
    family: str, dialect: str, data: st.DataObject
) -> None:
    """Whatever question and observations say, in any number of rounds, ended by the model or cut at the act."""
    chat, tokenizer = family_format(family, dialect), family_tokenizer(family)
    question = data.draw(TEXTS)
    observations = data.draw(st.lists(TEXTS, max_size=4))
    ended = data.draw(st.booleans())
    act = [*chat.plain("<search> x </search>"), *([min(chat.end_ids)] if ended else [])]
    ids = play(chat, question, [(act, observation) for observation in observations])
    harmless = play(chat, "Who?", [(act, "Nobody.")] * len(observations))
    assert control(tokenizer, ids) == control(tokenizer, harmless)
    for rounds in range(len(observations)):  # and every shorter conversation is its beginning
        shorter = play(chat, question, [(act, observation) for observation in observations[:rounds]])
        assert ids[: len(shorter)] == shorter


@pytest.mark.parametrize("family", FAMILIES)
@QUICK
@given(text=TEXTS)
def test_a_texts_ids_hold_no_control_token_and_give_it_back(family: str, text: str) -> None:
    chat, tokenizer = family_format(family), family_tokenizer(family)
    ids = chat.plain(text)
    assert control(tokenizer, ids) == []
    if family in ("mistral", "gemma"):  # their decoders write a space for the character that stands for one
        text = text.replace("▁", " ")
    assert decoded(tokenizer, ids) == text


@pytest.mark.parametrize(
    ("family", "dialect"), [("qwen", "tags"), ("qwen", "tools"), ("mistral", "tags"), ("gemma", "tools")]
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_act_closes_where_decoding_it_whole_first_shows_a_complete_one(
    family: str, dialect: str, data: st.DataObject
) -> None:
    """Token by token, over texts cut into tokens at random, single bytes, control tokens and ids of no token."""
    chat, tokenizer = family_format(family, dialect), family_tokenizer(family)
    stray = st.integers(0, len(tokenizer) + 3).map(lambda i: [i])
    pieces = st.one_of(
        stray,
        st.sampled_from([*OPENINGS, *CLOSINGS, *NASTY]).flatmap(lambda text: cuts(tokenizer, text)),
        TEXTS.map(chat.plain),
    )
    ids = [i for piece in data.draw(st.lists(pieces, max_size=8)) for i in piece]
    for length in range(len(ids) + 1):
        text = tokenizer.decode(ids[:length], skip_special_tokens=False)
        scanner = get_dialect(dialect).scanner()
        slow = scanner.feed(text) or scanner.stray
        assert chat.closes(ids[:length]) == slow, text
        if slow:
            return


def cuts(tokenizer: Any, text: str) -> st.SearchStrategy[list[int]]:
    """A text as tokens of parts of it, cut anywhere: what a model may sample though no tokenizer writes it."""
    return st.sets(st.integers(0, max(len(text), 1))).map(
        lambda at: [
            i
            for start, end in zip([0, *sorted(at)], [*sorted(at), len(text)], strict=True)
            for i in tokenizer.encode(text[start:end], add_special_tokens=False)
        ]
    )


@pytest.mark.parametrize(("family", "dialect"), FORMATS)
def test_harmless_conversations_get_the_ids_of_the_template(family: str, dialect: str) -> None:
    """Against the usual way, where it drops nothing: rendering the whole, then tokenising the text."""
    chat, tokenizer = family_format(family, dialect, True), family_tokenizer(family)
    given, tools = agent_context(dialect), None
    act, observation = "I know it.\n<answer> Tarn </answer>", "You are mistaken."
    if chat.native_tools:
        spoken = get_dialect("tools")
        assert isinstance(spoken, ToolsDialect)
        tools = spoken.tools(feedback=False, max_queries=1)
        system = given.system_prompt.partition("\n\n# Tools")[0]
    else:
        system = given.system_prompt
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Who is it?"}]
    if family in ("mistral", "gemma"):
        messages = [{"role": "user", "content": f"{system}\n\nWho is it?"}]
    observer = "tool" if chat.native_tools else "user"
    for _ in range(3):
        messages += [{"role": "assistant", "content": act}, {"role": observer, "content": observation}]
    usual = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    usual = re.sub(r"Today Date: .*", "Today Date: 26 Jul 2024", usual)
    usual = usual.replace("[/INST] I", "[/INST]I")  # a space which the generation prompt has not
    ids = play(chat, "Who is it?", [(chat.plain(act), observation)] * 3)
    assert ids == tokenizer.encode(usual, add_special_tokens=False)


# -- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "dialect"), FORMATS)
def test_a_message_that_the_model_ended_is_not_ended_again(family: str, dialect: str) -> None:
    chat, tokenizer = family_format(family, dialect), family_tokenizer(family)
    end = {"qwen": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}[family]
    id = tokenizer.convert_tokens_to_ids(end)
    assert id in chat.end_ids
    assert [id, *chat.reply("So.", True)] == chat.reply("So.", False)
    act = chat.plain("<search> x </search>")
    assert chat.text([*act, id]) == chat.text(act) == "<search> x </search>"


def test_the_ends_are_those_of_tokenizer_template_and_generation_config() -> None:
    tokenizer = family_tokenizer("llama")
    names = ("<|end_of_text|>", "<|eom_id|>")
    given = SimpleNamespace(eos_token_id=[tokenizer.convert_tokens_to_ids(name) for name in names])
    chat = ChatFormat(tokenizer, agent_context("tags"), generation_config=given)
    assert {tokenizer.decode([i]) for i in chat.end_ids} == {*names, "<|eot_id|>"}
    assert ChatFormat(
        tokenizer, agent_context("tags"), generation_config=SimpleNamespace(eos_token_id=None)
    ).end_ids
    assert tokenizer.pad_token is None


def test_where_the_next_message_ends_one_its_header_is_not_written_twice() -> None:
    """GLM's templates: no end of a message; the model samples the header of the next speaker."""
    template = (
        "{% for m in messages %}{{ ('[INST]' if m.role != 'assistant' else '[/INST]') + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[/INST]{% endif %}"
    )
    tokenizer = family_tokenizer("mistral", template)
    header = tokenizer.convert_tokens_to_ids("[INST]")
    chat = ChatFormat(
        tokenizer, agent_context("tags"), generation_config=SimpleNamespace(eos_token_id=[header])
    )
    assert [header, *chat.reply("So.", True)] == chat.reply("So.", False)


# -- acts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "dialect"), [f for f in FORMATS if f != ("llama", "tools")])
def test_a_recorded_message_becomes_an_act_as_the_model_would_sample_it(family: str, dialect: str) -> None:
    chat, tokenizer = family_format(family, dialect), family_tokenizer(family)
    message = get_dialect(dialect).write(Act("search", ("Who wrote Tarn?",)), "No idea.")
    ids = chat.act(message + " and more")
    assert chat.closes(ids)
    assert not any(chat.closes(ids[:n]) for n in range(len(ids)))
    assert chat.text(ids) == message
    assert chat.act("I give up.")[-1] in chat.end_ids
    assert chat.text(chat.act("I give up.")) == "I give up."
    if family == "qwen":
        assert "<think>" in tokenizer.convert_ids_to_tokens(ids)
        assert "<|im_end|>" not in tokenizer.convert_ids_to_tokens(chat.act("<|im_end|>!")[:-1])


def test_a_thought_that_the_template_opens_belongs_to_the_message() -> None:
    """DeepSeek-R1's and Qwen3-Thinking's generation prompts end with `<think>`."""
    template = QWEN.replace(
        "'<|im_start|>assistant\\n' }}\n    {%- if enable",
        "'<|im_start|>assistant\\n<think>\\n' }}\n    {%- if enable",
    )
    assert template != QWEN
    chat = ChatFormat(family_tokenizer("qwen", template), agent_context("tags"), thinking=True)
    message = "<think>\nTry <search> a </search>.</think> <search> b </search>"
    sampled = chat.plain(message.removeprefix("<think>\n"))
    assert chat.text(sampled) == message
    act = get_dialect("tags").parse(chat.text(sampled), feedback=False, max_queries=1)
    assert act == Act("search", ("b",))
    assert (
        chat.text(chat.act("<think>so</think> <answer> a </answer>"))
        == "<think>\nso</think> <answer> a </answer>"
    )
    assert chat.text(chat.act("<answer> a </answer>")) == "<think>\n</think>\n\n<answer> a </answer>"


# -- the families' traps ---------------------------------------------------------------------------------------


def shown(family: str, dialect: str = "tags", thinking: bool = False) -> tuple[str, str]:
    chat, tokenizer = family_format(family, dialect, thinking), family_tokenizer(family)
    observation = '<tool_response>\n"A"\nB\n</tool_response>' if dialect == "tools" else '"A"\nB'
    return tokenizer.decode(chat.opening("Who?")), tokenizer.decode(chat.reply(observation, False))


def test_qwen_thinks_or_writes_an_empty_thought_and_gets_no_default_system_text() -> None:
    system = agent_context("tags").system_prompt
    opening, reply = shown("qwen", thinking=True)
    assert (
        opening
        == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert reply == '<|im_end|>\n<|im_start|>user\n"A"\nB<|im_end|>\n<|im_start|>assistant\n'
    without, reply = shown("qwen", thinking=False)
    assert without == opening + "<think>\n\n</think>\n\n"
    assert reply.endswith("assistant\n<think>\n\n</think>\n\n")
    silent = ChatFormat(family_tokenizer("qwen"), agent_context("tags", system=""))
    assert "helpful assistant" not in family_tokenizer("qwen").decode(silent.opening("Who?"))


def test_llama_is_given_the_same_date_every_day() -> None:
    opening, reply = shown("llama")
    assert opening.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
    )
    assert reply.startswith('<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"A"\nB<|eot_id|>')


@pytest.mark.parametrize("family", ["mistral", "gemma"])
def test_the_system_text_opens_the_question_where_a_template_has_no_place_for_it(family: str) -> None:
    system = agent_context("tags").system_prompt
    opening, reply = shown(family)
    before, after = {
        "mistral": ("<s>[INST] ", "[/INST]"),
        "gemma": ("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    }[family]
    assert opening == f"{before}{system}\n\nWho?{after}"
    assert system not in reply
    silent = ChatFormat(family_tokenizer(family), agent_context("tags", system=""))
    assert family_tokenizer(family).decode(silent.opening("Who?")) == f"{before}Who?{after}"


def test_a_space_before_a_message_is_part_of_its_first_token() -> None:
    """`[INST] Who` is `[INST]`, `▁Who`: neither `▁`, `Who` nor `▁`, `▁Who`."""
    chat, tokenizer = (
        ChatFormat(family_tokenizer("mistral"), agent_context("tags", system="")),
        family_tokenizer("mistral"),
    )
    assert tokenizer.convert_ids_to_tokens(chat.opening("search"))[:3] == ["<s>", "[INST]", "▁search"]
    assert tokenizer.encode("<s>[INST] search", add_special_tokens=False) == chat.opening("search")[:3]


@pytest.mark.parametrize("legacy", [False, True])
def test_no_part_gets_a_space_from_the_tokenizer(legacy: bool) -> None:
    """Llama 2's older files put it there by a normaliser, later ones by the pre-tokenizer."""
    tokenizer = family_tokenizer("mistral")
    if legacy:
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        steps = [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]
        data |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
        backend = Tokenizer.from_str(json.dumps(data))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template=GEMMA)
    chat = ChatFormat(tokenizer, agent_context("tags"))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("search", add_special_tokens=False)) == [
        "▁search"
    ]
    assert "▁" not in "".join(tokenizer.convert_ids_to_tokens(chat.plain("search")))
    assert tokenizer.convert_ids_to_tokens(chat.plain("a search"))[-1] == "▁search"


def test_a_tokenizer_may_have_a_template_of_its_own_for_tools() -> None:
    tokenizer = copy.copy(family_tokenizer("qwen"))
    tokenizer.chat_template = {"default": QWEN.replace("You are a", "No"), "tool_use": QWEN}
    assert not ChatFormat(tokenizer, agent_context("tags")).native_tools
    assert ChatFormat(tokenizer, agent_context("tools")).native_tools
    tokenizer.chat_template = {"tool_use": QWEN}
    with pytest.raises(ConfigError, match="refuses messages of user"):
        ChatFormat(tokenizer, agent_context("tags"))


# -- tools -----------------------------------------------------------------------------------------------------


def test_qwens_own_tool_template_lists_the_tools_once_and_wraps_observations_once() -> None:
    opening, reply = shown("qwen", "tools")
    assert family_format("qwen", "tools").native_tools
    for tool in get_dialect("tools").tools(feedback=False, max_queries=1):  # type: ignore[attr-defined]
        assert opening.count(tool["function"]["description"]) == 1
    assert opening.count("# Tools") == 1
    assert "exactly one action and stop" in opening  # the rest of the dialect's prompt stays
    assert '<|im_start|>user\n<tool_response>\n"A"\nB\n</tool_response><|im_end|>' in reply


def test_the_tools_are_those_of_the_setting() -> None:
    tokenizer = family_tokenizer("qwen")
    given = agent_context("tools", feedback=True, max_queries=3)
    opening = tokenizer.decode(ChatFormat(tokenizer, given).opening("Who?"))
    assert opening.count('"maxItems": 3') == 1
    assert opening.count('"name": "feedback"') == 1


def test_llamas_bare_calls_are_translated_and_results_are_json_strings() -> None:
    opening, reply = shown("llama", "tools")
    chat = family_format("llama", "tools")
    assert chat.native_tools
    assert opening.count("Search the collection of texts") == 1
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n"\\"A\\"\\nB"<|eot_id|>' in reply
    call = {"name": "search", "parameters": {"query": 'Who wrote "</tool_call>"?'}}
    text = chat.text(chat.plain("Well: " + json.dumps(call)))
    assert text.startswith("Well: <tool_call>\n")
    read = get_dialect("tools").parse(text, feedback=False, max_queries=1)
    assert read == Act("search", ('Who wrote "</tool_call>"?',))
    twice = chat.text(chat.plain(json.dumps(call) + "; " + json.dumps(call)))
    assert get_dialect("tools").parse(twice, feedback=False, max_queries=1).error == "several_acts"
    for other in ('{"name": "search"', '{"name": "search", "arguments": {}}', "no call", '{"name"{"name"'):
        assert chat.text(chat.plain(other)) == other
    with pytest.raises(ConfigError, match="cannot learn from recorded texts in the tools dialect"):
        chat.act("<tool_call>{}</tool_call>")


def test_calls_in_marks_are_translated() -> None:
    """Qwen3-Coder's and Qwen3.5's."""
    own = "{{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}"
    assert own in QWEN
    marked = (
        "{{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}"
        "{%- for k, v in call.function.arguments.items() %}{{ '<parameter=' + k + '>\\n' + v + '\\n</parameter>\\n' }}"
        "{%- endfor %}{{ '</function>\\n</tool_call>' }}"
    )
    given = agent_context("tools", max_queries=2)
    chat = ChatFormat(family_tokenizer("qwen", QWEN.replace(own, marked)), given)
    assert chat.native_tools

    def read(call: str) -> Act:
        text = chat.text(chat.plain(f"<tool_call>\n{call}\n</tool_call>"))
        return given.dialect.parse(text, feedback=False, max_queries=2)

    one = "<function=search>\n<parameter=query>\nA <b>\nc\n</parameter>\n</function>"
    assert read(one) == Act("search", ("A <b>\nc",))
    assert read('<function=search><parameter=query>["a", "b"]</parameter></function>') == Act(
        "search", ("a", "b")
    )
    assert read("<function=answer><parameter=answer>1</parameter></function>") == Act("answer", answer="1")
    assert read("<function=search></function>").error == "malformed_call"
    assert read("<function=search><parameter=query>a").error == "malformed_call"


@pytest.mark.parametrize(
    ("family", "reason"),
    [("mistral", "call ids have 9 characters"), ("gemma", "does not list tools")],
)
def test_where_a_templates_tools_cannot_be_used_the_dialects_prompt_lists_them(
    family: str, reason: str
) -> None:
    chat = family_format(family, "tools")
    opening, reply = shown(family, "tools")
    assert not chat.native_tools
    assert reason in chat.why_not_native
    assert opening.count("Search the collection of texts") == 1
    assert "<tool_response>" in reply
    assert family_format(family, "tags").why_not_native == ""


def test_a_tool_message_that_the_template_rewrites_is_not_used() -> None:
    template = QWEN.replace("<tool_response>\\n' + m.content", "<tool_response>\\n' + m.content | upper")
    chat = ChatFormat(family_tokenizer("qwen", template), agent_context("tools"))
    assert (
        not chat.native_tools and "once and in order" in chat.why_not_native
    ) or "changes the text" in chat.why_not_native
    template = QWEN.replace("call.function | tojson", "call.function.name")
    chat = ChatFormat(family_tokenizer("qwen", template), agent_context("tools"))
    assert "which the tools dialect cannot read" in chat.why_not_native


# -- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "template", "message"),
    [
        ("qwen", "", "has no chat template"),
        (
            "qwen",
            QWEN + "{{ messages[0].content + messages[-1].content }}",
            "does not show the user message once and in order",
        ),
        (
            "qwen",
            QWEN.replace("{{- m.content.split('</think>')[-1].lstrip('\\n') }}", ""),
            "the assistant message once",
        ),
        ("gemma", GEMMA + "{{ messages | length }}", "writes earlier messages differently"),
        (
            "qwen",
            QWEN.replace(
                "{%- if loop.index0 > last.question",
                "{{ '<|im_start|>final' }}{%- if loop.index0 > last.question",
            ),
            "control tokens between the start of a reply and its text",
        ),
        (
            "gemma",
            "{{ messages[0].content.oops() }}",
            "refuses messages of user: 'str object' has no attribute",
        ),
        ("gemma", "{% if %}", "refuses messages of user: Expected an expression"),
    ],
    ids=["none", "twice", "never", "grows", "parts", "fails", "broken"],
)
def test_templates_that_cannot_be_handled_are_refused_with_the_reason(
    family: str, template: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ChatFormat(family_tokenizer(family, template), agent_context("tags"))


def test_a_model_without_any_end_of_a_message_is_refused() -> None:
    tokenizer = family_tokenizer(
        "mistral", "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    )
    tokenizer = copy.copy(tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="has no token that ends a message"):
        ChatFormat(tokenizer, agent_context("tags"))


# -- drift -----------------------------------------------------------------------------------------------------


def episode(
    chat: ChatFormat, question: str, acts: Sequence[Sequence[int]], observations: Sequence[str]
) -> Episode:
    segment = Segment()
    prompt, ended = chat.opening(question), False
    for number, act in enumerate(acts):
        if number:
            prompt = chat.reply(observations[number - 1], ended)
        segment.tokens += [*prompt, *act]
        segment.mask += [0] * len(prompt) + [1] * len(act)
        segment.rounds += [number] * (len(prompt) + len(act))
        ended = act[-1] in chat.end_ids
    rounds = [
        Round(chat.text(act), Act("search", ("x",)), [], observation, uid=f"u{n}")
        for n, (act, observation) in enumerate(zip(acts, [*observations, ""], strict=True))
    ]
    outcome = Outcome("x", 0, 0, 0, 0, len(rounds), len(observations), False, StopReason.ANSWERED)
    return Episode(
        "e",
        "g",
        "e",
        None,
        None,
        "hf",
        {},
        "t",
        "train",
        question,
        {},
        rounds,
        outcome,
        True,
        False,
        True,
        [segment],
    )


ACTS = ["<search> Tarn </search>", "<search> Mira </search>", "<answer> Tarn </answer>"]
HITS = ["<information>\n[1] Tarn\nA lake.\n</information>", "Nothing."]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_an_episode_that_rendering_anew_gives_back_does_not_drift(family: str) -> None:
    chat = family_format(family)
    drift = chat.drift(episode(chat, "Who?", [chat.plain(act) for act in ACTS], HITS))
    assert (drift.changed, drift.first, drift.causes, drift.share) == (0, None, (), 0.0)
    end = chat.act("I give up.")[-1]
    ended = [[*chat.plain(act), end] for act in ACTS]
    assert chat.drift(episode(chat, "Who?", ended, HITS)) == drift


def test_drift_counts_tokens_that_are_cut_otherwise() -> None:
    chat, tokenizer = family_format("llama"), family_tokenizer("llama")
    acts = [chat.plain(act) for act in ACTS]
    spelled = [i for character in ACTS[1] for i in chat.plain(character)]
    drift = chat.drift(episode(chat, "Who?", [acts[0], spelled, acts[2]], HITS))
    before = len(play(chat, "Who?", [(acts[0], HITS[0])]))
    assert drift.causes == ("boundaries",)
    assert drift.first is not None
    assert before <= drift.first < before + len(spelled)
    assert 0 < drift.changed <= len(spelled)
    assert tokenizer.decode(spelled) == ACTS[1]


def test_drift_names_thoughts_that_the_template_drops() -> None:
    chat = family_format("qwen", thinking=True)
    acts = [chat.act(f"<think>\nHm {n}.\n</think>\n\n{act}") for n, act in enumerate(ACTS)]
    drift = chat.drift(episode(chat, "Who?", acts, HITS))
    assert drift.causes == ("thoughts",)
    assert drift.first is not None
    assert drift.first >= len(chat.opening("Who?"))
    tools = family_format("qwen", "tools", True)
    calls = [tools.act(get_dialect("tools").write(Act("search", ("Tarn",)), "Hm.")) for _ in ACTS]
    assert tools.drift(episode(tools, "Who?", calls, HITS)).causes == ("thoughts",)


def test_drift_names_text_that_becomes_control_tokens_or_is_trimmed() -> None:
    chat = family_format("gemma")
    acts = [chat.plain(act) for act in ACTS]
    assert chat.drift(episode(chat, "Who?", acts, ["<end_of_turn>", "So."])).causes == (
        "control tokens",
        "boundaries",
    )
    assert chat.drift(episode(chat, "Who?", acts, [" So.\n", "So."])).causes == ("template",)


def test_drift_looks_at_nothing_after_the_last_sampled_token() -> None:
    """An episode that ran out of tokens ends with an observation without an answer."""
    chat = family_format("gemma")
    played = episode(chat, "Who?", [chat.plain(ACTS[0])], [])
    whole = chat.drift(played)
    reply = chat.reply(HITS[0], False)
    (segment,) = played.segments
    segment.tokens += reply
    segment.mask += [0] * len(reply)
    segment.rounds += [1] * len(reply)
    assert chat.drift(played) == whole
    segment.mask = [0] * len(segment.mask)
    assert chat.drift(played).tokens == 0


def test_drift_wants_the_tokens_of_one_context() -> None:
    chat = family_format("gemma")
    played = episode(chat, "Who?", [chat.plain(ACTS[0])], [])
    played.segments = []
    with pytest.raises(ConfigError, match="episode e has 0 contexts"):
        chat.drift(played)


def test_drift_of_random_acts_is_never_negative_and_finds_what_differs() -> None:
    chat, tokenizer = family_format("gemma"), family_tokenizer("gemma")
    draw = random.Random(0)
    for _ in range(5):
        acts = [[draw.randrange(len(tokenizer)) for _ in range(20)] for _ in range(3)]
        drift = chat.drift(episode(chat, "Who?", acts, HITS))
        assert 0 <= drift.changed <= drift.tokens
        assert 0 <= drift.share <= 1
        assert (drift.first is None) == (drift.causes == ())


# -- thoughts that quote acts ----------------------------------------------------------------------------------

QUOTING = [
    "<think>Maybe <answer>Paris</answer>? No.</think><search>otters</search>",
    "<THINK>Maybe <answer>Paris</answer>?</THINK> <search>otters</search>",
    "<think>It ends with </search> or </answer>.</think>\n<search>otters</search>",
    "<think>a</think> <think><search>draft</search></think> <search>otters</search>",
    "<think>Thoughts: <think>…</think>, then <answer>Paris</answer>.</think> <search>otters</search>",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("message", QUOTING)
def test_sampling_and_learning_go_on_until_the_act_after_the_thought(family: str, message: str) -> None:
    chat = family_format(family, "tags", True)
    ids = chat.act(message + " and more")
    assert chat.text(ids) == message
    assert [n for n in range(len(ids) + 1) if chat.closes(ids[:n])] == [len(ids)]
    assert get_dialect("tags").parse(chat.text(ids), feedback=False, max_queries=1) == Act(
        "search", ("otters",)
    )
    unfinished = chat.act(message.partition("</search>")[0] + "</think>")
    assert unfinished[-1] in chat.end_ids


@pytest.mark.parametrize(
    "value", ["what does </tool_call> mean", 'a "</tool_call>" b', "<think> </tool_call>"]
)
def test_a_call_goes_on_until_it_is_complete(value: str) -> None:
    chat = family_format("qwen", "tools", True)
    body = json.dumps({"name": "search", "arguments": {"query": value}}, ensure_ascii=False)
    message = f"<think>no <tool_call>{{}}</tool_call></think>\n<tool_call>\n{body}\n</tool_call>"
    ids = chat.act(message + " and more")
    assert chat.text(ids) == message
    assert get_dialect("tools").parse(chat.text(ids), feedback=False, max_queries=1) == Act(
        "search", (value,)
    )


@pytest.mark.parametrize(
    ("recorded", "learned"),
    [
        ("<think>so</think> <answer> a </answer>", "so</think> <answer> a </answer>"),
        ("<think>\nso</think> <answer> a </answer>", "so</think> <answer> a </answer>"),
        (" <THINK>so</THINK> <answer> a </answer>", "so</THINK> <answer> a </answer>"),
        (
            "so <answer>b</answer></think> <answer> a </answer>",
            "so <answer>b</answer></think> <answer> a </answer>",
        ),
        ("<answer> a </answer>", "</think>\n\n<answer> a </answer>"),
    ],
)
def test_a_recorded_thought_continues_the_one_that_the_template_opens(recorded: str, learned: str) -> None:
    template = QWEN.replace(
        "'<|im_start|>assistant\\n' }}\n    {%- if enable",
        "'<|im_start|>assistant\\n<think>\\n' }}\n    {%- if enable",
    )
    chat = ChatFormat(family_tokenizer("qwen", template), agent_context("tags"), thinking=True)
    assert chat.text(chat.act(recorded)) == "<think>\n" + learned
    closed = family_format("qwen", "tags", True)
    hidden = "so <answer>b</answer></think> <answer> a </answer>"
    assert closed.text(closed.act(hidden)) == "<think>" + hidden
    act = get_dialect("tags").parse(chat.text(chat.act(recorded)), feedback=False, max_queries=1)
    assert act == Act("answer", answer="a")


def test_translated_calls_keep_their_letters_and_their_thoughts() -> None:
    chat = family_format("llama", "tools")
    call = json.dumps({"name": "search", "parameters": {"query": "北京大学"}}, ensure_ascii=False)
    text = chat.text(chat.plain(f"<think>Maybe {call}?</think> {call}"))
    assert text.count("北京大学") == 2
    assert get_dialect("tools").parse(text, feedback=False, max_queries=1) == Act("search", ("北京大学",))
