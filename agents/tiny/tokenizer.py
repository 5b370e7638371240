"""The tiny language model's tokenizer: whole words and name parts, exact round trip, byte fallback.

Copying names is hard for a very small model, so a name must be encoded as the same few tokens everywhere: after a
tag, inside brackets, at the start of a line. Hence spaces are not part of tokens. Two neighbouring tokens are
separated by one space, depending on their kinds:

- "word" tokens have a space on both sides (`Mira`, `employer`, `<search>`);
- "suffix" tokens have no space before them (`##moor`, `,`, `)`, a rank marker such as `\\n[2]`);
- "prefix" tokens have no space after them (`(`, `"`);
- "tight" tokens have no space on either side (`-`, a line break, the 256 bytes, one explicit space, the empty joint).

Where a text differs (no space between two words, two spaces, a space before a comma), the encoder writes an explicit
joint or explicit spaces. So `decode(encode(text)) == text` for every string, including unknown words, line breaks and
lone surrogates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from searchgym.errors import CheckpointError
from searchgym.files import read_json

__all__ = ["TAGS", "Tokenizer"]

TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("think", "search", "answer", "feedback", "information")
    for slash in ("", "/")
)
"""The tags of the tags dialect, one token each; only the exact text of a tag is encoded as one."""

_FORMAT = 1
_SPECIALS = ("<pad>", "<bos>")
_MAX_RANK = 10
_KINDS = ("word", "suffix", "prefix", "tight")
_ATOM = re.compile(
    "|".join(
        (
            "(?P<tag>" + "|".join(map(re.escape, TAGS)) + ")",
            r"(?P<rank>\n\[(?:[1-9]|10)\](?= ))",
            r"(?P<spaces> +)",
            r"(?P<possessive>'s\b)",
            r"(?P<letters>[^\W\d_]+)",
            r"(?P<digits>[0-9]+(?:s(?![^\W_]))?)",
            r"(?P<other>.)",
        )
    ),
    re.DOTALL,
)


class Tokenizer:
    """Encodes text as ids and decodes ids.

    The order of ids is fixed: specials, the 256 bytes, space and joint, tags, then the vocabulary in the given order.

    Attributes:
        pad_id: id of padding; never part of a text.
        bos_id: id that starts every episode.
        size: number of ids.
    """

    def __init__(self, vocabulary: Sequence[tuple[str, str]]) -> None:
        """Use `Tokenizer.build` or `Tokenizer.load`.

        Args:
            vocabulary: (kind, text) pairs; a kind is "word", "suffix", "prefix" or "tight".
        """
        self.vocabulary = tuple((kind, text) for kind, text in vocabulary)
        base = [("tight", "")] * (len(_SPECIALS) + 256) + [("tight", " "), ("tight", "")]
        tokens = [*base, *(("word", tag) for tag in TAGS), *self.vocabulary]
        self.pad_id, self.bos_id = 0, 1
        self._byte0 = len(_SPECIALS)
        self._space, self._joint = self._byte0 + 256, self._byte0 + 257
        self._texts = [text for _, text in tokens]
        self._left = [kind in ("suffix", "tight") for kind, _ in tokens]
        self._right = [kind in ("prefix", "tight") for kind, _ in tokens]
        self.size = len(tokens)
        self._start: dict[str, int] = {}
        self._inside: dict[str, int] = {}
        for i, (kind, text) in enumerate(tokens[len(base) :], len(base)):
            table = self._inside if kind == "suffix" else self._start
            table[text] = i
            if not text[0].isalnum():  # punctuation occurs anywhere; only letters and digits form words
                self._start[text] = i
        self._longest = max((len(t) for t in self._texts), default=1)
        self._atoms: dict[str, tuple[int, ...]] = {}

    @classmethod
    def build(cls, words: Iterable[str], parts: Iterable[str] = ()) -> Tokenizer:
        """A tokenizer for the given words.

        Args:
            words: texts whose words (runs of letters) each become one token.
            parts: parts of names that occur inside a word, after its first piece ("moor" in "Oldmoor").
        """
        found: dict[tuple[str, str], None] = {}
        for rank in range(1, _MAX_RANK + 1):
            found["suffix", f"\n[{rank}]"] = None
        found["tight", "\n"] = None
        for mark in ".,:;?!)]…":
            found["suffix", mark] = None
        found["suffix", "'s"] = None
        for mark in "([":
            found["prefix", mark] = None
        for mark in "-–'/\"":
            found["tight", mark] = None
        for kind in ("word", "suffix"):
            for width in (1, 2):
                for n in range(10**width):
                    found[kind, f"{n:0{width}d}"] = None
        for word in sorted(set(words)):
            for match in _ATOM.finditer(word):
                if match.lastgroup == "letters":
                    found["word", match.group()] = None
        for part in sorted(set(parts)):
            found["suffix", part] = None
        return cls(list(found))

    def encode(self, text: str) -> list[int]:
        """The ids of a text; `decode` returns the same text."""
        ids: list[int] = []
        open_right, spaces = True, 0
        for match in _ATOM.finditer(text):
            atom = match.group()
            if match.lastgroup == "spaces":
                spaces = len(atom)
                continue
            pieces = self._atoms.get(atom)
            if pieces is None:
                pieces = self._pieces(atom)
                if len(atom) <= 32 and len(self._atoms) < 65_536:
                    self._atoms[atom] = pieces
            if open_right or self._left[pieces[0]]:
                ids.extend([self._space] * spaces)
            elif spaces != 1:
                ids.extend([self._space] * spaces or [self._joint])
            ids.extend(pieces)
            open_right, spaces = self._right[pieces[-1]], 0
        ids.extend([self._space] * spaces)
        return ids

    def _pieces(self, atom: str) -> tuple[int, ...]:
        """Greedy longest match; characters without a token are encoded as bytes."""
        ids: list[int] = []
        position = 0
        while position < len(atom):
            table = self._inside if position else self._start
            for end in range(min(len(atom), position + self._longest), position, -1):
                token = table.get(atom[position:end])
                if token is not None:
                    ids.append(token)
                    position = end
                    break
            else:
                encoded = atom[position].encode("utf-8", "surrogatepass")
                ids.extend(self._byte0 + byte for byte in encoded)
                position += 1
        return tuple(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; byte sequences that are not UTF-8 become U+FFFD."""
        parts: list[str] = []
        pending = bytearray()
        open_right = True
        for i in ids:
            if self._byte0 <= i < self._byte0 + 256:
                pending.append(i - self._byte0)
                open_right = True
                continue
            if pending:
                parts.append(_utf8(pending))
                pending.clear()
            if not (open_right or self._left[i]):
                parts.append(" ")
            parts.append(self._texts[i])
            open_right = self._right[i]
        if pending:
            parts.append(_utf8(pending))
        return "".join(parts)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token, such as a tag.

        Raises:
            KeyError: it is not one token.
        """
        return self._start[text]

    def ids_with(self, character: str) -> frozenset[int]:
        """The ids whose text contains an ASCII character."""
        texts = {i for i, text in enumerate(self._texts) if character in text}
        return frozenset({*texts, self._byte0 + ord(character)})

    def is_byte(self, token: int) -> bool:
        """Whether this is one of the 256 byte tokens, which encode words outside the vocabulary."""
        return self._byte0 <= token < self._byte0 + 256

    def to_json(self) -> dict[str, object]:
        """The tokenizer as JSON data; `from_json` is the inverse."""
        data: dict[str, object] = {"format": _FORMAT}
        runs: list[tuple[str, list[str]]] = []
        for kind, text in self.vocabulary:
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append(text)
        data["vocabulary"] = runs
        return data

    @classmethod
    def from_json(cls, data: object) -> Tokenizer:
        """Rebuild a tokenizer.

        Raises:
            CheckpointError: the data is not a tokenizer, or has another format.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise CheckpointError(f"not a tokenizer of format {_FORMAT}: run `searchgym warmup` again")
        try:
            vocabulary = [(kind, text) for kind, texts in data["vocabulary"] for text in texts]
            known = all(k in _KINDS and isinstance(t, str) and t for k, t in vocabulary)
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            raise CheckpointError("the tokenizer's vocabulary is damaged: run `searchgym warmup` again")
        return cls(vocabulary)

    def save(self, path: Path) -> None:
        """Write the tokenizer as a JSON file."""
        path.write_text(json.dumps(self.to_json(), ensure_ascii=True, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a file that `save` wrote.

        Raises:
            CheckpointError: it is missing, damaged or of another format; names the file.
        """
        try:
            return cls.from_json(read_json(path))
        except (OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise CheckpointError(f"{path}: {error}") from error
            raise CheckpointError(f"{path}: cannot read the tokenizer: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.vocabulary == other.vocabulary

    def __hash__(self) -> int:
        return hash(self.vocabulary)


def _utf8(data: bytearray) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")
