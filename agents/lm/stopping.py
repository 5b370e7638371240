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
        slashes: ids with the "/" of a closing tag; without one since the last look, no closing tag is complete.
        ends: ids with the ">" of a closing tag.
    """

    __slots__ = ("_decode", "_ends", "_known", "_pending", "_scanner", "_slash", "_slashes")

    def __init__(
        self,
        scanner: Scanner,
        decode: Callable[[Sequence[int]], str],
        slashes: Collection[int],
        ends: Collection[int],
    ) -> None:
        self._scanner, self._decode, self._slashes, self._ends = scanner, decode, slashes, ends
        self._pending: list[int] = []
        self._known = 0  # how many of the pending ids were scanned before: decoders look at the id before
        self._slash = False

    def __call__(self, token: int) -> bool:
        """Take the next sampled id.

        Args:
            token: the id.

        Returns:
            Whether the message ends with it: it completes the act, or a closing tag that closes nothing.
        """
        self._pending.append(token)
        begins = token in self._slashes
        self._slash = self._slash or begins
        if not self._slash or token not in self._ends:
            return False
        self._slash = begins  # an id like "></" also begins the next tag
        known = len(self._decode(self._pending[:1])) if self._known else 0
        text = self._decode(self._pending)[known:]
        self._pending, self._known = [token], 1
        return self._scanner.feed(text) or self._scanner.stray
