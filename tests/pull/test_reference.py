"""Names are read by Ollama's rules. Ollama answers for names that are not HOST/ORG/REPO."""

import pytest

from proxy.pull.reference import parse


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
