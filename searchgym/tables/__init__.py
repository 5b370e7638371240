"""What is computed from recorded episodes: columns, causes of failure with their shares, and files that other tools read.

Names below are imported on first use. pandas, datasets and pyarrow are optional (the extra `export`).
"""

from __future__ import annotations

from ..lazy import lazy_exports

_EXPORTS = {
    "CAUSES": "failures",
    "Episodes": "episodes",
    "FailureStats": "statistics",
    "cause_of": "failures",
    "export_episodes": "exporting",
    "failure_statistics": "statistics",
}

__all__ = list(_EXPORTS)

__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
