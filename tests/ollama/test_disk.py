"""Ollama's folder of models on this machine."""

from pathlib import Path

import pytest

from proxy.ollama.disk import blob_file

DIGEST = f"sha256:{'a' * 64}"


def blob_in(folder: Path) -> Path:
    file = folder / "blobs" / f"sha256-{'a' * 64}"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    return file


def test_a_blob_is_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    file = blob_in(tmp_path)
    assert blob_file(str(tmp_path), DIGEST) == file
    assert blob_file(str(tmp_path), f"sha256:{'b' * 64}") is None


def test_without_a_configuration_the_usual_folders_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert blob_file("", DIGEST) is None
    file = blob_in(tmp_path / ".ollama" / "models")
    assert blob_file("", DIGEST) == file
    assert blob_file(str(tmp_path / "elsewhere"), DIGEST) is None
