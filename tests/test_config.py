"""The configuration: precedence, and errors that name the key and the place."""

from pathlib import Path

import pytest

from proxy.config import Address, Config, OllamaConfig, PullConfig, Quantization, check, load
from proxy.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = write(
        tmp_path, '[server]\nlisten = "127.0.0.1:1"\n[ollama]\nurl = "http://file:1"\n[pull]\nconnections = 3\n'
    )
    environment = {"OLLAMA_HF_PROXY_SERVER_LISTEN": "127.0.0.1:2", "OLLAMA_HF_PROXY_OLLAMA_URL": "http://env:2"}
    found = load(file, environment, {"--listen": "127.0.0.1:3", "--ollama": None})
    assert found.server.address == Address("127.0.0.1", 3)
    assert found.ollama.url == "http://env:2"
    assert found.pull.connections == 3
    assert found.hub.endpoint == "https://huggingface.co"


def test_the_ecosystems_own_variables_count_as_environment(tmp_path: Path) -> None:
    file = write(tmp_path, '[hub]\ntoken = "file"\nendpoint = "https://file.example"\n')
    environment = {"HF_TOKEN": "hf_env", "HF_ENDPOINT": "https://mirror.example/"}
    assert load(file, environment).hub.token == "hf_env"
    assert load(file, environment).hub.endpoint == "https://mirror.example"
    assert load(file, environment | {"OLLAMA_HF_PROXY_HUB_TOKEN": "own"}).hub.token == "own"


def test_ollama_host_is_not_read() -> None:
    """In a user's shell it names the proxy itself."""
    assert load(None, {"OLLAMA_HOST": "http://elsewhere:1"}).ollama.url == "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pull]\nconections = 8\n", "pull.conections: is not a key"),
        ("[puls]\nconnections = 8\n", "puls: is not a key"),
        ('[pull]\nconnections = "many"\n', "pull.connections: Expected `int`, got `str`"),
        ("[pull]\nconnections = 0\n", "pull.connections: Expected `int` >= 1"),
        ('[pull]\nmemory = "a lot"\n', "pull.memory: must be a size such as 128MiB"),
        ('[pull]\ndefault_quantization = "IQ1_S"\n', "pull.default_quantization: Invalid enum value 'IQ1_S'"),
        ("[pull]\nthreads = -1\n", "pull.threads: Expected `int` >= 0"),
        ('[server]\nlisten = "11435"\n', "server.listen: must be HOST:PORT"),
        ('[ollama]\nurl = "ftp://x"\n', "ollama.url: must be a URL"),
        ('[models."org/repo"]\nsystem = "x"\n', "'org/repo' is not HOST/ORG/REPO"),
        ('[models."hf.co/o/r"]\n[models."HF.co/O/R:q4"]\n', "'HF.co/O/R:q4' and 'hf.co/o/r' are the same model"),
        ('[hub]\nendpoint = "huggingface.co"\n', "hub.endpoint: must be a URL that begins with http:// or https://"),
        ('[models."hf.co/o/r"]\ntemplat = "x"\n', 'models."hf.co/o/r".templat: is not a key'),
        ('[models."hf.co/o/r"]\ntemplate_file = "none"\n', "template_file: cannot be read"),
        ('[hub]\nmirrors = ["hf-mirror.com"]\n', "hub.mirrors: must be a URL that begins with http:// or https://"),
        ('[models."hf.co/o/r"]\ntemplate = "x"\ntemplate_file = "y"\n', "set template or template_file, not both"),
        ("[pull\n", "is not TOML"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file, {})
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OLLAMA_HF_PROXY_PULL_CONNECTIONS": "x"}, "OLLAMA_HF_PROXY_PULL_CONNECTIONS: pull.connections"),
        ({"OLLAMA_HF_PROXY_PULL_NONE": "x"}, "OLLAMA_HF_PROXY_PULL_NONE: pull.none: is not a key"),
        ({"OLLAMA_HF_PROXY_NONE": "x"}, "OLLAMA_HF_PROXY_NONE: none: is not a key"),
        ({"HF_ENDPOINT": "nowhere://"}, "HF_ENDPOINT: hub.endpoint: must be a URL"),
    ],
)
def test_an_error_names_the_variable(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, environment)
    assert message in str(error.value)


def test_an_error_names_the_flag() -> None:
    with pytest.raises(ConfigError) as error:
        load(None, {}, {"--hub": "nowhere://"})
    assert str(error.value).startswith("--hub: hub.endpoint")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_the_token_is_never_printed() -> None:
    assert "hf_secret" not in repr(load(None, {"HF_TOKEN": "hf_secret"}))
    assert "hf_secret" not in repr(check({"sources": {"corp": {"type": "huggingface", "token": "hf_secret"}}}))


def test_a_mirror_is_asked_once_and_is_never_the_endpoint() -> None:
    """Which alone gets the token."""
    mirrors = ["https://two.example", "https://one.example/", "https://two.example/"]
    hub = check({"hub": {"endpoint": "https://one.example", "mirrors": mirrors}}).hub
    assert hub.mirrors == ("https://two.example",)


def test_model_settings_match_without_regard_to_case_tag_scheme_or_the_hubs_two_names() -> None:
    found = check({"models": {"https://HF.co/Org/Repo:q8_0": {"system": "yes"}}})
    for name in ("hf.co/org/repo:latest", "hf.co/ORG/REPO:Q4_K_M", "huggingface.co/Org/repo:latest"):
        assert found.settings_for(name).system == "yes"
    assert found.settings_for("hf.co/org/other:latest").system is None


