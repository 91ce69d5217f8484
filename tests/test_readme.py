"""What the README says of the program is what it does."""

import ast
import gc
import re
from pathlib import Path

from proxy.gguf.families import FAMILIES

ROOT = Path(__file__).parent.parent
CLIENTS_OWN = {"Error: could not connect to …", "connection refused", "does not support tools"}


def texts() -> list[str]:
    """All that the program may say, between what it fills in."""
    # Python 3.11's parser fails where a collection runs other code meanwhile: "recursion depth mismatch".
    gc.disable()
    try:
        return [
            node.value
            for file in (ROOT / "proxy").rglob("*.py")
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    finally:
        gc.enable()


def test_messages_that_are_explained_are_those_that_are_said() -> None:
    section = (ROOT / "README.md").read_text().partition("## When something goes wrong")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert len(rows) > 15
    said = texts()
    for message in {message for row in rows for message in re.findall(r"`(.*?)`", row)} - CLIENTS_OWN:
        for part in filter(None, (part.strip(" :()") for part in message.split("…"))):
            assert any(part in text for text in said), f"nothing says {part!r}"


def stem(architecture: str) -> str:
    return re.sub(r"_?(ForCausalLM|ForConditionalGeneration|Model)$", "", architecture).casefold()


def test_the_table_of_families_has_those_that_are_made_and_no_others() -> None:
    section = (ROOT / "README.md").read_text().partition("## What the proxy converts")[2].partition("\n\nEach")[0]
    cells = [row.split(" | ")[1] for row in section.splitlines() if row.startswith("| ") and "`" not in row]
    outside = re.sub(r"\(.*?\)", "", " ".join(cells))
    named = {stem(word) for word in re.findall(r"\b[A-Z]\w+", outside)} - {""}
    assert named == {stem(name) for name in FAMILIES}


def test_pictures_are_there() -> None:
    pictures = re.findall(r'<img src="(.*?)"', (ROOT / "README.md").read_text())
    assert {ROOT / picture for picture in pictures} == set((ROOT / ".readme").iterdir())
