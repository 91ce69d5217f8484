"""What a model has beside its weights: template, system text, parameters, license. Pure.

Ollama can guess a template, but the proxy does not rely on it: of 157 real templates it recognises 22 correctly, and
gives no warning about the others.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.parameters import parameters
from proxy.chat.preference import needs_go
from proxy.config.sections import ModelSettings
from proxy.errors import Refusal
from proxy.gguf.header import Field, GgufHeader, ValueType
from proxy.gguf.sentencepiece import PieceType
from proxy.planning.capabilities import NEVER, Capabilities, Version
from proxy.planning.card import read_card
from proxy.planning.chat_templates import find_gguf_template, find_template
from proxy.planning.json_files import UPLOAD_AGAIN, json_object
from proxy.planning.plan import PlanRequest
from proxy.planning.weights import CONFIG, TOKENIZER_CONFIG, token_text
from proxy.sources.base import RepositoryFile

GENERATION_CONFIG = "generation_config.json"
README = "README.md"
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
OWN_FILES = ("template", "system", "params")
"""Files for Ollama in a repository: a Go template, a text, a JSON object. The Hub's registry reads them too."""
READ = (*OWN_FILES, *LICENSES, README)
MAX_BYTES = 1024 * 1024
PLAIN = "{{ .Prompt }}"
"""The template of a model without a chat template: it continues the prompt."""
ADDED_TYPES = (PieceType.CONTROL, PieceType.USER_DEFINED)
GGUF_SAMPLING: Mapping[str, str] = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typ_p": "typical_p",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repetition_penalty",
    "penalty_present": "presence_penalty",
    "penalty_freq": "frequency_penalty",
}
"""GGUF key after `general.sampling.` → the key of generation_config.json with this meaning.

Ollama reads these GGUF keys from 0.33.3 on, and its parameters win over them (types/model/generation.go).
"""
# From these versions on Ollama renders the conversations of these architectures itself (server/create.go). It does so
# for Laguna too, but always as for the first model (XS.2): without an entry here it uses the model's own Jinja.
RENDERED: Mapping[str, Version] = {
    "Gemma4ForCausalLM": Version(0, 20, 0),
    "Gemma4ForConditionalGeneration": Version(0, 20, 0),
    "NemotronHForCausalLM": Version(0, 22, 0),
    "NemotronH_Nano_VL_V2": Version(0, 22, 0),
    "NemotronH_Nano_Omni_Reasoning_V3": Version(0, 22, 0),
}
# Ollama replaces a template by one of its own that differs from it by fewer than 100 characters (template/template.go:
# Named). With this comment every template differs by more: tests/planning/test_opening.py. The line break after a
# comment is not rendered. Without it, the spaces that the first line begins with would be.
OPENING = (
    "{# The authors of this model wrote the chat template below. ollama-hf-proxy put only this comment before it, so "
    "that Ollama does not take it for one of its own templates. #}\n"
)


@dataclass(frozen=True, slots=True)
class ChatMetadata:
    """What a repository provides for conversations."""

    jinja: str | None
    """The authors' chat template."""
    source: str
    """The file that has the Jinja, `gguf`, or `none`."""
    facts: TokenizerFacts
    generation: Mapping[str, Any]
    """generation_config.json, or the sampling values of a GGUF under its keys."""
    unchosen: tuple[str, ...] = ()
    """The names of its chat templates, if there are several and none of them is the default."""
    embeds: bool = False
    """Whether it is an embedding model."""
    adds_bos: bool | None = None
    """Whether the tokenizer begins a plain text with BOS; None if unknown."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What the new model gets beside its weights."""

    settings: ModelSettings
    source: str
    """The origin of the template: `config`, `template` (the repository's file), `ollama`, `gguf`, `none`, or a file."""
    exact: bool | None
    """Whether the template renders as the Jinja does; None if that was not compared."""
    jinja: str | None = None
    """The chat template to write into the GGUF."""
    adds_bos: bool | None = None
    """`add_bos_token` to write into the GGUF; None: as the tokenizer."""
    warnings: tuple[str, ...] = ()


def files_to_read(files: Iterable[RepositoryFile]) -> list[RepositoryFile]:
    """The small files in the top folder that the Modelfile is made from, beside those of the tokenizer.

    The model card is one of them if there is no license file.
    """
    by_path = {file.path: file for file in files if file.path in READ and 0 < file.size <= MAX_BYTES}
    license_file = next((path for path in (*LICENSES, README) if path in by_path), None)
    needed = {*OWN_FILES, license_file}
    return [file for path, file in by_path.items() if path in needed]


