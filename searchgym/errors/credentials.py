"""Credentials: kept out of everything that is stored, shown, logged or tracked, and read from the environment.

A value may refer to an environment variable as `${NAME}`, e.g. `http://me:${PROXY_PASSWORD}@host:8000`. Such references are
stored as they are and replaced when the value is used (`expand`). A credential that is written out is used once and stored as
such a reference (`strip`): the login of a URL as `${SEARCHGYM_LOGIN_<HOST>}`, the option `api_key` of a retriever as
`${SEARCHGYM_RETRIEVER_API_KEY}`.

Variables that are not set are looked up in the file that `SEARCHGYM_SECRETS` names: lines NAME=VALUE, readable by its owner
only (mode 0600).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SECRETS_FILE", "MissingSecret", "expand", "redact", "strip", "with_credentials"]

SECRETS_FILE = "SEARCHGYM_SECRETS"
"""The variable that names the file of further credentials."""

_HIDDEN = "***"
_SECRET = (
    r"(?:.*[._-])??(?:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|client[_-]?secret|secret|password|passwd"
    r"|passphrase|(?:access|api|auth|bearer|hf|hub|id|refresh|security|service|session)[_-]?token"
    r"|(?:proxy[_-])?authorization|cookie|credentials?)|(?:.*\.)?token"
)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# A login ends at the last @ before the host's end. A password may hold an unescaped slash: then no port can be read.
_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#\"'<>]*(?=@)|[^\s/?#@:\"'<>]+:(?!\d+(?:/|\s|$))[^\s@\"'<>]*(?=@))")
_PARAMETER = re.compile(
    r"(?<=[?&;])([\w.-]*(?:key|token|secret|password|passwd|signature|credential)|sig|auth)=([^&#;\s\"'<>]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(Bearer|Basic)\s+(?=\S*[\d=])[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE)
_KEY = re.compile(r"\b(?:sk-(?=\S*\d)[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pous]_[A-Za-z0-9]{30,})")


class MissingSecret(ValueError):
    """A reference to a variable that is not set; the message says which and what to do."""


def redact(text: str) -> str:
    """A text for people, with the credentials in it replaced by `***`: logins and secret parameters of URLs, authorization
    headers, keys of well-known services. References `${NAME}` stay.

    Args:
        text: an error message, a log line, an address.
    """
    if "://" in text:
        text = _LOGIN.sub(_hide, text)
        text = _PARAMETER.sub(lambda match: f"{match[1]}={_hide(match[2])}", text)
    text = _HEADER.sub(lambda match: f"{match[1]} {_HIDDEN}", text)
    return _KEY.sub(_HIDDEN, text)


def strip(value: Any, name: str = "", owner: str = "") -> Any:
    """A JSON value to be stored or shown: a copy in which references stand for the credentials.

    Args:
        value: options, a spec, a configuration.
        name: the key under which it stands: the value of a key such as "password" is a credential.
        owner: the key above `name`, which is part of the variable's name.
    """
    if isinstance(value, Mapping):
        return {key: strip(part, str(key), name) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strip(part, name, owner) for part in value]
    if not isinstance(value, str) or not value:
        return value
    if _SECRET_NAME.fullmatch(name):
        return value if _is_reference(value) else _reference(owner, name)
    if "://" in value:
        value = _LOGIN.sub(_login_reference, value)
        value = _PARAMETER.sub(
            lambda match: match[0] if _is_reference(match[2]) else f"{match[1]}={_reference(name, match[1])}",
            value,
        )
    value = _HEADER.sub(lambda match: f"{match[1]} {_reference(name, 'token')}", value)
    return _KEY.sub(lambda match: _reference(name, "key"), value)


def with_credentials(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that hold credentials, as they are: what `strip` would change.

    Args:
        options: values by name.
    """
    return {name: value for name, value in options.items() if strip({name: value}) != {name: value}}


def expand(value: Any) -> Any:
    """A copy of a JSON value with the references in its strings replaced by what the environment holds.

    Raises:
        MissingSecret: a variable is not set.
    """
    if isinstance(value, Mapping):
        return {key: expand(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [expand(part) for part in value]
    return _REFERENCE.sub(lambda match: _look_up(match[1]), value) if isinstance(value, str) else value


def _hide(found: re.Match[str] | str) -> str:
    text = found if isinstance(found, str) else found[0]
    return text if not text or _is_reference(text) else _HIDDEN


def _is_reference(text: str) -> bool:
    """Whether a credential is given by reference: at least its secret part, as in `me:${PASSWORD}`."""
    return _REFERENCE.search(text.rpartition(":")[2]) is not None


def _login_reference(found: re.Match[str]) -> str:
    if not found[0] or _is_reference(found[0]):
        return found[0]
    host = re.match(r"@(\[[^\]]*\]|[^/:?#\s]*)", found.string[found.end() :])
    return _reference("login", host[1] if host else "")


def _reference(*parts: str) -> str:
    words = (re.sub(r"\W+", "_", part).strip("_").upper() for part in ("SEARCHGYM", *parts))
    return "${" + "_".join(word for word in words if word) + "}"


def _look_up(name: str) -> str:
    value = os.environ.get(name) or _from_file(name)
    if not value:
        raise MissingSecret(
            f"the environment variable {name}, which holds a credential, is not set: export it, or put a line {name}=… into a "
            f"file of mode 0600 and name that file in {SECRETS_FILE}"
        )
    return value


def _from_file(name: str) -> str:
    path = os.environ.get(SECRETS_FILE)
    if not path:
        return ""
    try:
        if os.name != "nt" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise MissingSecret(
                f"{path}, which {SECRETS_FILE} names, can be read by others: chmod 600 {path}"
            )
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingSecret(f"{path}, which {SECRETS_FILE} names, cannot be read: {error}") from error
    pairs = (line.partition("=") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
