"""Writes logprobs.json: what transformers answers to raw prompts with the tiny repositories that chat.

`python -m tests.real.make_logprobs [NAME…]` needs torch, transformers, accelerate and sentencepiece, which this project
does not depend on; the figures are those of transformers 5.24 with torch 2.15, in F32 with eager attention.
"""

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_characters
from tests.gguf.tiny_repositories.repository import HEAD, HIDDEN, LAYERS
from tests.gguf.tiny_repositories.tokenizer import SPACE, WORDS, dump

FIGURES = Path(__file__).with_name("logprobs.json")
REMOTE_CODE = "transformers has no class for it: its repositories bring their own code"
WITHOUT_LOGPROBS: Mapping[str, str] = dict.fromkeys(("bailingmoe2", "deepseek", "internlm2"), REMOTE_CODE)
"""Repositories that chat and are not in the file, with the reason."""
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
READ_AS: Mapping[str, Mapping[str, Any]] = {
    # transformers 5 does not read the `rope_theta` of transformers 4 for layers with a window.
    "olmo3": {"rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}},
    # transformers has no class for MiniCPM, and Granite's calculates the same with the factors under these names.
    "minicpm": {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "residual_multiplier": 1.4 / LAYERS**0.5,
        "logits_scaling": HIDDEN / 128,
        "attention_multiplier": HEAD**-0.5,
    },
}
"""What config.json has to say for transformers to calculate what the repository's own code does."""
STEPS = 24
CANDIDATES = 5
DIGITS = 5
TOLERANCE = 0.02
"""Of a logarithm to the base e."""
FLATNESS = 40
"""A 40th of the logits' standard deviation is the tolerance where that is less: flat logits differ little."""
PROMPTS = (
    [f"{word} Water,\n\nand fire  {at}" for at, word in enumerate(WORDS[:12], 8)],
    [" ".join(WORDS[at : at + 3]) for at in range(0, 36, 2)],
    [" ".join([*WORDS[at:], *WORDS[:at]]) for at in range(0, 36, 4)],
)
"""Of each kind, the prompt with the longest continuation counts."""


@dataclass(frozen=True)
class Oracle:
    """One repository in transformers."""

    logits: Callable[[list[int]], Any]
    """Of the token after these."""
    encode: Callable[[str], list[int]]
    texts: list[str | None]
    """By a token's number; None where a server does not show it by itself: half of a character, or a special token."""

    def figures(self, prompt: str) -> dict[str, Any]:
        """`tokens` is the prompt's number of tokens; `first` has the likeliest tokens after it and their logprobs.

        `tolerance` is the limit of a difference from these. `continuation` has greedy tokens, `STEPS` at most, and
        ends early where the next one is not shown by itself, or where two are as likely within the tolerance.
        """
        torch = import_module("torch")
        tokens = self.encode(prompt)
        first: list[tuple[str | None, float]] = []
        continuation: list[str] = []
        count, tolerance = len(tokens), 0.0
        while len(continuation) < STEPS:
            logprobs = torch.log_softmax(self.logits(tokens), -1)
            values, numbers = (each.tolist() for each in torch.topk(logprobs, CANDIDATES))
            if not first:
                tolerance = min(TOLERANCE, logprobs.std().item() / FLATNESS)
                first = [(self.texts[at], round(value, DIGITS)) for at, value in zip(numbers, values, strict=True)]
            text = self.texts[numbers[0]]
            if text is None or values[0] - values[1] < tolerance:
                break
            continuation.append(text)
            tokens.append(numbers[0])
        return {
            "prompt": prompt,
            "tokens": count,
            "tolerance": round(tolerance, DIGITS),
            "first": first,
            "continuation": continuation,
        }


def text_alone(name: str) -> Mapping[str, bytes]:
    """The repository as transformers writes a model of text; what sees becomes a tensor that it ignores."""
    tiny = REPOSITORIES[name]
    files = tiny.files()
    if tiny.part_of is None:
        config = {**json.loads(files["config.json"]), **READ_AS.get(name, {})}
        return {**files, "config.json": dump(config)}
    whole = json.loads(files["config.json"])
    config = {**whole, **whole["text_config"]}
    for key in ("architectures", "text_config", "vision_config"):
        del config[key]
    text, _ = tiny.prefixes
    content = files["model.safetensors"]
    size = struct.unpack("<Q", content[:8])[0]
    header = {
        name.replace(text, "model.", 1).removeprefix("language_model."): entry
        for name, entry in json.loads(content[8 : 8 + size]).items()
    }
    renamed = json.dumps(header).encode()
    weights = struct.pack("<Q", len(renamed)) + renamed + content[8 + size :]
    return {**files, "config.json": dump(config), "model.safetensors": weights}


def shown(tokens: list[str | None], special: set[str]) -> list[str | None]:
    """What a server shows of each token by itself; a number without a token is None."""
    pieces = "<0x0A>" in tokens
    bytes_of = {character: bytes([at]) for at, character in enumerate(byte_characters())}

    def text(token: str | None) -> str | None:
        # A server keeps "<" and "[" until it knows that no special token or end of the answer begins with them.
        if token is None or token in special or "<" in token or "[" in token:
            return None
        if pieces:
            return token.replace(SPACE, " ")
        try:
            whole = b"".join(bytes_of[character] for character in token).decode()
        except (KeyError, UnicodeDecodeError):
            return None
        return None if "\0" in whole else whole

    return [text(token) for token in tokens]


def oracle(folder: Path) -> Oracle:
    """The repository in a folder as transformers loads it, which has to find all of its weights."""
    torch, transformers = import_module("torch"), import_module("transformers")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(f"transformers does not load {folder.name} whole: {loading}")
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(tokens: list[int]) -> Any:
        with torch.no_grad():
            return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].float()

    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    rows: list[str | None] = [None] * model.config.vocab_size
    texts = shown(tokens, added | set(tokenizer.all_special_tokens))
    rows[: len(texts)] = texts
    begins = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    # The proxy has a raw prompt begin as the chat template does.
    first = [tokenizer.bos_token_id] if begins.startswith(tokenizer.bos_token or "\0") else []

    def encode(prompt: str) -> list[int]:
        tokens = list(tokenizer(prompt).input_ids)
        plain = list(tokenizer(prompt, add_special_tokens=False).input_ids)
        start = next(at for at in range(len(tokens)) if tokens[at : at + len(plain)] == plain)
        return [*first, *tokens[start:]]

    return Oracle(logits, encode, rows)