def chat_metadata_of_files(repository: str, contents: Mapping[str, bytes], tokens: Mapping[int, str]) -> ChatMetadata:
    """From the small files of a safetensors repository; `tokens` are the added tokens. Raises Refusal."""
    json_files = {
        path: json_object(f"{repository}/{path}", contents[path]) if path in contents else {}
        for path in (CONFIG, TOKENIZER_CONFIG, GENERATION_CONFIG)
    }
    config = json_files[TOKENIZER_CONFIG]
    template = find_template(repository, contents, config)
    ends = [token_text(config.get("eos_token"))]
    for fields in (json_files[GENERATION_CONFIG], json_files[CONFIG]):
        ids = fields.get("eos_token_id")
        ends += [tokens.get(number, "") for number in (ids if isinstance(ids, list) else [ids]) if type(number) is int]
    facts = TokenizerFacts(
        bos=token_text(config.get("bos_token")),
        eos=tuple(dict.fromkeys(filter(None, ends))),
        unk=token_text(config.get("unk_token")),
        pad=token_text(config.get("pad_token")),
        added=tuple(tokens.values()),
        adds_bos=bool(config.get("add_bos_token")),
    )
    return ChatMetadata(template.jinja, template.source, facts, json_files[GENERATION_CONFIG], template.unchosen)


def chat_metadata_of_gguf(header: GgufHeader) -> ChatMetadata:
    """From the metadata of a GGUF. Raises GgufError for a value of the wrong type."""
    tokens = header.get("tokenizer.ggml.tokens", list) or []

    def token(name: str) -> str:
        number = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        value = number.value if number else None
        return str(tokens[value]) if isinstance(value, int) and 0 <= value < len(tokens) else ""

    token_types = header.get("tokenizer.ggml.token_type", list) or []
    facts = TokenizerFacts(
        bos=token("bos"),
        eos=tuple(dict.fromkeys(filter(None, (token("eos"), token("eot"))))),
        unk=token("unknown"),
        pad=token("padding"),
        added=tuple(str(text) for text, one in zip(tokens, token_types, strict=False) if one in ADDED_TYPES),
        # Without this key Ollama's engines begin each text with BOS.
        adds_bos=header.get("tokenizer.ggml.add_bos_token", bool) is not False,
    )
    template = find_gguf_template(header)
    embeds = f"{header.architecture}.pooling_type" in header.metadata
    sampling = _gguf_sampling(header)
    return ChatMetadata(template.jinja, template.source, facts, sampling, template.unchosen, embeds, facts.adds_bos)


def _gguf_sampling(header: GgufHeader) -> dict[str, Any]:
    fields = ((key, header.metadata.get(f"general.sampling.{name}")) for name, key in GGUF_SAMPLING.items())
    return {key: _shortest(field) for key, field in fields if field is not None}


def _shortest(field: Field) -> Any:
    """The value; of a float32 the shortest decimal, such as 0.95 for 0.949999988079071."""
    return float(f"{field.value:.7g}") if field.kind is ValueType.FLOAT32 else field.value


def choose_modelfile(
    request: PlanRequest,
    architecture: str,
    metadata: ChatMetadata,
    chat: ChatTemplate | None,
    contents: Mapping[str, bytes],
) -> Modelfile:
    """Chooses each setting: the user's, else the repository's for Ollama, else the authors'.

    `chat` is the Jinja as proxy.chat has tried it out. Raises Refusal for files of the repository that cannot be read.
    """
    # `template` already holds the text of the template file.
    settings = replace(request.settings, template_file=None)
    if metadata.embeds:
        jinja = metadata.jinja if metadata.source != "gguf" else None
        return Modelfile(_with_license(settings, contents), "none", None, jinja)
    own = _own_files(request.repository.id, contents)
    defaults = {**parameters(metadata.generation, metadata.facts, chat.stops if chat else ()), **own.parameters}
    settings = replace(
        settings,
        system=settings.system if settings.system is not None else own.system,
        parameters=defaults | settings.parameters,
    )
    settings = _with_license(settings, contents)
    writes_bos = False
    if settings.template is not None:
        modelfile = Modelfile(settings, "config", True)
    elif own.template is not None:
        modelfile = Modelfile(replace(settings, template=own.template), "template", None)
    elif request.capabilities.version >= RENDERED.get(architecture, NEVER):
        modelfile = Modelfile(settings, "ollama", None)
    else:
        modelfile = _from_jinja(metadata, chat, settings, request.capabilities)
        # Of all templates only the converted Jinja contains BOS.
        writes_bos = True
    if metadata.jinja is None or metadata.source == "gguf":
        return modelfile
    opening = OPENING if request.capabilities.runs_llama_server else ""
    # llama-server does not load a model with a Jinja that it refuses.
    jinja = opening + metadata.jinja if chat is None or chat.loads else None
    return dataclasses.replace(modelfile, jinja=jinja, adds_bos=_adds_bos(metadata, chat, writes_bos=writes_bos))


