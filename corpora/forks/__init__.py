"""Worlds in which credit decides: small questions whose rounds differ in what they are worth, in a known way.

    >>> from searchgym.corpora.forks import Forks
    >>> forks = Forks("decoys", parameters={"decoys": 4})
    >>> forks.questions("dev")[0].text

`families` says what the pages of a question link to, `rendering` words them, `corpus` names and numbers them.
"""

from .corpus import Forks, open_forks
from .families import FAMILIES, Family, Parameter

__all__ = ["FAMILIES", "Family", "Forks", "Parameter", "open_forks"]
