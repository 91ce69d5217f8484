"""Which engine makes which type, with and without the kernel, ggml's library and numpy."""

import logging
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from proxy.gguf import engine as engine_module
from proxy.gguf import engine_ggml
from proxy.gguf.cast import NoEngine
from proxy.gguf.engine import Engine, engine_for, engine_names, engines
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import TensorType
from tests.gguf.make_quantized import FIGURES
from tests.gguf.writing import plan, write
from tests.kit.dtypes import to_floats
from tests.kit.engines import NUMPY, needs_ggml
from tests.kit.tiny_conversions import converted, repository, tensors_of


class WrongEngine:
    """Makes wrong blocks of Q8_0."""

    name = "a wrong one"
    types = frozenset({TensorType.F16, TensorType.Q8_0})

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        blocks = NUMPY.quantize(kind, dtype, content)
        return blocks if kind is TensorType.F16 else blocks[:-1] + bytes([blocks[-1] ^ 1])


@pytest.fixture
def new_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The engines are chosen again in the test, and again after it."""
    engines.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    engines.cache_clear()


def use_only(monkeypatch: pytest.MonkeyPatch, *, kernel: Engine | None = None, numpy: Engine | None = None) -> None:
    """The machine has only these engines."""
    monkeypatch.setattr(engine_module, "_kernel", lambda: kernel)
    monkeypatch.setattr(engine_module, "_numpy", lambda: numpy)
    monkeypatch.setattr(engine_ggml, "load", lambda: None)


def test_each_type_uses_its_first_engine() -> None:
    for kind in TensorType:
        makers = [engine for engine in engines() if kind in engine.types]
        assert engine_for(kind) is (makers[0] if makers else None)
    assert engine_names() == ", ".join(engine.name for engine in engines())


@needs_ggml
def test_with_ggml_every_quantization_is_made(new_engines: pytest.MonkeyPatch) -> None:
    new_engines.setattr(engine_module, "_kernel", lambda: None)
    assert engines()[0].types == engine_ggml.TYPES
    assert all(engine_for(file_type.default) for file_type in FILE_TYPES.values())


def test_an_engine_with_a_wrong_block_is_not_used_for_it(
    new_engines: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_only(new_engines, kernel=WrongEngine(), numpy=NUMPY)
    with caplog.at_level(logging.WARNING):
        q8_0_engine, f16_engine = engine_for(TensorType.Q8_0), engine_for(TensorType.F16)
    assert q8_0_engine is not None
    assert q8_0_engine.name == NUMPY.name
    assert f16_engine is not None
    assert f16_engine.name == WrongEngine.name
    [record] = caplog.records
    assert "a wrong one makes other bits than llama-quantize for Q8_0" in record.getMessage()


def test_an_engine_with_only_wrong_blocks_is_left_out(new_engines: pytest.MonkeyPatch) -> None:
    wrong = WrongEngine()
    wrong.types = frozenset({TensorType.Q8_0})
    use_only(new_engines, kernel=wrong)
    assert (engines(), engine_names()) == ((), "none")


def test_without_the_library_numpy_makes_four_types(new_engines: pytest.MonkeyPatch) -> None:
    use_only(new_engines, numpy=NUMPY)
    assert {kind for kind in TensorType if engine_for(kind)} == NUMPY.types
    assert engine_names() == NUMPY.name
    with pytest.raises(NoEngine, match=rf"^nothing on this machine makes Q4_K \(engines: numpy {np.__version__}\)$"):
        plan(repository("llama"), quantization="Q4_K_M")


def test_without_engines_only_f32_and_copies_are_made(new_engines: pytest.MonkeyPatch) -> None:
    use_only(new_engines)
    for quantization, kind in (("Q8_0", "Q8_0"), ("F16", "F16"), ("IQ4_XS", "IQ4_XS")):
        with pytest.raises(NoEngine, match=rf"^nothing on this machine makes {kind} \(engines: none\)$"):
            plan(repository("llama"), quantization=quantization)
    assert write(plan(repository("llama"), quantization="BF16"), repository("llama"))
    sources = tensors_of(converted("llama"))
    content = write(plan(repository("llama"), quantization="F32"), repository("llama"))
    for name, (tensor, data) in tensors_of(content).items():
        source, numbers = sources[name]
        assert tensor.type == TensorType.F32
        assert data == to_floats(TensorType(source.type).name, numbers).tobytes()


def test_without_numpy_and_ggml_there_is_no_engine() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from importlib.util import find_spec\n"
        "from proxy.gguf import engine, engine_ggml\n"
        "engine_ggml._libraries = lambda: iter(())\n"
        "engine._kernel = lambda: None\n"
        "engine.importlib.util.find_spec = lambda name: None if name == 'numpy' else find_spec(name)\n"
        "print(engine.engine_names())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"none"


def test_a_broken_library_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_ggml, "_libraries", lambda: iter([FIGURES]))
    assert engine_ggml.load() is None


def test_numpy_is_imported_only_when_needed() -> None:
    code = "import sys, proxy.gguf.conversion, proxy.planning.conversion_plan; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"
