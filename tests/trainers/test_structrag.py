"""StructRAG: the five forms, the router that chooses one, and DPO on which form lets the agent answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import small_world

import searchgym
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.passages import ShownPassage, read_passages
from searchgym.agents.policy import Sample
from searchgym.agents.structure.agent import open_structured
from searchgym.agents.structure.renderings import RENDERINGS, facts_of
from searchgym.errors import CheckpointError, ConfigError, UnknownIdError
from searchgym.trainers.algorithms.preferences.structrag import StructRAG, pair_credit
from searchgym.trainers.conformance import TabularPolicy, synthetic_groups

pytestmark = pytest.mark.usefixtures("no_curve")
WORLD = small_world()
TERSE = ShownPassage("Mira Voss", "Mira Voss is painter ; mentor Jan Kerberg ; films Aln , Bor ; born 1893")
NATURAL = ShownPassage("Bern", "Bern lies on the Aare. It was founded in 1191 by Berthold V.")


def test_the_five_forms_by_hand() -> None:
    both = [TERSE, NATURAL]
    assert RENDERINGS["chunk"](both) == [tuple(TERSE), tuple(NATURAL)]
    assert RENDERINGS["table"](both)[1] == (
        "Bern",
        "Bern lies on the Aare. | It was founded in 1191 by Berthold V.",
    )
    assert RENDERINGS["graph"]([TERSE])[0][1].splitlines() == [
        "Mira Voss -- mentor -> Jan Kerberg",
        "Mira Voss -- films -> Aln",
        "Mira Voss -- films -> Bor",
        "Mira Voss -- born -> 1893",
    ]
    assert RENDERINGS["graph"]([NATURAL])[0][1].splitlines() == [
        "Bern -- lies -> Aare",
        "Bern -- founded -> 1191",
        "Bern -- founded -> Berthold V",
    ]
    assert RENDERINGS["algorithm"]([NATURAL])[0][1].startswith(
        "Step 1: Bern lies on the Aare.\nStep 2: It was"
    )
    assert RENDERINGS["catalogue"](both) == [
        (
            "Catalogue",
            "Mira Voss: Mira Voss is painter ; mentor Jan Kerberg …\nBern: Bern lies on the Aare. It was founded …",
        )
    ]
    assert all(form([]) == [] for form in RENDERINGS.values())
    assert facts_of("Dr. A. Bor died. She was 80.") == ["Dr.", "A. Bor died.", "She was 80."]


@pytest.mark.parametrize("name", list(RENDERINGS))
def test_the_agent_reads_the_form_and_the_record_keeps_the_passages(name: str) -> None:
    seen: list[str] = []

    def spy(observation: str, info: dict[str, Any]) -> str:
        seen.append(observation)
        return "<search> river </search>" if len(seen) == 1 else "<answer> x </answer>"

    (episode,) = searchgym.rollout("SearchQA-v0", open_structured(spy, name), 1, corpus=WORLD)
    shown, recorded = read_passages(seen[1]), read_passages(episode.rounds[0].observation)
    assert [tuple(p) for p in shown] == [(t, x) for t, x in RENDERINGS[name](recorded)]
    assert (seen[1] == episode.rounds[0].observation) is (name == "chunk")
    assert seen[0] == episode.question
    assert [s for s in episode.segments if s.tokens] == []  # nothing was chosen


def test_the_choice_is_the_one_token_of_an_episode() -> None:
    agent = open_structured("copy", seed=3)
    played = searchgym.rollout("SearchQA-v0", agent, 40, corpus=WORLD)
    assert {sum(s.mask) for e in played for s in e.segments} == {1}
    assert {e.segments[0].tokens[0] for e in played} == set(range(5))
    outputs = agent.evaluate_tokens([Sample(e, e.segments[0]) for e in played])
    assert outputs.logprobs_N.tolist() == pytest.approx([e.segments[0].logprobs[0] for e in played])
    assert outputs.logprobs_N.tolist() == pytest.approx([np.log(0.2)] * 40)
    assert outputs.entropy_N.tolist() == pytest.approx([np.log(5)] * 40)


def group_of(forms: list[int], logprobs: list[float]) -> list[Any]:
    (group,) = synthetic_groups(TabularPolicy(), groups=1, group_size=len(forms))
    for episode, form, logprob in zip(group, forms, logprobs, strict=True):
        segment = episode.segments[0]
        first = segment.mask.index(1)
        segment.tokens[first], segment.logprobs[first] = form, logprob
    return group


def test_credit_by_hand() -> None:
    """Equal probabilities: h = 0 and σ = 1/2. One winner, two losers of other forms: P = 2, a = β/2 · (1, −1/2, −1/2)."""
    group = group_of([0, 1, 2], [-1.0, -1.0, -1.0])
    a_G, pairs = pair_credit(group, np.array([1.0, 0.0, 0.0]), 0.1)
    assert pairs == 2
    assert a_G.tolist() == pytest.approx([0.05, -0.025, -0.025])
    # The winner is likelier by a factor e already: σ(−β) with β = 1.
    a_G, _ = pair_credit(group_of([0, 1], [-1.0, -2.0]), np.array([1.0, 0.0]), 1.0)
    assert a_G.tolist() == pytest.approx([1 / (1 + np.e), -1 / (1 + np.e)])


def test_episodes_of_one_form_or_of_equal_reward_are_no_pair() -> None:
    assert pair_credit(group_of([1, 1], [-1.0, -1.0]), np.array([1.0, 0.0]), 0.1)[1] == 0
    a_G, pairs = pair_credit(group_of([0, 1], [-1.0, -1.0]), np.array([1.0, 1.0]), 0.1)
    assert (a_G.tolist(), pairs) == ([0.0, 0.0], 0)


def test_credit_is_the_gradient_of_dpo() -> None:
    """−Σ a_i ∇ log π(f_i) against the gradient of −1/P Σ log σ(h), by automatic differentiation."""
    import torch

    logits = torch.tensor([0.3, -0.2, 0.5, 0.0, 0.1], requires_grad=True)
    forms, rewards, beta = [0, 1, 2, 1], np.array([1.0, 0.0, 0.5, 1.0]), 0.7
    logprobs = torch.log_softmax(logits, 0)
    a_G, pairs = pair_credit(group_of(forms, logprobs.detach()[forms].tolist()), rewards, beta)
    ours = torch.autograd.grad(-(torch.tensor(a_G) * logprobs[forms]).sum(), logits, retain_graph=True)[0]
    terms = [
        -torch.nn.functional.logsigmoid(beta * (logprobs[forms[i]] - logprobs[forms[j]]))
        for i in range(4)
        for j in range(4)
        if rewards[i] > rewards[j] and forms[i] != forms[j]
    ]
    wanted = torch.autograd.grad(torch.stack(terms).mean(), logits)[0]
    assert len(terms) == pairs
    torch.testing.assert_close(ours.float(), wanted, atol=1e-6, rtol=1e-5)


def test_the_router_learns_which_form_hides_the_answer(tmp_path: Path) -> None:
    """An agent that answers from the newest text: a catalogue cuts it off."""
    result = searchgym.train(
        trainer="structrag",
        agent="structured",
        agent_options={"agent": "copy"},
        env="SearchQA-v0",
        env_options={"corpus": WORLD, "types": ["chain"], "hops": [1]},
        settings={"group_size": 8},
        iterations=10,
        questions=8,
        lr=0.2,
        eval_episodes=0,
        run_dir=tmp_path / "run",
    )
    questions = [q.text for q in result.trainer.envs.config.tasks("train")]
    shares = result.policy._logprobs(questions).exp().mean(dim=0).tolist()
    assert shares[list(RENDERINGS).index("catalogue")] < 0.1
    again = open_structured("copy")
    again.load_weights(result.run_dir / "checkpoints" / "step-000010" / "policy")
    assert again._logprobs(questions).equal(result.policy._logprobs(questions))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use --agent structured"):
        StructRAG().check_policy(CandidateAgent())
    with pytest.raises(ConfigError, match="nothing to choose"):
        StructRAG().check_policy(open_structured("copy", "table"))
    with pytest.raises(UnknownIdError, match="table"):
        open_structured("copy", "tabel")
    with pytest.raises(CheckpointError, match="weights of a router"):
        open_structured("copy").load_weights(tmp_path)
