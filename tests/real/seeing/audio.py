"""Models that hear."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

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


_VOXTRAL_TOKENS = 187
"""750 frames, which are averages of two, by four; two frames are left over."""


def _averaged(model: Any) -> None:
    """llama.cpp averages each two frames of the encoder, as for Qwen2-Audio."""
    torch = import_module("torch")
    encoder, connector = model.model.audio_tower, model.model.multi_modal_projector
    norm = encoder.layer_norm

    def features(input_features: Any, **_: Any) -> Any:
        encoder.layer_norm = torch.nn.Identity()
        frames = encoder(input_features).last_hidden_state
        encoder.layer_norm = norm
        frames = norm(encoder.avg_pooler(frames.permute(0, 2, 1)).permute(0, 2, 1))
        stacked = frames.flatten()[: _VOXTRAL_TOKENS * connector.linear_1.in_features].view(_VOXTRAL_TOKENS, -1)
        return SimpleNamespace(pooler_output=connector(stacked))

    model.model.get_audio_features = features


def _voxtral(view: View) -> Seen:
    tokens = [*view.encode("[BEGIN_AUDIO]"), *[view.config["audio_token_id"]] * _VOXTRAL_TOKENS]
    return Seen(tokens, {"input_features": view.spectrogram}, adapt=_averaged)


SEEN: Mapping[str, Callable[[View], Seen]] = {
    "Qwen2AudioForConditionalGeneration": _qwen2_audio,
    "VoxtralForConditionalGeneration": _voxtral,
}
