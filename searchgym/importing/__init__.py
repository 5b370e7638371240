"""Recorded rollouts of other projects as episodes: to rescore them, to read them, and to audit judges on real text.

`import_rollouts(path)` reads the files that R1-Searcher, ReAct, FireAct, Reflexion, verl, SkyRL, TRL and verifiers write,
see `layouts`, and this package's own rows, in four text formats. `report` compares what was read with what the records claim.
"""

from .gold import GoldPassages
from .layouts import LAYOUTS
from .report import SourceReport, new_gold_rounds, report
from .rollouts import FORMATS, Imported, Skipped, import_rollout, import_rollouts, parse_rollout

__all__ = [
    "FORMATS",
    "LAYOUTS",
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
