"""How fast weights that are stored quantized become F32, for each scheme, against BF16 that becomes F32.

Run it as `python tests/benchmark/unpack.py [NAME …]`; names are those of the tiny repositories. Each matrix has 4096 by
4096 random numbers, and is read as in a pull, in slices. The columns are MB of the source, and MB of F32, for a second
of processor time of one thread, and the time for each number as a multiple of BF16's.
"""

import sys
import time
from collections import deque
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from proxy.allocator import tune
from proxy.gguf.engine import engine_for
from proxy.gguf.packing.schemes import find_packed
from proxy.gguf.tensor_sources import SourceRange
from proxy.gguf.tensors import TensorType
from proxy.gguf.transforms import Transform
from proxy.transfer.assembly import SLICE
from tests.gguf.packing.rows import located
from tests.gguf.tiny_repositories.packed import Codes, Packed
from tests.gguf.tiny_repositories.schemes import PACKED

SHAPE = (4096, 4096)
ROUNDS = 5


def calls(content: bytes, one: SourceRange) -> list[bytes]:
    """What the transform of a range gets, call by call."""
    assert one.transform is not None
    size, total = max(SLICE // one.transform.block, 1) * one.transform.block, one.stop - one.start
    parts = []
    for start in range(0, total, size):
        stop = min(start + size, total)
        beside = [
            content[other.start : other.stop]
            if other.is_whole
            else content[other.start : other.stop][
                (other.stop - other.start) * start // total : (other.stop - other.start) * stop // total
            ]
            for other in one.beside
        ]
        parts.append(b"".join((*beside, content[one.start + start : one.start + stop])))
    return parts


def seconds(transform: Transform, contents: list[bytes]) -> float:
    began = time.thread_time()
    for content in contents:
        if transform.portions is None:
            transform.change(content)
        else:
            deque(transform.portions(content), maxlen=0)
    return time.thread_time() - began


def of_bf16() -> float:
    """The least seconds for a number."""
    engine = engine_for(TensorType.F32)
    assert engine is not None
    content = bytes(range(256)) * (SLICE // 256)
    times = []
    for _ in range(ROUNDS * 20):
        began = time.thread_time()
        engine.quantize(TensorType.F32, "BF16", content)
        times.append(time.thread_time() - began)
    return min(times) / (SLICE / 2)


def measure(repository: Packed) -> tuple[float, float]:
    """The least seconds for the matrix, and the bytes of its source."""
    weights, content = located(dict(repository.pack(Codes(), "model.layers.0.mlp.up_proj.weight", SHAPE)))
    [found] = find_packed(weights, repository.quantization_config)
    ranges = list(found.tensor.unpack(SourceRange("x", found.tensor.start, found.tensor.stop)))
    work = [(one.transform, calls(content, one)) for one in ranges if one.transform]
    size = sum(tensor.size for tensor in weights.values())
    return min(sum(seconds(*each) for each in work) for _ in range(ROUNDS)), size


def main() -> None:
    tune()
    for name in sys.argv[1:] or PACKED:
        bf16 = of_bf16()
        taken, size = measure(PACKED[name])
        made = 4 * prod(SHAPE) / taken / 1e6
        print(f"{name:24} {size / taken / 1e6:5.0f} {made:5.0f} {taken / prod(SHAPE) / bf16:5.2f}", flush=True)


if __name__ == "__main__":
    main()
