"""What the README says of the program is what it does."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLIENTS_OWN = {"Error: could not connect to …", "connection refused", "does not support tools"}


def texts() -> list[str]:
    """All that the program may say, between what it fills in."""
    return [
        node.value
        for file in (ROOT / "proxy").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_messages_that_are_explained_are_those_that_are_said() -> None:
    section = (ROOT / "README.md").read_text().partition("## When something goes wrong")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert len(rows) > 15
    said = texts()
    for message in {message for row in rows for message in re.findall(r"`(.*?)`", row)} - CLIENTS_OWN:
        for part in filter(None, (part.strip(" :()") for part in message.split("…"))):
            assert any(part in text for text in said), f"nothing says {part!r}"


def test_pictures_are_there() -> None:
    pictures = re.findall(r'<img src="(.*?)"', (ROOT / "README.md").read_text())
    assert {ROOT / picture for picture in pictures} == set((ROOT / ".readme").iterdir())
