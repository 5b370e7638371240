"""The taskset `searchgym-vf` of verifiers, which imports a taskset as a module of that name at the top level."""

from searchgym.interop.verifiers import SearchGymEnv, SearchGymTaskset

__all__ = ["SearchGymEnv", "SearchGymTaskset"]
