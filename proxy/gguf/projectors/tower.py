"""`Tower`: everything that the converter knows about one encoder of images or of sounds and its connector. Pure.

A connector turns the encoder's vectors into vectors of the text model. llama.cpp loads both from a GGUF of their own, a
projector (`tools/mtmd/clip.cpp`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.families.rules import Rule
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, Writer, always, count
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown

VISION, AUDIO = "vision_config", "audio_config"
TEXTS = ("text_config", "llm_config")
"""The text model's object in config.json, where it has one."""


@dataclass(frozen=True, slots=True)
class Tower:
    """One declaration for each kind of tower.

    Its rules and writers read a `ModelConfig` with the keys of the tower's object in config.json. `text.KEY` is a key
    of the text model, `model.KEY` one of the outer level, and `images.KEY` one of preprocessor_config.json or
    processor_config.json.
    """

    kind: str
    """llama.cpp's name of the projector."""
    tensors: Mapping[str, Rule | str]
    """The rule for each tensor, by its name in the weights. `{}` stands for the number of a layer, other numbers are
    written out. A rule that is only a name is a Copy. A key without `.weight` or `.bias` is for both, and so is the
    name in its rule; a tensor whose name has no such end has its whole name here, and a rule with a whole name."""
    keys: tuple[Writer, ...]
    """They write GGUF keys without `clip.`."""
    section: str = VISION
    """The tower's object in config.json."""
    prefixes: tuple[str, ...] = ()
    """How the names of its tensors start, as in `tensors`. Of the others it takes only those that have a rule."""
    prefix_aliases: Mapping[str, str] = field(default_factory=dict)
    """How names start in some repositories, and how they start in `tensors`."""
    skipped_prefixes: tuple[str, ...] = ()
    """How names of tensors start that nothing needs."""
    optional_tensors: frozenset[str] = frozenset()
    """Names in the GGUF, with `{}` for a layer and without `.weight`, that a model may leave out."""
    absent_tensors: Callable[[ModelConfig], frozenset[str]] = lambda _: frozenset()
    """Those, named likewise, that a model with these settings has not."""
    without_bias: frozenset[str] = frozenset()
    """Names in the GGUF, with `{}` for a layer and without `.weight`, of which llama.cpp loads no bias."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """transformers' values for keys that config.json leaves out."""
    key_aliases: Mapping[str, str] = field(default_factory=dict)
    """Keys of the tower's object under which it has what everything here reads under the second name."""
    accepted_values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys for which llama.cpp always assumes one of these values; any other value is refused."""
    harmless_keys: frozenset[str] = frozenset()
    """Keys of the tower's object that do not change the result."""
    f32: tuple[str, ...] = ()
    """Names of GGUF tensors that llama.cpp's converter always writes in F32, beside vectors and positions."""
    f16: tuple[str, ...] = ()
    """Names of those that it always writes in F16."""
    shapes: Mapping[str, str] = field(default_factory=dict)
    """Shapes of GGUF tensors, where proxy/gguf/projectors/shapes.py has none or another one for the name. An empty one
    is not checked."""
    numbers: Mapping[str, Callable[[ModelConfig], tuple[int, ...]]] = field(default_factory=dict)
    """By a name in `tensors` with `{}`: the numbers in the GGUF for 0, 1, 2 and so on in the weights, where those are
    not the layers of the tower."""
    output_version: int = 1
    """Increase it when the converter makes another projector of the same repository: the next pull of an installed
    model then makes it again."""
    caveat: Callable[[ModelConfig], str | None] = lambda _: None
    """A warning for the user if llama.cpp's result differs from that of the authors' model."""

    @property
    def ability(self) -> str:
        """What the model can do with it: `see` or `hear`."""
        return "hear" if self.section == AUDIO else "see"

    def config(self, fields: Mapping[str, Any], images: Mapping[str, Any]) -> ModelConfig:
        """`fields` are config.json's, `images` those of the preprocessor. Raises CannotConvert without a section."""
        own = fields.get(self.section)
        if not isinstance(own, dict):
            raise CannotConvert(f"config.json has no {self.section}")
        within: Mapping[str, Any] = next((fields[key] for key in TEXTS if isinstance(fields.get(key), dict)), {})
        return ModelConfig(
            {
                **self.defaults,
                **{self.key_aliases.get(key, key): value for key, value in own.items()},
                **{f"text.{key}": value for key, value in {**fields, **within}.items()},
                **{f"model.{key}": value for key, value in fields.items()},
                **{f"images.{key}": value for key, value in images.items()},
            }
        )


def _normalization(config: ModelConfig) -> Pairs:
    for key in ("image_mean", "image_std"):
        values = config.find(f"images.{key}")
        if values is None:
            raise CannotConvert(f"neither preprocessor_config.json nor processor_config.json has {key}")
        if not isinstance(values, list) or len(values) != 3:  # noqa: PLR2004 - red, green and blue
            raise CannotConvert(f"preprocessor_config.json has {key} = {shown(values)}, which are not three numbers")
        numbers = [finite(f"preprocessor_config.json has {key} with", value) for value in values]
        yield f"vision.{key}", Field.array(ValueType.FLOAT32, numbers)


IMAGE_SIZE: Writer = count("vision.image_size", "image_size", required=True)
PATCH_SIZE: Writer = count("vision.patch_size", "patch_size", required=True)


def vision_keys(image_size: Writer = IMAGE_SIZE, patch_size: Writer = PATCH_SIZE) -> tuple[Writer, ...]:
    """What llama.cpp's converter writes for every encoder of images (MmprojModel.set_gguf_parameters of b11434)."""
    return (
        always("has_vision_encoder", Field.boolean(True)),
        count("vision.projection_dim", "text.hidden_size", required=True),
        image_size,
        patch_size,
        count("vision.embedding_length", "hidden_size", required=True),
        count("vision.feed_forward_length", "intermediate_size", required=True),
        count("vision.block_count", "num_hidden_layers", required=True),
        count("vision.attention.head_count", "num_attention_heads", required=True),
        _normalization,
    )


VISION_KEYS = vision_keys()
AUDIO_KEYS: tuple[Writer, ...] = (
    always("has_audio_encoder", Field.boolean(True)),
    count("audio.projection_dim", "text.hidden_size", required=True),
    count("audio.embedding_length", "hidden_size", required=True),
    count("audio.feed_forward_length", "intermediate_size", required=True),
    count("audio.block_count", "num_hidden_layers", required=True),
    count("audio.attention.head_count", "num_attention_heads", required=True),
    count("audio.num_mel_bins", "num_mel_bins", required=True),
)
"""The same for every encoder of sounds that hears a mel spectrogram."""
USE_GELU: Writer = always("use_gelu", Field.boolean(True))
USE_SILU: Writer = always("use_silu", Field.boolean(True))


def projector_type(kind: str, section: str = "") -> Writer:
    """`section` is `vision.` or `audio.` where a model may have both."""
    return always(f"{section}projector_type", Field.string(kind))