def _adds_bos(metadata: ChatMetadata, chat: ChatTemplate | None, *, writes_bos: bool) -> bool | None:
    """Whether the model begins each text with BOS: as the template's conversations do, if that is known.

    `writes_bos`: if the tokenizer does not add BOS, the rendered conversation contains it.
    """
    if chat is None or not chat.shapes or not (metadata.facts.bos or chat.emits_bos or metadata.adds_bos):
        return None
    return chat.emits_bos and not (writes_bos and metadata.adds_bos is False)


def _from_jinja(
    metadata: ChatMetadata,
    chat: ChatTemplate | None,
    settings: ModelSettings,
    capabilities: Capabilities,
) -> Modelfile:
    source, uses_jinja = metadata.source, capabilities.runs_llama_server
    if chat is None:
        named = ", ".join(metadata.unchosen)
        missing = f"none of its chat templates ({named}) is the default" if named else "it has no chat template"
        warning = f"{missing}: it continues texts; set template in [models] where it can chat"
        return Modelfile(replace(settings, template=PLAIN), "none", None, warnings=(warning,))
    if uses_jinja and source != "gguf" and chat.native and not needs_go(metadata.jinja or "", chat):
        # From 0.30 on llama-server renders the Jinja itself, if the model has no Go template. If the model adds BOS,
        # llama-server removes the BOS that the Jinja writes; otherwise it keeps it (b10488).
        differing = _differing(chat.native)
        differs = _differs(source, "cannot be rendered exactly by llama-server", differing)
        return Modelfile(settings, source, not differing, warnings=(*differs, *_without_bos(metadata, chat)))
    if chat.template:
        differing = _differing(chat.shapes)
        differs = _differs(source, "cannot be written exactly for Ollama", differing)
        trims = f"the chat template of {source} removes spaces at the ends of messages, and Ollama does not"
        bos = metadata.facts.bos if chat.emits_bos and metadata.adds_bos is False else ""
        warnings = (*differs, *((trims,) if chat.trims else ()), *_without_bos(metadata, chat))
        return Modelfile(replace(settings, template=bos + chat.template), source, not differing, warnings=warnings)
    reason = chat.warnings[0] if chat.warnings else "it cannot be written for Ollama"
    if uses_jinja and chat.loads:
        warning = f"the chat template of {source} could not be checked: {reason}"
        return Modelfile(settings, source, False, warnings=(warning,))
    warning = f"the chat template of {source} is not used: {reason}; set template in [models]"
    return Modelfile(replace(settings, template=PLAIN), "none", False, warnings=(warning,))


def _without_bos(metadata: ChatMetadata, chat: ChatTemplate) -> tuple[str, ...]:
    """A warning if the tokenizer adds BOS and the conversations have none: a model adds BOS to all texts or to none."""
    if metadata.source == "gguf" or not metadata.adds_bos or chat.emits_bos or not metadata.facts.bos:
        return ()
    return (f"a text without the chat template begins without {metadata.facts.bos}, which this tokenizer would add",)


def _differing(matches: Mapping[str, bool]) -> list[str]:
    # Ollama's users do not write a system message in mid-conversation.
    return [kind for kind, is_same in matches.items() if not is_same and kind != "late system"]


def _differs(source: str, problem: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """A warning that names the kinds of conversation that differ, if there are any."""
    if not kinds:
        return ()
    which = f"these differ: {', '.join(kinds)}"
    return (f"the chat template of {source} {problem}: {which}; set template in [models] if the answers suffer",)


@dataclass(frozen=True, slots=True)
class _OwnFiles:
    template: str | None
    system: str | None
    parameters: Mapping[str, Any]


def _own_files(repository: str, contents: Mapping[str, bytes]) -> _OwnFiles:
    texts: dict[str, str] = {}
    for path in OWN_FILES:
        if path in contents:
            try:
                texts[path] = contents[path].decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise Refusal(f"{repository}/{path} is not UTF-8 text; {UPLOAD_AGAIN}") from error
    params = json_object(f"{repository}/params", contents["params"]) if "params" in contents else {}
    if "stop" in params:
        # Ollama accepts a bare string at create, and then fails at every chat.
        stop = params.pop("stop")
        if isinstance(stop, str | list):
            params["stop"] = [stop] if isinstance(stop, str) else [text for text in stop if isinstance(text, str)]
    return _OwnFiles(texts.get("template"), texts.get("system"), params)


def _with_license(settings: ModelSettings, contents: Mapping[str, bytes]) -> ModelSettings:
    if settings.license is not None:
        return settings
    for path in LICENSES:
        if contents.get(path):
            return replace(settings, license=contents[path].decode(errors="replace"))
    in_card = read_card(contents.get(README, b"")).get("license")
    first = next(iter(in_card), None) if isinstance(in_card, list) else in_card
    return replace(settings, license=first) if first else settings