def longest(oracle: Oracle, prompts: Iterable[str]) -> dict[str, Any]:
    """The figures of the prompt whose continuation can be compared over most tokens."""
    best: dict[str, Any] = {"continuation": []}
    for prompt in prompts:
        figures = oracle.figures(prompt)
        best = max(best, figures, key=lambda each: len(each["continuation"]))
        if len(best["continuation"]) == STEPS:
            break
    if not best["continuation"]:
        raise ValueError("no prompt has a continuation that can be compared")
    return best


def figures(name: str) -> list[dict[str, Any]]:
    """Of three prompts for the repository of this name."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in text_alone(name).items():
            (Path(folder) / path).write_bytes(content)
        asked = oracle(Path(folder))
    return [longest(asked, prompts) for prompts in PROMPTS]


def main() -> None:
    import_module("torch").set_num_threads(1)
    recorded: dict[str, Any] = json.loads(FIGURES.read_bytes()) if sys.argv[1:] else {}
    chat = [name for name, tiny in REPOSITORIES.items() if not tiny.pooling and name not in WITHOUT_LOGPROBS]
    for name in sys.argv[1:] or chat:
        recorded[name] = figures(name)
        print(name, [len(one["continuation"]) for one in recorded[name]], flush=True)
    lines = [
        f"{json.dumps(name)}: [\n" + ",\n".join(f" {json.dumps(one)}" for one in recorded[name]) + "\n]"
        for name in sorted(recorded)
    ]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
