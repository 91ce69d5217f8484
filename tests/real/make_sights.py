"""Writes transformers' answers about pictures or sounds, for each tiny repository of a model that sees or hears.

`python -m tests.real.make_sights [NAME…]` writes sights.json. It needs what `make_logprobs.py` needs. The figures are
from transformers 5.24 with torch 2.15, in F32 with eager attention. A picture has the size of the model's own, so
that nothing is resized. Models that only hear get sounds.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.projecting import TOWERED
from tests.gguf.tiny_repositories.tokenizer import WORDS
from tests.kit.pictures import pictures, png
from tests.kit.sounds import sounds, wav
from tests.real.make_logprobs import greedy, shown, tokenizer_of
from tests.real.seeing import IN_TRANSFORMERS, SEEN, SIZES, UNSEEN
from tests.real.seeing.view import Medium, Seen, View

FIGURES = Path(__file__).with_name("sights.json")
STEPS = 8
PROMPTS = [[" ".join(WORDS[at : at + length]) for at in range(0, 40, 2)] for length in (4, 3, 5, 2)]
"""Of the first list in which one has a continuation after each picture, that with the longest is recorded."""


class Model:
    """A repository in transformers."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if transformers misses a weight."""
        transformers, self._torch = import_module("transformers"), import_module("torch")
        self.config = json.loads((folder / "config.json").read_bytes())
        self.images = json.loads((folder / "preprocessor_config.json").read_bytes())
        self.architecture = self.config["architectures"][0]
        model_class = getattr(transformers, self.architecture)
        self._model, loading = model_class.from_pretrained(
            folder, dtype=self._torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise ValueError(f"transformers did not find all weights of {folder.name}: {loading}")
        self._model.eval()
        self._tokenizer = tokenizer_of(folder)
        tokens = self._tokenizer.convert_ids_to_tokens(list(range(len(self._tokenizer))))
        added = {str(token) for token in self._tokenizer.added_tokens_decoder.values()}
        texts = shown(tokens, added | set(self._tokenizer.all_special_tokens))
        self._texts = [*texts, *[None] * 4096]
        # With the proxy's GGUF, a raw prompt begins with BOS if the chat template does.
        begins = self._tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        self._first = [self._tokenizer.bos_token_id] if begins.startswith(self._tokenizer.bos_token or "\0") else []

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def figures(self, medium: Medium, prompt: str) -> dict[str, Any]:
        seen = SEEN[self.architecture](View(self.config, self.images, self.encode, medium))
        seen.adapt(self._model)
        tokens = [*self._first, *seen.tokens, *self.encode(prompt)]
        return {"prompt": prompt, **greedy(tokens, partial(self._logits, seen), self._texts, STEPS)}

    def _logits(self, seen: Seen, tokens: list[int]) -> Any:
        inputs = {**seen.inputs, **seen.of_tokens(tokens)}
        with self._torch.no_grad():
            answer = self._model(input_ids=self._torch.tensor([tokens]), use_cache=False, **inputs)
        return answer.logits[0, -1].float()


def sights(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """By picture or sound: the figures of one prompt, the same for all of them."""
    architecture = json.loads(files["config.json"])["architectures"][0]
    files = IN_TRANSFORMERS.get(architecture, dict)(files)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).write_bytes(content)
        model = Model(Path(folder))
    shown = media(model.config)
    is_long = "vision_config" not in model.config or picture_size(model.config) > LARGE
    best: dict[str, dict[str, Any]] = {}
    for prompts in PROMPTS:
        for prompt in prompts:
            found = {name: model.figures(medium, prompt) for name, medium in shown.items()}
            best = max(best, found, key=_shortest)
            if best and is_long:
                return best
        if best:
            break
    return best


def _shortest(figures: Mapping[str, Mapping[str, Any]]) -> int:
    """The length of the shortest continuation."""
    return min((len(one["continuation"]) for one in figures.values()), default=0)


LARGE = 512
"""Pixels: with a larger picture, and with a sound, all prompts would take an hour, so the first that fits is taken."""
SECONDS = 2.0


def media(config: Mapping[str, Any]) -> Mapping[str, Medium]:
    """What a model is asked about."""
    seen = pictures(picture_size(config)) if "vision_config" in config else {}
    return {**seen, **(sounds(SECONDS) if "audio_config" in config else {})}


def encoded(medium: Medium) -> bytes:
    """A PNG of a picture, or a WAV of a sound."""
    return wav(medium) if medium.ndim == 1 else png(medium)


def picture_size(config: Mapping[str, Any]) -> int:
    """The height and width of a picture that needs no resizing, in pixels."""
    architecture = config["architectures"][0]
    size = SIZES[architecture] if architecture in SIZES else config["vision_config"]["image_size"]
    tiles = 2 if config["model_type"] in ("idefics3", "smolvlm") else 1
    return tiles * int(size[0] if isinstance(size, list) else size)


if __name__ == "__main__":
    recorded: dict[str, Any] = json.loads(FIGURES.read_bytes()) if FIGURES.exists() else {}
    for one in sys.argv[1:] or sorted(TOWERED.keys() - UNSEEN):
        recorded[one] = sights(TOWERED[one].files())
        print(one, {name: len(each["continuation"]) for name, each in recorded[one].items()}, flush=True)
    FIGURES.write_text(json.dumps(recorded, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
