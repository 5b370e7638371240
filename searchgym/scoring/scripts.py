"""The scripts whose words are not separated by spaces, as character classes for patterns.

Indexes and scores divide text of these scripts, each in its own way: `searchgym.corpora.bm25.analyzer`, `searchgym.scoring`.
"""

from __future__ import annotations

__all__ = ["IDEOGRAPHS", "KATAKANA", "SOUTH_EAST_ASIAN", "TIBETAN"]

IDEOGRAPHS = (
    r"\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u3096\u309d-\u309f\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U0001b001-\U0001b152\U00020000-\U0003ffff"
)
"""Ideographs with their radicals, and hiragana."""
KATAKANA = (
    r"\u3031-\u3035\u309b\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u32d0-\u32fe\u3300-\u3357\uff66-\uff9f"
    r"\U0001b000\U0001b164-\U0001b167"
)
SOUTH_EAST_ASIAN = (
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f\u1780-\u17d3\u17d7"
    r"\u17dc\u17dd\u1950-\u1974\u1980-\u19c9\u19da\u19de\u19df\u1a20-\u1a7c\u1aa0-\u1aad\ua9e0-\ua9ef\ua9fa-\ua9fe"
    r"\uaa60-\uaadf\U00011700-\U0001172b\U0001173a-\U0001173f"
)
"""Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet and Ahom, without their digits."""
TIBETAN = r"\u0f40-\u0fbc"
"""Letters and vowel signs; syllables are separated by a mark, words are not."""
