"""Models that hear."""

from collections.abc import Callable, Mapping
from importlib import import_module

from tests.real.seeing.view import Seen, View


def _qwen2_audio(view: View) -> Seen:
    """llama.cpp lets the encoder attend to the silence after a sound, so the mask covers all 30 seconds."""
    spectrogram = view.spectrogram
    tokens = [view.config["audio_token_index"]] * (spectrogram.shape[-1] // 4)
    mask = import_module("torch").ones((1, spectrogram.shape[-1]), dtype=int)
    return Seen(
        [*view.encode("<|audio_bos|>"), *tokens, *view.encode("<|audio_eos|>")],
        {"input_features": spectrogram, "feature_attention_mask": mask},
    )


SEEN: Mapping[str, Callable[[View], Seen]] = {"Qwen2AudioForConditionalGeneration": _qwen2_audio}
