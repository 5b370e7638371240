"""The space of messages.

`gymnasium.spaces.Text` does not fit: its default character set rejects "Paris, France.", and through shared
memory it returns fill characters. A `MessageSpace` holds any string up to a length, registers its own
shared-memory transport (UTF-32 with a length header) for the stock vector environments, and samples valid acts
as actions, so that random play and `check_env` really search.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import shared_memory as _shm

from ..dialects import Act, get_dialect
from ..records.question import Corpus
from ..specs import ByIdentity

__all__ = ["MessageSpace", "SampleTitles"]

_SAMPLE_TITLES = 64


class SampleTitles(Sequence[str]):
    """The subjects of sampled messages: titles from all over a corpus, or the first words of passages without a title.

    Reading passages takes time, so the titles are read at the first sample, once per corpus. A pickle of this sequence
    is a tuple: it does not hold the corpus.

    Args:
        corpus: where the titles come from.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = ByIdentity(corpus)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return _titles(self._corpus)[index]

    def __len__(self) -> int:
        return len(_titles(self._corpus))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SampleTitles) and other._corpus == self._corpus:
            return True
        return isinstance(other, SampleTitles | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> SampleTitles:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (tuple, (list(self),))


@lru_cache(maxsize=16)
def _titles(key: ByIdentity) -> tuple[str, ...]:
    passages = key.value.passages if key.value is not None else ()
    step = max(1, -(-len(passages) // _SAMPLE_TITLES))
    picked = [passages[i] for i in range(0, len(passages), step)]
    return tuple(" ".join((p.title.split() or p.text.split())[:8])[:80] or "encyclopedia" for p in picked)


class MessageSpace(Space[str]):
    """All strings of at most `max_length` characters.

    Args:
        max_length: characters.
        dialect: name of the dialect in which `sample` writes acts; None (observations) samples bare words.
        words: the subjects of sampled acts, e.g. titles of the corpus.
        seed: seed of `sample`.
    """

    def __init__(
        self,
        max_length: int,
        dialect: str | None = None,
        words: Sequence[str] = ("encyclopedia",),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.max_length = max_length
        self.dialect = dialect
        self.words = words if isinstance(words, SampleTitles) else tuple(words)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a message has no array form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random message: three searches to one answer, about random words.

        It is cut to `max_length`, which leaves an incomplete act only if `max_length` is a few dozen characters.

        Args:
            mask: ignored.
            probability: ignored.
        """
        words = self.words[int(self.np_random.integers(len(self.words)))]
        if self.dialect is None:
            return words[: self.max_length]
        kind = "answer" if self.np_random.random() < 0.25 else "search"
        act = Act("answer", answer=words) if kind == "answer" else Act("search", queries=(words,))
        return get_dialect(self.dialect).write(act)[: self.max_length]

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        return [str(s) for s in sample_n]

    def __repr__(self) -> str:
        return f"MessageSpace(max_length={self.max_length}, dialect={self.dialect!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessageSpace) and (self.max_length, self.dialect, self.words) == (
            other.max_length,
            other.dialect,
            other.words,
        )

    __hash__ = None  # type: ignore[assignment]  # spaces are mutable (their generator is)


_HEADER = 4  # bytes: the number of characters, little-endian


@_shm.create_shared_memory.register(MessageSpace)
def _create(space: MessageSpace, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array("B", n * (_HEADER + 4 * space.max_length))


@_shm.write_to_shared_memory.register(MessageSpace)
def _write(space: MessageSpace, index: int, value: str, shared_memory: Any) -> None:
    if len(value) > space.max_length:  # would overwrite the next environment's message
        raise ValueError(f"a message of {len(value)} characters does not fit {space!r}")
    data = value.encode("utf-32-le", "surrogatepass")
    start = index * (_HEADER + 4 * space.max_length)
    view = memoryview(shared_memory.get_obj()).cast("B")
    view[start : start + _HEADER] = len(value).to_bytes(_HEADER, "little")
    view[start + _HEADER : start + _HEADER + len(data)] = data


@_shm.read_from_shared_memory.register(MessageSpace)
def _read(space: MessageSpace, shared_memory: Any, n: int = 1) -> _SharedMessages:
    return _SharedMessages(shared_memory, space.max_length, n)


class _SharedMessages(Sequence[str]):
    """The messages that are in shared memory now.

    `AsyncVectorEnv` reads its memory once, before the first episode, expects a view from then on, and returns deep
    copies of it. Hence this sequence reads at each access, and its copy is a plain tuple.
    """

    def __init__(self, shared_memory: Any, max_length: int, count: int) -> None:
        self._memory, self._max_length, self._count = shared_memory, max_length, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._count)))
        position = range(self._count)[index]
        view = memoryview(self._memory.get_obj()).cast("B")
        start = position * (_HEADER + 4 * self._max_length)
        length = int.from_bytes(view[start : start + _HEADER], "little")
        body = bytes(view[start + _HEADER : start + _HEADER + 4 * length])
        return body.decode("utf-32-le", "surrogatepass")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)
