"""The configuration: precedence, and errors that name the key and the place."""

from pathlib import Path

import pytest

from proxy.config.loading import check, load
from proxy.config.sections import Config
from proxy.config.values import Address, Quantization
from proxy.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_flags_override_environment_override_file(tmp_path: Path) -> None:
    file = write(
        tmp_path, '[server]\nlisten = "127.0.0.1:1"\n[ollama]\nurl = "http://file:1"\n[pull]\nconnections = 3\n'
    )
    environment = {"OLLAMA_HF_PROXY_SERVER_LISTEN": "127.0.0.1:2", "OLLAMA_HF_PROXY_OLLAMA_URL": "http://env:2"}
    config = load(file, environment, {"--listen": "127.0.0.1:3", "--ollama": None})
    assert config.server.address == Address("127.0.0.1", 3)
    assert config.ollama.url == "http://env:2"
    assert config.pull.connections == 3
    assert config.hub.endpoint == "https://huggingface.co"


def test_hugging_face_variables_are_read(tmp_path: Path) -> None:
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
        ('[models."hf.co/o/r"]\nname = "short"\n', 'models."hf.co/o/r".name: must be HOST/ORG/REPO without a tag'),
        ('[models."hf.co/o/r"]\nname = "hf.co/me/s:q8_0"\n', 'models."hf.co/o/r".name: must be HOST/ORG/REPO without'),
        (
            '[models."hf.co/o/r"]\nname = "hf.co/m.e/s"\n',
            "Ollama does not take 'hf.co/m.e/s': the organization contains",
        ),
        (f'[models."hf.co/o/r"]\nname = "hf.co/me/{"s" * 81}"\n', "the repository's name has 81 characters"),
        (
            '[models."hf.co/o/r"]\nname = "hf.co/me/s"\n[models."hf.co/o/q"]\nname = "HuggingFace.co/Me/S"\n',
            "the name 'HuggingFace.co/Me/S' of 'hf.co/o/q' belongs to 'hf.co/o/r' already",
        ),
        (
            '[models."hf.co/o/r"]\nname = "hf.co/o/q"\n[models."hf.co/o/q"]\n',
            "the name 'hf.co/o/q' of 'hf.co/o/r' belongs to 'hf.co/o/q' already",
        ),
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


def test_mirrors_are_unique_and_exclude_the_endpoint() -> None:
    """Only the endpoint gets the token."""
    mirrors = ["https://two.example", "https://one.example/", "https://two.example/"]
    hub = check({"hub": {"endpoint": "https://one.example", "mirrors": mirrors}}).hub
    assert hub.mirrors == ("https://two.example",)


def test_model_settings_match_any_spelling_of_the_name() -> None:
    """Case, tag, scheme and the two host names of the Hub are ignored."""
    config = check({"models": {"https://HF.co/Org/Repo:q8_0": {"system": "yes"}}})
    for name in ("hf.co/org/repo:latest", "hf.co/ORG/REPO:Q4_K_M", "huggingface.co/Org/repo:latest"):
        assert config.settings_for(name).system == "yes"
    assert config.settings_for("hf.co/org/other:latest").system is None


def test_a_repository_may_have_another_name() -> None:
    """Its key may be longer than a name of Ollama. Its settings hold for both names."""
    long = f"Org/{'Repo' * 24}"
    config = check({"models": {f"hf.co/{long}": {"name": "hf.co/me/short", "system": "yes"}}})
    for name in ("hf.co/me/short:latest", "HuggingFace.co/Me/SHORT:q8_0"):
        assert config.settings_for(name).system == "yes"
        assert config.repository_of(name) == ("hf.co", long)
    assert config.settings_for(f"hf.co/{long}").system == "yes"
    assert config.repository_of(f"huggingface.co/{long}:q8_0") == ("huggingface.co", long)
    assert config.repository_of("hf.co/Me/other:q8_0") == ("hf.co", "Me/other")


def test_a_template_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat.gotmpl").write_text("{{ .Prompt }}｜", encoding="utf-8")
    file = write(tmp_path, '[models."hf.co/o/r"]\ntemplate_file = "chat.gotmpl"\n')
    assert load(file, {}).settings_for("hf.co/o/r:latest").template == "{{ .Prompt }}｜"


def test_a_stop_text_becomes_a_list(tmp_path: Path) -> None:
    """Ollama accepts a bare text in a create and then fails every chat."""
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
        for key in type(getattr(Config(), section)).__struct_encode_fields__:
            assert any(line.startswith(f"{key} = ") for line in lines), f"{section}.{key} is missing in {EXAMPLE.name}"
    assert load(EXAMPLE, {}) == Config()


