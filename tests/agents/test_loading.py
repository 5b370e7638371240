"""Opening models where the Hub cannot be reached: said at once, and what is on this machine is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hf_models import save_family

pytest.importorskip("transformers", reason="the extra train is not installed")
from huggingface_hub.errors import RepositoryNotFoundError

from searchgym.agents.hf import loading
from searchgym.errors import ConfigError


class Hub:
    """Stands for the client of the Hub; counts how often it is asked."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.asked = error, 0

    def __call__(self) -> Hub:
        return self

    def model_info(self, path: str, timeout: float) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error


def not_found() -> Exception:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    Exception.__init__(error, "404")
    return error


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options with which transformers is called; it finds nothing."""
    calls: list[dict[str, Any]] = []

    def from_pretrained(path: str, **options: Any) -> None:
        calls.append(options)
        raise OSError(f"no files of {path}")

    for name in ("AutoTokenizer", "AutoConfig"):
        monkeypatch.setattr(getattr(loading, name), "from_pretrained", from_pretrained)
    return calls


@pytest.mark.parametrize(
    "error", [OSError("Name or service not known"), TimeoutError(), RuntimeError("proxy\x1b[2J")]
)
@pytest.mark.parametrize("function", ["open_tokenizer", "open_model"])
def test_a_missing_network_is_said_at_once(
    error: Exception, function: str, opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(error)
    monkeypatch.setattr(loading, "HfApi", hub)
    arguments = ("agent 'hf'", "Qwen/Qwen3-0.6B", *(["float32"] if function == "open_model" else []))
    with pytest.raises(
        ConfigError, match=r"'Qwen/Qwen3-0.6B' is not on this machine, and https://\S+ cannot be reached"
    ) as raised:
        getattr(loading, function)(*arguments)
    assert "\x1b" not in str(raised.value)
    assert hub.asked == 1
    assert [options["local_files_only"] for options in opened] == [True]  # transformers does not try again


@pytest.mark.parametrize("error", [None, not_found()])
def test_a_hub_that_answers_is_left_to_transformers(
    error: Exception | None, opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "HfApi", Hub(error))
    with pytest.raises(
        ConfigError, match=r"no model can be loaded from 'Qwen/Qwen3-0.6B': OSError: no files"
    ):
        loading.open_tokenizer("agent 'hf'", "Qwen/Qwen3-0.6B")
    assert opened[0]["local_files_only"] is False


def test_directories_and_offline_mode_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(OSError("unreachable"))
    monkeypatch.setattr(loading, "HfApi", hub)
    path = save_family(tmp_path / "model")
    loading.open_tokenizer("agent 'hf'", path)
    loading.open_model("agent 'hf'", path, "float32")
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no model can be loaded"):
        loading.open_tokenizer("agent 'hf'", "nobody/no-such-model")
    assert hub.asked == 0
