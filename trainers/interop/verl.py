"""verl's agent loop `searchgym` on a search environment (dialect tags); `verl_rows` has the rows of its data set.

An episode that the infrastructure ended is dropped: see `failed`. Tested versions: `peers.PEERS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from searchgym import EpisodeSession, SearchEnv
from searchgym.errors import RetrievalError
from searchgym.records.episode import StopReason

from .peers import check_peer
from .verl_turns import turn_end

check_peer("verl")

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register  # noqa: E402

__all__ = ["SearchAgentLoop", "failed"]


def failed(trainer_config: Any, output: AgentLoopOutput) -> AgentLoopOutput:
    """What a loop makes of an episode that the infrastructure ended, which has no reward.

    Args:
        trainer_config: verl's whole configuration.
        output: of the rollout.

    Returns:
        For the older trainer (`trainer.use_v1=False`), whose iteration an exception ends: the rollout with score 0 and a mask
        of zeros. Nothing is trained on; the group's mean contains the 0.

    Raises:
        RetrievalError: verl's trainer leaves the rollout out of its group, and trains on the others.
    """
    if trainer_config.get("trainer", {}).get("use_v1", False):
        raise RetrievalError("the infrastructure ended the episode: verl drops the rollout")
    output.reward_score, output.response_mask = 0.0, [0] * len(output.response_mask)
    return output


@register("searchgym")
class SearchAgentLoop(AgentLoopBase):  # type: ignore[misc]  # the package need not be installed
    """Plays one episode per row; ends when the episode ends, or when the response is full (`StopReason.TOKEN_BUDGET`).

    Args:
        *given: what verl passes.
        arguments: of the environment, below those of a row.
        **named: what verl passes.
    """

    def __init__(self, *given: Any, arguments: Mapping[str, Any] | None = None, **named: Any) -> None:
        super().__init__(*given, **named)
        self._arguments = dict(arguments or {})

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        extra = row["extra_info"]
        arguments = self._arguments | json.loads(extra.get("arguments", "{}"))
        session = EpisodeSession(SearchEnv(**arguments))
        question = session.reset(extra["task_id"])
        env, length = session.env, self.rollout_config.response_length
        messages = [
            {"role": "system", "content": env.system_prompt},
            {"role": "user", "content": question},
        ]
        sampling = {
            **sampling_params,
            "stop": list(env.dialect.stop_strings),
            "include_stop_str_in_output": True,
        }
        ids, request = await self.ct_build_initial_tokens(messages), uuid4().hex
        end = turn_end(self.tokenizer, messages)
        prompt_length, mask = len(ids), list[int]()
        logprobs: list[float] = []
        versions: dict[str, Any] = {}  # of the weights that sampled the rollout; verl's trainer needs them
        while not session.over:
            out = await self.server_manager.generate(
                request_id=request, prompt_ids=ids, sampling_params=sampling
            )
            last = {"max_global_steps": out.extra_fields.get("max_global_steps")}
            versions = out.extra_fields | versions | last
            kept = logprobs if out.log_probs else None
            merged, mask, given = await self.ct_merge_assistant_token(
                ids, out.token_ids, mask, kept, assistant_logprobs=out.log_probs
            )
            ids, logprobs = merged.token_ids, given or []
            if len(mask) >= length:
                session.finish(StopReason.TOKEN_BUDGET)
                break
            text = self.tokenizer.decode(out.token_ids, skip_special_tokens=True)
            observation = await self.loop.run_in_executor(None, session.step, text)
            if not session.over:
                missing = end if list(out.token_ids[-1:]) != end else []
                ids, mask = [*ids, *missing], [*mask, *(0 for _ in missing)]
                logprobs += [0.0] * len(missing) if logprobs else []
                before = [*messages, {"role": "assistant", "content": text}]
                messages = [*before, {"role": "user", "content": observation}]
                merged, mask, given = await self.ct_merge_context_msg(
                    before, messages, ids, mask, logprobs or None
                )
                ids, logprobs = merged.token_ids, given or []
        score = session.finish()
        told = {"reward_extra_info": session.metrics(), "turn_scores": [], "tool_rewards": []}
        output = AgentLoopOutput(
            prompt_ids=ids[:prompt_length],
            response_ids=ids[prompt_length:][:length],
            response_mask=mask[:length],
            response_logprobs=logprobs[:length] if logprobs else None,
            reward_score=score,
            num_turns=2 * int(session.metrics()["rounds"]) + 1,
            metrics={"generate_sequences": 0.0, "tool_calls": 0.0},
            extra_fields=versions | told,
        )
        return output if score is not None else failed(self.config, output)
