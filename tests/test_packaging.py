"""An installation has a quantizer for each platform, and the kernel if there is a compiler."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

MIN_SETUPTOOLS = 77
PLATFORMS = {
    ("linux", "x86_64"): True,
    ("linux", "aarch64"): True,
    ("linux", "riscv64"): False,
    ("darwin", "arm64"): True,
    ("darwin", "x86_64"): False,
    ("win32", "AMD64"): True,
    ("win32", "ARM64"): False,
}
"""Whether libggml-python has a wheel."""


def required() -> list[Requirement]:
    with Path("pyproject.toml").open("rb") as file:
        return [Requirement(text) for text in tomllib.load(file)["project"]["dependencies"]]


@pytest.mark.parametrize(("system", "machine"), PLATFORMS)
def test_each_platform_gets_a_quantizer(system: str, machine: str) -> None:
    platform = {"sys_platform": system, "platform_machine": machine}
    names = {
        requirement.name
        for requirement in required()
        if requirement.marker is None or requirement.marker.evaluate(platform)
    }
    assert "numpy" in names
    assert ("libggml-python" in names) is PLATFORMS[system, machine]
    assert ("uvloop" in names) is (system != "win32")


def installed(tmp_path: Path, **environment: str) -> Path:
    """Install the proxy with these environment variables. Returns the folder."""
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if int(version("setuptools").partition(".")[0]) < MIN_SETUPTOOLS:
        pytest.skip(f"setuptools is older than {MIN_SETUPTOOLS}")
    source, target = tmp_path / "source", tmp_path / "installed"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree("proxy", source / "proxy", ignore=ignored, dirs_exist_ok=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    pip += ["--no-build-isolation", "--no-deps", "--no-index"]
    result = subprocess.run(
        [*pip, "--target", str(target), str(source)],
        env=os.environ | environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return target


def engines_of(target: Path) -> str:
    program = "import proxy.gguf.engine as engine; print(engine.__file__); print(engine.engine_names())"
    command = [sys.executable, "-P", "-c", program]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(target)}, check=True, capture_output=True)
    file, engines = result.stdout.decode().splitlines()
    assert Path(file).is_relative_to(target)
    return engines


def test_a_build_packs_no_module_that_is_gone(tmp_path: Path) -> None:
    """An earlier build leaves its modules in the build folder."""
    gone = tmp_path / "source" / "proxy" / "gone.py"
    gone.parent.mkdir(parents=True)
    gone.write_text("")
    target = installed(tmp_path, CC="/nonexistent")
    assert (target / "proxy" / "gone.py").exists()
    gone.unlink()
    shutil.rmtree(target)
    target = installed(tmp_path, CC="/nonexistent")
    assert (target / "proxy" / "app.py").exists()
    assert not (target / "proxy" / "gone.py").exists()


def test_an_installation_needs_no_compiler(tmp_path: Path) -> None:
    """Without one the kernel is missing, and another engine quantizes."""
    target = installed(tmp_path, CC="/nonexistent")
    engines = engines_of(target)
    assert "the kernel" not in engines
    quantizers = (("libggml", "ggml"), ("numpy", "numpy"))
    assert engines.startswith(next((name for module, name in quantizers if importlib.util.find_spec(module)), "none"))
    assert not (target / "proxy" / "gguf" / "kernel").exists()
    # A kernel that does not load, from a wheel for another platform, is ignored too.
    (target / "proxy" / "gguf" / f"_kernel{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert engines_of(target) == engines


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_with_a_compiler_the_kernel_is_used(tmp_path: Path) -> None:
    assert engines_of(installed(tmp_path)).startswith("the kernel of ollama-hf-proxy")
