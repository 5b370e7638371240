"""The files that verl reads: questions as the rows of a data set, and the configuration of the tools. Needs no verl."""

from __future__ import annotations

import json
from typing import Any

from searchgym import SearchEnv
from searchgym.env.tools import tool_instructions
from searchgym.errors import ConfigError

__all__ = ["rows", "tool_config"]


def rows(split: str, *, agent_name: str = "searchgym", **arguments: Any) -> list[dict[str, Any]]:
    """The rows of verl's data set for the questions of a split, to be written as Parquet.

    Args:
        split: name of the split.
        agent_name: "searchgym", or "searchgym_tools" for `verl_tools`.
        **arguments: of the environment, JSON values; they are part of the rows.

    Raises:
        ConfigError: an argument that cannot be used, or one that is not a JSON value.
    """
    env = SearchEnv(**{**arguments, "split": split})
    # verl gives the tools to the chat template: the system prompt must neither list them again nor ask for tags.
    system = env.system_prompt if agent_name == "searchgym" else tool_instructions(env.config)
    try:
        packed = json.dumps(arguments)
    except TypeError as error:
        raise ConfigError(f"an argument of the environment is not a JSON value: {error}") from error
    return [
        {
            "data_source": "searchgym",
            "agent_name": agent_name,
            "prompt": [
                {"role": "system", "content": system},
                {"role": "user", "content": question.text},
            ],
            "reward_model": {"style": "rule", "ground_truth": list(question.answers)},
            "extra_info": {
                "index": index,
                "task_id": question.id,
                "arguments": packed,
                "tools_kwargs": {"task_id": question.id, "arguments": packed},
                "need_tools_kwargs": agent_name != "searchgym",
            },
        }
        for index, question in enumerate(env.config.tasks(split))
    ]


def tool_config(**arguments: Any) -> dict[str, Any]:
    """The tools of `verl_tools`, to be written as JSON or YAML for `actor_rollout_ref.rollout.multi_turn.tool_config_path`.

    Args:
        **arguments: of the environment, JSON values, below those of a row.
    """
    config = {"type": "native", "arguments": arguments}
    schemas = SearchEnv(**{**arguments, "dialect": "tools"}).tool_schemas
    for parameter in (p for s in schemas for p in s["function"]["parameters"]["properties"].values()):
        if parameter["type"] == "array":  # verl shows the model no `items`
            parameter["description"] = f"a list of texts: {parameter['items']['description']}"
    name = "searchgym.interop.verl_tools.SearchTool"
    return {"tools": [{"class_name": name, "config": config, "tool_schema": schema} for schema in schemas]}
