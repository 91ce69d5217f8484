"""The engines under test: numpy's, and ggml's if its library is installed."""

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from proxy.gguf import engine_ggml
from proxy.gguf.engine import Engine
from proxy.gguf.engine_numpy import NumpyEngine
from proxy.gguf.tensors import BLOCKS, TensorType
from tests.kit.dtypes import Floats

NUMPY = NumpyEngine()
GGML = engine_ggml.load()
ENGINES: list[Engine] = [NUMPY] if GGML is None else [NUMPY, GGML]

every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name).split()[0])
needs_ggml = pytest.mark.skipif(GGML is None, reason="libggml-python is not installed")


def reference(numbers: Floats, kind: TensorType) -> bytes:
    """Quantize with the `gguf` package. It needs numbers whose scales have a reciprocal."""
    if kind is TensorType.F32:
        return numbers.tobytes()
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(numbers.reshape(-1, BLOCKS[kind][0]), GGMLQuantizationType(kind)).tobytes()
