"""The projects that have an adapter, and the versions with which each was tested."""

from __future__ import annotations

import re
from importlib import metadata
from typing import NamedTuple

from searchgym.errors import MissingExtraError, PeerVersionError

__all__ = ["PEERS", "Peer", "check_peer"]


class Peer(NamedTuple):
    """A project and its tested versions.

    Attributes:
        package: name of its distribution.
        least: lowest tested release.
        below: the first release that is not tested.
        extra: the extra of this package that installs it.
    """

    package: str
    least: str
    below: str
    extra: str


PEERS = {
    "trl": Peer("trl", "1.16", "1.17", "trl"),
    "verifiers": Peer("verifiers", "0.4", "0.5", "verifiers"),
    "skyrl": Peer("skyrl-gym", "0.4", "0.5", "skyrl"),
    "gem": Peer("gem-llm", "0.1", "0.2", "gem"),
    "openenv": Peer("openenv", "0.10", "0.11", "openenv"),
    "mcp": Peer("mcp", "1.30", "3", "mcp"),
    "langchain": Peer("langchain-core", "1.8", "1.9", "langchain"),
    "llamaindex": Peer("llama-index-core", "0.14", "0.15", "llamaindex"),
    "verl": Peer("verl", "0.9", "0.10", "verl"),
}
"""By adapter: the name of its file and of its page in docs/interop."""


def check_peer(adapter: str) -> None:
    """Refuse a missing or untested version of a project before its adapter imports it.

    Args:
        adapter: a key of `PEERS`.

    Raises:
        MissingExtraError: the project is not installed.
        PeerVersionError: its version is outside the tested range.
    """
    peer = PEERS[adapter]
    try:
        version = metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(f"searchgym.interop.{adapter}", peer.package, peer.extra) from None
    if not _release(peer.least) <= _release(version) < _release(peer.below):
        raise PeerVersionError(
            f"searchgym.interop.{adapter} was tested with {peer.package} >={peer.least},<{peer.below}, and {version} is "
            f'installed: pip install "{peer.package}>={peer.least},<{peer.below}"'
        )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a release, without pre-release and build parts."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[^0-9.]", version)[0]))
