"""All errors that this package raises on purpose, and the model behind them.

1. Bad input (a wrong id, option, file or checkpoint) raises a `SearchGymError` *before* any work starts. Its
   message names the thing, its value, and the next move. Nothing on disk is half-written.
2. A mistake of the *policy* is never an exception: an unparsable action is a defined `invalid` round.
3. An infrastructure failure (a retriever or judge that did not answer) is data, neither a crash nor a wrong
   answer: `RetrievalError` is passed in the result, the episode is truncated, `valid_for_training` is False.
4. Any other exception is a bug in this package; the command line then shows a traceback on purpose.

No message holds credentials: they are replaced by `***` when an error is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .credentials import redact
from .terminal import printable

__all__ = [
    "BudgetSpentError",
    "CheckpointError",
    "ConfigError",
    "ConformanceError",
    "CorpusError",
    "DamagedFileError",
    "EngineError",
    "EpisodeFileError",
    "IndexMismatchError",
    "MissingExtraError",
    "PeerVersionError",
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
    """Base of all errors raised on purpose; the command line prints these without a traceback.

    Messages may quote servers, models and files: they are made printable here
    (`searchgym.errors.terminal`), and credentials in them are hidden (`searchgym.errors.credentials`).
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(redact(arg)) if isinstance(arg, str) else arg for arg in args))


class ConfigError(SearchGymError, ValueError):
    """An argument, option or configuration value that cannot be used."""


class UnknownIdError(ConfigError, LookupError):
    """An unknown name. The message suggests similar names and lists the known ones.

    Attributes:
        kind: what the name stands for, e.g. "retriever".
        name: the requested name.
        known: the known names.
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


class PeerVersionError(ConfigError):
    """An installed package of another project has a version with which its adapter was not tested."""


class PluginError(SearchGymError):
    """An entry point that is declared but cannot be loaded, or that returns an object of the wrong kind."""


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


class DamagedFileError(ConfigError, RetrievalError):
    """A file of an index or of a packed corpus that has changed since it was written, found when it was read.

    During a search it is a failure of the infrastructure, like any `RetrievalError`.
    """


class EngineError(SearchGymError):
    """The engine behind an agent failed (server down, weights not taken). Infrastructure, never a wrong answer."""


class BudgetSpentError(SearchGymError):
    """A request was not sent because it could exceed a limit of money or tokens. Names the limit and the amount used."""


class RunDirectoryError(ConfigError):
    """A run directory that is in use, of another configuration, or not a run directory."""


class CheckpointError(ConfigError):
    """A checkpoint that is damaged, or of another architecture or tokenizer."""


class TapeError(ConfigError):
    """A tape that is damaged, in use or of another environment, or that does not hold a call which a replay makes."""


class TrainingError(SearchGymError):
    """Training cannot continue (non-finite loss, a credit of the wrong shape, no valid episode left)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string if no known name is similar.

    Args:
        name: the unknown name.
        known: the known names.
    """
    near = difflib.get_close_matches(name.lower(), list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _rebuild(cls: type[SearchGymError], args: tuple[object, ...], state: dict[str, object]) -> SearchGymError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
