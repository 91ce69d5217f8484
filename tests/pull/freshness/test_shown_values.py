"""What Ollama shows of a model: strange answers, and values as Go writes them."""

from typing import Any

import pytest

from proxy.app import App
from proxy.errors import OllamaError, OllamaGone
from proxy.pull.freshness import _parameters, _shown_parameters, seconds_of
from proxy.standins.ollama import StandInModel, StandInOllama
from tests.kit.repeated_pulls import NAME
from tests.kit.support import Client, making


@pytest.mark.parametrize("error", [OllamaError("broken"), OllamaGone("gone")], ids=str)
async def test_a_pull_succeeds_though_it_cannot_be_recorded(
    app: App,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    error: OllamaError,
) -> None:
    """Ollama fails to list its models."""
    models = app.backend.ollama.models

    async def broken() -> list[dict[str, Any]]:
        if ollama.models:
            raise error
        return await models()

    monkeypatch.setattr(app.backend.ollama, "models", broken)
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    monkeypatch.undo()
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert len(set(making(ollama.requests))) == 1


@pytest.mark.parametrize("shown", [None, {}, {"modified_at": 5}, {"parameters": 7, "details": {}}], ids=str)
async def test_a_strange_answer_to_show_counts_as_no_model(
    app: App,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    shown: dict[str, Any] | None,
) -> None:
    ollama.models[NAME] = StandInModel()

    async def strange(_: str) -> dict[str, Any] | None:
        return shown

    monkeypatch.setattr(app.backend.ollama, "show", strange)
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert ollama.models[NAME].quantization_level == "Q4_K_M"


# ---- what Ollama shows, as Go writes it


GO_PARAMETERS = """\
temperature                    0.7
num_ctx                        4096
stop                           "</s>"
stop                           "q\\"x\\""
stop                           "n\\nl"
stop                           "tab\\t"
stop                           "uni é"
stop                           "back\\\\s"
stop                           ""
stop                           "\\u00a0 \\x7f"
repeat_penalty                 1
num_predict                    -1
min_p                          1e-05
tfs_z                          1e-07
seed                           1e+06
num_batch                      2.1e+07
penalize_newline               true
use_mmap                       false"""

PARAMETERS: dict[str, Any] = {
    "temperature": 0.7,
    "num_ctx": 4096,
    "stop": ["</s>", 'q"x"', "n\nl", "tab\t", "uni é", "back\\s", "", "\u00a0 \x7f"],
    "repeat_penalty": 1.0,
    "num_predict": -1,
    "min_p": 1e-05,
    "tfs_z": 1e-07,
    "seed": 1000000,
    "num_batch": 21_000_000,
    "penalize_newline": True,
    "use_mmap": False,
}


def test_parameters_are_read_as_go_writes_them() -> None:
    assert set(_shown_parameters(GO_PARAMETERS)) == _parameters(PARAMETERS)


@pytest.mark.parametrize("key", list(PARAMETERS))
def test_each_parameter_counts(key: str) -> None:
    other: Any = {bool: not PARAMETERS[key], list: ["z"]}.get(type(PARAMETERS[key]), 3)
    assert not _parameters({key: other}) <= set(_shown_parameters(GO_PARAMETERS))


@pytest.mark.parametrize("line", ["", "stop", "stop  [", "stop  nil", "x  map[string]interface {}{}", 'stop "'])
def test_an_unreadable_line_is_no_parameter(line: str) -> None:
    assert list(_shown_parameters(f"{line}\ntop_k  4")) == [("top_k", "4.0")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01T00:01:00.123456789Z", 60.123456),
        ("1970-01-01T01:01:00.12345678+01:00", 60.123456),
        ("1969-12-31T19:01:00.1234-05:00", 60.1234),
        ("", 0.0),
        ("None", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_times_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
