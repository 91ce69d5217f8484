"""A tiny vocabulary in PLaMo's own form."""

import json

from tests.gguf.tiny_repositories.tokenizer import WORDS, Tokenizer, dump

FILE = "tokenizer.jsonl"
SPECIALS = [f"<|plamo:{name}|>" for name in ("unk", "bos", "eos", "pad", "op")]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|plamo:op|>' + message['role'] + '\n' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|plamo:op|>assistant\n' }}{% endif %}"
)


def plamo_tokens(padded: int = 0) -> Tokenizer:
    """Special tokens, characters and words, then the bytes; scores as of a text's likelihood.

    The weights have `padded` rows without a token.
    """
    characters = sorted({*"".join(WORDS), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,!?:'\n\u3042\u6c34"})
    words = sorted({f" {word}" for word in WORDS} | {word for word in WORDS if len(word) > 1} | {"\n\n", "    "})
    rows: list[list[object]] = [[text, 0, "CONTROL" if at else "UNKNOWN"] for at, text in enumerate(SPECIALS)]
    rows.append(["<|plamo:reserved:0x1|>", 0, "NORMAL"])
    rows += [[text, round(-9.0173 - 0.0417 * at, 4), "NORMAL"] for at, text in enumerate(characters)]
    rows += [[text, round(-11.0033 - 0.0211 * at, 4), "NORMAL"] for at, text in enumerate(words)]
    rows += [[f"<0x{byte:02X}>", 0, "BYTE"] for byte in range(256)]
    lines = [json.dumps([*row, 1, 0, 0, 0], ensure_ascii=False) + "\n" for row in rows]
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        **{f"{name}_token": f"<|plamo:{name}|>" for name in ("unk", "bos", "eos", "pad")},
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "Plamo2Tokenizer",
    }
    files = {FILE: "".join(lines).encode(), "tokenizer_config.json": dump(config)}
    return Tokenizer(files, len(rows) + padded, {"bos": 1, "eos": 2})