@pytest.mark.parametrize(
    ("text", "size"), [("128MiB", 128 * 1024**2), ("20MB", 20_000_000), ("1 GiB", 1024**3), (33554432, 33554432)]
)
def test_a_size_has_a_unit(text: str | int, size: int) -> None:
    assert check({"pull": {"memory": text}}).pull.memory_bytes == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m", 120), ("90s", 90), ("90", 90), (30, 30), (0.5, 0.5), ("1.5h", 5400), ("0", 0), (" 10 s ", 10)],
)
def test_a_duration_has_a_unit(text: str | float, seconds: float) -> None:
    assert check({"ollama": {"patience": text}}).ollama.patience_seconds == seconds


@pytest.mark.parametrize(
    ("text", "rate"), [("", 0), ("20MB", 20_000_000), ("1 MiB", 1024**2), (1_000_000, 1_000_000), ("10kB", 10_000)]
)
def test_bandwidth_is_a_size_per_second_or_unlimited(text: str | int, rate: int) -> None:
    assert check({"pull": {"bandwidth": text}}).pull.bandwidth_bytes == rate


@pytest.mark.parametrize(
    ("value", "message"),
    [("16", "must be at least 16MiB, not '16'"), ("some", "must be a size such as 128MiB, not 'some'")],
)
def test_a_wrong_memory_is_an_error_with_its_key(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check({"pull": {"memory": value}})
    assert str(error.value) == f"pull.memory: {message}"


@pytest.mark.parametrize("value", ["soon", "", "2d", "-1s", -1, "1.h", "2m30s", float("inf"), float("nan")])
def test_a_wrong_duration_is_an_error_with_its_key(value: str | float) -> None:
    with pytest.raises(ConfigError) as error:
        check({"ollama": {"patience": value}})
    assert str(error.value) == f"ollama.patience: must be a duration such as 90s, 2m or 24h, not {value!r}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "must be a size such as 128MiB, not 'fast'"),
        ("20MB/s", "must be a size such as 128MiB, not '20MB/s'"),
        ("1.5MB", "must be a size such as 128MiB, not '1.5MB'"),
        (-1, "must be a size such as 128MiB, not -1"),
        ("9999", "must be at least 10kB (per second), not '9999'; an empty text means no limit"),
        (0, "must be at least 10kB (per second), not 0; an empty text means no limit"),
        (True, "Expected `int | str`, got `bool`"),
        ([], "Expected `int | str`, got `array`"),
    ],
)
def test_a_wrong_bandwidth_is_an_error_with_its_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check({"pull": {"bandwidth": value}})
    assert str(error.value) == f"pull.bandwidth: {message}"


def test_durations_and_sizes_come_from_the_environment() -> None:
    config = load(None, {"OLLAMA_HF_PROXY_OLLAMA_PATIENCE": "90s", "OLLAMA_HF_PROXY_PULL_BANDWIDTH": "1000000"})
    assert config.ollama.patience_seconds == 90.0
    assert config.pull.bandwidth_bytes == 1_000_000
    assert load(None, {"OLLAMA_HF_PROXY_PULL_BANDWIDTH": ""}).pull.bandwidth_bytes == 0
    with pytest.raises(ConfigError, match="^OLLAMA_HF_PROXY_OLLAMA_PATIENCE: ollama.patience: must be a duration"):
        load(None, {"OLLAMA_HF_PROXY_OLLAMA_PATIENCE": "soon"})


def test_lists_and_enums_come_from_the_environment() -> None:
    environment = {
        "OLLAMA_HF_PROXY_HUB_HOSTS": "HF.co, hub.example",
        "OLLAMA_HF_PROXY_HUB_MIRRORS": "https://one.example/, https://two.example",
        "OLLAMA_HF_PROXY_PULL_DEFAULT_QUANTIZATION": "q8_0",
        "OLLAMA_HF_PROXY_PULL_CONNECTIONS": "3",
        "OLLAMA_HF_PROXY_PULL_DRAFT": "true",
    }
    config = load(None, environment)
    assert config.hub.hosts == ("hf.co", "hub.example")
    assert config.hub.mirrors == ("https://one.example", "https://two.example")
    assert config.pull.default_quantization is Quantization.Q8_0
    assert config.pull.connections == 3
    assert config.pull.draft
