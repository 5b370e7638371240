"""Both ends of the retrieval service: server and client of Search-R1's /retrieve protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .app import create_app as create_app
    from .client import open_remote as open_remote
    from .limits import Limits as Limits
    from .server import local_service as local_service
    from .server import serve as serve

_MODULES = {
    "Limits": "limits",
    "create_app": "app",
    "local_service": "server",
    "open_remote": "client",
    "serve": "server",
}
__all__ = ["Limits", "create_app", "local_service", "open_remote", "serve"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
