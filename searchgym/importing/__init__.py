"""Recorded rollouts of other projects as episodes: to rescore them, to read them, and to audit judges on real text.

`import_rollouts(path)` reads a file of rollouts in four text formats, each with its own parser; the `format` of a row
names it. `report` compares what was read with what the records claim.
"""

from .gold import GoldPassages
from .report import SourceReport, new_gold_rounds, report
from .rollouts import FORMATS, Imported, Skipped, import_rollout, import_rollouts, parse_rollout

__all__ = [
    "FORMATS",
    "GoldPassages",
    "Imported",
    "Skipped",
    "SourceReport",
    "import_rollout",
    "import_rollouts",
    "new_gold_rounds",
    "parse_rollout",
    "report",
]
