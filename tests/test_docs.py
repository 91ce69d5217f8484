"""The pages in the root and in `docs/` match the program."""

import ast
import gc
import re
from pathlib import Path

import pytest

from proxy.gguf.families import FAMILIES

ROOT = Path(__file__).parent.parent
CLIENTS_OWN = {"Error: could not connect to …", "connection refused", "does not support tools"}


def texts() -> list[str]:
    """The string constants of the program: the fixed parts of its messages."""
    # Python 3.11's parser fails if a garbage collection runs other code meanwhile: "recursion depth mismatch".
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


def test_troubleshooting_explains_messages_of_the_program() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    messages = texts()
    for message in {message for row in rows for message in re.findall(r"`(.*?)`", row)} - CLIENTS_OWN:
        for part in filter(None, (part.strip(" :()") for part in message.split("…"))):
            assert any(part in text for text in messages), f"no message contains {part!r}"


def stem(architecture: str) -> str:
    return re.sub(r"_?(ForCausalLM|ForConditionalGeneration|Model)$", "", architecture).casefold()


def test_the_table_of_families_lists_each_family_and_no_other() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    section = page.partition("## What the proxy converts")[2].partition("\n## ")[0]
    cells = [row.split(" | ")[1] for row in section.splitlines() if row.startswith("| ") and "`" not in row]
    outside = re.sub(r"\(.*?\)", "", " ".join(cells))
    named = {stem(word) for word in re.findall(r"\b[A-Z]\w+", outside)} - {""}
    assert named == {stem(name) for name in FAMILIES}


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)(.*?)\)", (ROOT / page).read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pictures_are_there() -> None:
    pictures = re.findall(r'<img src="(.*?)"', (ROOT / "README.md").read_text())
    assert {ROOT / picture for picture in pictures} == set((ROOT / ".readme").iterdir())


def test_files_that_the_map_names_exist() -> None:
    """ARCHITECTURE.md and CONTRIBUTING.md name files from the root or from `proxy`. NAME stands for any name."""
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        paths = {path for path in re.findall(r"`([\w./]+(?:\.py|/))`", text) if "NAME" not in path}
        assert len(paths) > 8
        missing = [path for path in paths if not any((base / path).exists() for base in (ROOT, ROOT / "proxy"))]
        assert [path for path in missing if not any((ROOT / "proxy").rglob(path))] == [], page
