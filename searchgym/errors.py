"""Every error this package raises on purpose, and the model behind them.

1. Bad input (a wrong id, option, file or checkpoint) raises a `SearchGymError` *before* any work starts. Its
   message names the thing, the value it had, and the next move. Nothing on disk is half-written.
2. What the *policy* does wrong is never an exception: an unparsable action is a defined `invalid` round.
3. Infrastructure failure (a retriever or judge that did not answer) is data, not a crash and not a wrong
   answer: `RetrievalError` travels in the result, the episode is truncated, `valid_for_training` is False.
4. Anything else that escapes is a bug of ours; the command line then shows a traceback on purpose.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetSpentError",
    "CheckpointError",
    "ConfigError",
    "ConformanceError",
    "CorpusError",
    "EngineError",
    "EpisodeFileError",
    "IndexMismatchError",
    "MissingExtraError",
    "PluginError",
    "ResetNeededError",
    "RetrievalError",
    "RunDirectoryError",
    "SearchGymError",
    "SnapshotError",
    "TapeError",
    "TrainingError",
    "UnknownIdError",
    "did_you_mean",
]


class SearchGymError(Exception):
    """Base of all errors raised on purpose; the command line prints these without a traceback."""


class ConfigError(SearchGymError, ValueError):
    """An argument, option or configuration value that cannot be used."""


class UnknownIdError(ConfigError, LookupError):
    """A name nobody registered. Suggests near names and lists the known ones.

    Attributes:
        kind: what the name should have been, e.g. "retriever".
        name: the name asked for.
        known: the names there are.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        shown = self.known if len(self.known) <= 20 else [*self.known[:20], f"… {len(self.known) - 20} more"]
        message = f"unknown {kind} {name!r}.{did_you_mean(str(name), self.known)}"
        message += f" Known: {', '.join(shown) if shown else 'none'}."
        super().__init__(f"{message} {hint}".rstrip())

    def __reduce__(self) -> tuple[object, ...]:  # the message is derived: keep it across processes
        return (_rebuild, (type(self), self.args, self.__dict__))


class MissingExtraError(SearchGymError, ImportError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, module: str, extra: str) -> None:
        super().__init__(f'{feature} needs the module {module!r}: pip install "searchgym[{extra}]"')

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class PluginError(SearchGymError):
    """An entry point that is declared but cannot be loaded, or that gives something of the wrong kind."""


class ConformanceError(SearchGymError, AssertionError):
    """A plug-in that breaks a promise of its protocol; raised by `searchgym.conformance` only."""


class CorpusError(ConfigError):
    """A corpus or question file that cannot be used; names file, line and reason."""


class IndexMismatchError(ConfigError):
    """A saved index that is damaged, of another version, or of another corpus or tokenizer."""


class EpisodeFileError(ConfigError):
    """An episode file that is truncated, damaged or of an unknown schema; names file, line and reason."""


class SnapshotError(ConfigError):
    """A snapshot that cannot be restored here (another index, another schema, damaged)."""


class ResetNeededError(SearchGymError, RuntimeError):
    """`step`, `snapshot` or `truncate` was called while no episode is running."""


class RetrievalError(SearchGymError):
    """The retriever failed (server down, timeout, malformed reply). Infrastructure, never a wrong answer."""


class EngineError(SearchGymError):
    """The engine behind an agent failed (server down, weights not taken). Infrastructure, never a wrong answer."""


class BudgetSpentError(SearchGymError):
    """A request that could pass a ceiling of money or tokens was not sent. Names ceiling and amount used."""


class RunDirectoryError(ConfigError):
    """A run directory that is in use, of another configuration, or not a run directory."""


class CheckpointError(ConfigError):
    """A checkpoint that is damaged, or of another architecture or tokenizer."""


class TapeError(ConfigError):
    """A tape that is damaged, in use or of something else, or that lacks a call which a replay makes."""


class TrainingError(SearchGymError):
    """Training cannot go on (non-finite loss, a credit of the wrong shape, no valid episode left)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _rebuild(cls: type[SearchGymError], args: tuple[object, ...], state: dict[str, object]) -> SearchGymError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
