"""Names are read by Ollama's rules. Ollama answers for names that are not HOST/ORG/REPO."""

import pytest

from proxy.names import divide
from proxy.pull.reference import divide_tag, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf.co/Org/Repo", "hf.co/Org/Repo:latest"),
        ("hf.co/Org/Repo:q4_K_M", "hf.co/Org/Repo:q4_K_M"),
        ("https://huggingface.co/Org/Repo.v1-x:Q8_0", "huggingface.co/Org/Repo.v1-x:Q8_0"),
        ("http://hf.co/a/b", "hf.co/a/b:latest"),
        (" hf.co/a/b ", "hf.co/a/b:latest"),
        ("HF.co/a/b", "HF.co/a/b:latest"),
        ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
        ("hf.co/a/b:model-Q4_K_M.gguf", "hf.co/a/b:model-Q4_K_M.gguf"),
    ],
)
def test_a_name_is_what_the_client_sent_without_the_scheme(text: str, name: str) -> None:
    reference = parse(text)
    assert reference is not None
    assert reference.name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "llama3.2",
        "library/llama3.2:1b",
        "hf.co/gpt2",
        "hf.co/a/b/c",
        "hf.co/dotted.org/b",
        "hf.co/a/b@sha256:abc",
        "hf.co//b",
        "hf.co/a/",
        "hf.co/a/b:",
        "hf.co/-a/b",
        "hf.co/a/../b",
        "hf.co/a/b:q4 k",
        "hf.co/a/b\n/c",
        f"hf.co/a/{'b' * 81}",
        f"hf.co/a/b:{'t' * 81}",
        "ftp://hf.co/a/b",
        # Ollama's own cloud, from v0.17.6 on
        "hf.co/a/b:cloud",
        "hf.co/a/b:Local",
        "hf.co/a/b:8b-cloud",
    ],
)
def test_other_names_are_ollamas_to_answer(text: str) -> None:
    assert parse(text) is None


def test_names_that_differ_in_case_are_one_model() -> None:
    left, right = parse("hf.co/Org/Repo:q4_k_m"), parse("HF.CO/org/repo:Q4_K_M")
    assert left is not None
    assert right is not None
    assert left.key == right.key


@pytest.mark.parametrize(
    "name", [f"hf.co/{'o' * 80}/{'r' * 80}:{'t' * 80}", f"{'h' * 350}/_/0:_", "a.b-c:1/o-_/r.-_:t.-_"]
)
def test_a_name_at_every_limit_breaks_no_rule(name: str) -> None:
    parts = divide(name)
    assert parts is not None
    assert parts.broken_rule is None
    assert parse(name) is not None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (f"{'h' * 351}/o/r", "the host has 351 characters, and Ollama takes at most 350"),
        ("h,f/o/r", "the host contains ',', and Ollama takes only letters, digits and _ - . :"),
        (f"hf.co/{'o' * 81}/r", "the organization has 81 characters, and Ollama takes at most 80"),
        ("hf.co/o.o/r", "the organization contains '.', and Ollama takes only letters, digits and _ -"),
        (f"hf.co/o/{'r' * 96}", "the repository's name has 96 characters, and Ollama takes at most 80"),
        ("hf.co/o/r~", "the repository's name contains '~', and Ollama takes only letters, digits and _ - ."),
        ("hf.co/o/ü", "the repository's name does not begin with a letter, a digit or _, as Ollama demands"),
        ("hf.co/o/r:.q", "the tag does not begin with a letter, a digit or _, as Ollama demands"),
        (f"hf.co/o/r:{'t' * 81}", "the tag has 81 characters, and Ollama takes at most 80"),
        ("hf.co/o/r:q 4", "the tag contains ' ', and Ollama takes only letters, digits and _ - ."),
        (f"{'h' * 351}/{'o' * 81}/r", "the host has 351 characters, and Ollama takes at most 350"),
    ],
)
def test_the_first_broken_rule_is_named(name: str, rule: str) -> None:
    parts = divide(name)
    assert parts is not None
    assert parts.broken_rule == rule
    assert parse(name) is None


@pytest.mark.parametrize(
    ("tag", "revision", "quantization"),
    [
        ("latest", None, "latest"),
        ("q4_K_M", None, "q4_K_M"),
        ("main--q4_K_M", "main", "q4_K_M"),
        ("v1.0--latest", "v1.0", "latest"),
        ("a--b--Q8_0", "a--b", "Q8_0"),
        ("main--", "main", ""),
        ("main--tiny-Q8_0.gguf", "main", "tiny-Q8_0.gguf"),
        ("main--tiny--Q8_0.gguf", "main", "tiny--Q8_0.gguf"),
        ("tiny--q8_0.gguf", None, "tiny--q8_0.gguf"),
    ],
)
def test_a_tag_is_a_revision_and_a_quantization_unless_a_file_has_its_name(
    tag: str, revision: str | None, quantization: str
) -> None:
    chosen = divide_tag(tag, ["folder/tiny--Q8_0.gguf", "config.json"])
    assert chosen == (revision, quantization)
    assert chosen.tag(quantization) == tag