def test_a_template_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat.gotmpl").write_text("{{ .Prompt }}｜", encoding="utf-8")
    file = write(tmp_path, '[models."hf.co/o/r"]\ntemplate_file = "chat.gotmpl"\n')
    assert load(file, {}).settings_for("hf.co/o/r:latest").template == "{{ .Prompt }}｜"


def test_a_stop_text_becomes_a_list(tmp_path: Path) -> None:
    """Ollama takes the bare text at create and fails at every chat."""
    file = write(tmp_path, '[models."hf.co/o/r".parameters]\nstop = "<end>"\ntemperature = 0.3\nnum_ctx = 4096\n')
    assert dict(load(file, {}).settings_for("hf.co/o/r").parameters) == {
        "stop": ["<end>"],
        "temperature": 0.3,
        "num_ctx": 4096,
    }


def test_the_example_names_every_key_with_its_default() -> None:
    lines = [line.removeprefix("# ") for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    for section in (field for field in Config.__struct_fields__ if field not in ("models", "sources")):
        assert f"[{section}]" in lines
        for key in type(getattr(Config(), section)).__struct_fields__:
            assert any(line.startswith(f"{key} = ") for line in lines), f"{section}.{key} is missing in {EXAMPLE.name}"
    assert load(EXAMPLE, {}) == Config()


@pytest.mark.parametrize(
    ("text", "size"), [("128MiB", 128 * 1024**2), ("20MB", 20_000_000), ("1 GiB", 1024**3), (33554432, 33554432)]
)
def test_a_size_is_read_in_the_usual_units(text: str | int, size: int) -> None:
    assert PullConfig(memory=text).memory_bytes == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m", 120), ("90s", 90), ("90", 90), (30, 30), (0.5, 0.5), ("1.5h", 5400), ("0", 0), (" 10 s ", 10)],
)
def test_a_time_is_read_in_the_usual_units(text: str | float, seconds: float) -> None:
    assert OllamaConfig(patience=text).patience_seconds == seconds


@pytest.mark.parametrize(
    ("text", "rate"), [("", 0), ("20MB", 20_000_000), ("1 MiB", 1024**2), (1_000_000, 1_000_000), ("10kB", 10_000)]
)
def test_a_bandwidth_is_a_size_a_second_or_no_limit(text: str | int, rate: int) -> None:
    assert PullConfig(bandwidth=text).bandwidth_bytes == rate


@pytest.mark.parametrize("value", ["soon", "", "2d", "-1s", -1, "1.h", "2m30s", float("inf"), float("nan")])
def test_what_is_no_time_is_refused_with_its_key(value: str | float) -> None:
    with pytest.raises(ConfigError) as error:
        check({"ollama": {"patience": value}})
    assert str(error.value) == f"ollama.patience: must be a time such as 90s, 2m or 24h, not {value!r}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "must be a size such as 128MiB, not 'fast'"),
        ("20MB/s", "must be a size such as 128MiB, not '20MB/s'"),
        ("1.5MB", "must be a size such as 128MiB, not '1.5MB'"),
        (-1, "must be a size such as 128MiB, not -1"),
        ("9999", "must be at least 10kB (a second), not '9999'; empty is no limit"),
        (0, "must be at least 10kB (a second), not 0; empty is no limit"),
        (True, "Expected `int | str`, got `bool`"),
        ([], "Expected `int | str`, got `array`"),
    ],
)
def test_what_is_no_bandwidth_is_refused_with_its_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check({"pull": {"bandwidth": value}})
    assert str(error.value) == f"pull.bandwidth: {message}"


def test_patience_and_bandwidth_come_from_the_environment_too() -> None:
    found = load(None, {"OLLAMA_HF_PROXY_OLLAMA_PATIENCE": "90s", "OLLAMA_HF_PROXY_PULL_BANDWIDTH": "1000000"})
    assert found.ollama.patience_seconds == 90
    assert found.pull.bandwidth_bytes == 1_000_000
    assert load(None, {"OLLAMA_HF_PROXY_PULL_BANDWIDTH": ""}).pull.bandwidth_bytes == 0
    with pytest.raises(ConfigError, match="^OLLAMA_HF_PROXY_OLLAMA_PATIENCE: ollama.patience: must be a time"):
        load(None, {"OLLAMA_HF_PROXY_OLLAMA_PATIENCE": "soon"})


def test_lists_and_quantizations_come_from_the_environment_too() -> None:
    environment = {
        "OLLAMA_HF_PROXY_HUB_HOSTS": "HF.co, hub.example",
        "OLLAMA_HF_PROXY_HUB_MIRRORS": "https://one.example/, https://two.example",
        "OLLAMA_HF_PROXY_PULL_DEFAULT_QUANTIZATION": "q8_0",
        "OLLAMA_HF_PROXY_PULL_CONNECTIONS": "3",
    }
    found = load(None, environment)
    assert found.hub.hosts == ("hf.co", "hub.example")
    assert found.hub.mirrors == ("https://one.example", "https://two.example")
    assert found.pull.default_quantization is Quantization.Q8_0
    assert found.pull.connections == 3
