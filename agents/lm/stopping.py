"""Where the sampling of an act ends: the scanner of the dialect, fed with the text of the sampled ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from searchgym.dialects import Scanner

__all__ = ["ActWatch"]


class ActWatch:
    """Follows the sampling of one act.

    Ids are decoded when one of them may have completed a closing tag, each id once. So an id costs a look-up in a set,
    however long the act is. They are not decoded one by one: an id may be one byte of a character.

    Args:
        scanner: a new scanner; it may have read the beginning of the message.
        decode: the text of ids.
        candidates: ids that may complete a closing tag.
    """

    __slots__ = ("_candidates", "_decode", "_known", "_pending", "_scanner")

    def __init__(
        self,
        scanner: Scanner,
        decode: Callable[[Sequence[int]], str],
        candidates: Collection[int],
    ) -> None:
        self._scanner, self._decode, self._candidates = scanner, decode, candidates
        self._pending: list[int] = []
        self._known = 0  # how many of the pending ids were scanned before: decoders look at the id before

    def __call__(self, token: int) -> bool:
        """Take the next sampled id.

        Args:
            token: the id.

        Returns:
            Whether the message ends with it: it completes the act, or a closing tag that closes nothing.
        """
        self._pending.append(token)
        if token not in self._candidates:
            return False
        known = len(self._decode(self._pending[:1])) if self._known else 0
        text = self._decode(self._pending)[known:]
        self._pending, self._known = [token], 1
        return self._scanner.feed(text) or self._scanner.stray
