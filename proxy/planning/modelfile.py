"""What a model has beside its weights: template, system text, parameters, license. Pure.

Ollama's own choice is never relied on: of 157 real templates it knows 22 rightly, and says nothing of the others.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.parameters import parameters
from proxy.config import ModelSettings
from proxy.errors import Refusal
from proxy.gguf.header import GgufHeader
from proxy.gguf.sentencepiece import PieceType
from proxy.planning.capabilities import NEVER, Capabilities, Version
from proxy.planning.card import read_card
from proxy.planning.json_files import json_object
from proxy.planning.weights import CHAT_TEMPLATE, CONFIG, TOKENIZER_CONFIG, token_text
from proxy.sources.base import RepositoryFile

GENERATION_CONFIG = "generation_config.json"
README = "README.md"
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
OWN_FILES = ("template", "system", "params")
"""What a repository says to Ollama itself: a Go template, a text, a JSON object (the Hub's registry reads them too)."""
READ = (*OWN_FILES, *LICENSES, README)
MOST_BYTES = 1024 * 1024
PLAIN = "{{ .Prompt }}"
ADDED_KINDS = (PieceType.CONTROL, PieceType.USER_DEFINED)
# From these versions on Ollama renders the conversations of these architectures by itself (server/create.go). Those of
# Laguna too, but all in the form of its first model (XS.2); without that it takes their own Jinja.
RENDERED: Mapping[str, Version] = {
    "Gemma4ForCausalLM": Version(0, 20, 0),
    "Gemma4ForConditionalGeneration": Version(0, 20, 0),
    "NemotronHForCausalLM": Version(0, 22, 0),
    "NemotronH_Nano_VL_V2": Version(0, 22, 0),
    "NemotronH_Nano_Omni_Reasoning_V3": Version(0, 22, 0),
}
# Longer than the distance by which Ollama still takes a template for one of its own.
OPENING = f"{{#{' as its authors wrote it:' * 5} #}}"


@dataclass(frozen=True, slots=True)
class ChatMetadata:
    """What a repository brings for its conversations. `source` names where the Jinja stands.

    `embeds` is of a GGUF that says how it pools, as only embedding models do. `adds_bos` says whether the model begins
    a text with BOS where no template is applied; None where the tokenizer does not say.
    """

    jinja: str | None
    source: str
    facts: TokenizerFacts
    generation: Mapping[str, Any]
    embeds: bool = False
    adds_bos: bool | None = None


@dataclass(frozen=True, slots=True)
class Modelfile:
    """`settings` is all that a model has beside its weights; `exact` is None where nobody compared the template.

    `jinja` is the chat template for the GGUF, and `adds_bos` whether each text is to begin with BOS there; None for
    what the repository's tokenizer says.
    """

    settings: ModelSettings
    source: str
    exact: bool | None
    jinja: str | None = None
    adds_bos: bool | None = None
    warnings: tuple[str, ...] = ()


def files_to_read(files: Iterable[RepositoryFile], *, card: bool = False) -> list[RepositoryFile]:
    """The small files at the top that the Modelfile is made of, beside those of the tokenizer.

    The model card is among them for its license, where there is no better one, or if `card` asks for it.
    """
    found = {file.path: file for file in files if file.path in READ and 0 < file.size <= MOST_BYTES}
    license_file = next((path for path in (*LICENSES, README) if path in found), None)
    wanted = {*OWN_FILES, license_file, README if card else None}
    return [file for path, file in found.items() if path in wanted]


def chat_metadata_of_files(repository: str, contents: Mapping[str, bytes], tokens: Mapping[int, str]) -> ChatMetadata:
    """From the small files of a safetensors repository; `tokens` has the added tokens. Raises Refusal."""
    objects = {
        path: json_object(f"{repository}/{path}", contents[path]) if path in contents else {}
        for path in (CONFIG, TOKENIZER_CONFIG, GENERATION_CONFIG)
    }
    config = objects[TOKENIZER_CONFIG]
    jinja, source = _jinja(repository, contents, config)
    ends = [token_text(config.get("eos_token"))]
    for fields in (objects[GENERATION_CONFIG], objects[CONFIG]):
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
    return ChatMetadata(jinja, source, facts, objects[GENERATION_CONFIG])


def chat_metadata_of_gguf(header: GgufHeader) -> ChatMetadata:
    """From a GGUF's own metadata. Raises GgufError for what is of the wrong kind."""
    tokens = header.get("tokenizer.ggml.tokens", list) or []

    def token(name: str) -> str:
        number = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        value = number.value if number else None
        return str(tokens[value]) if isinstance(value, int) and 0 <= value < len(tokens) else ""

    kinds = header.get("tokenizer.ggml.token_type", list) or []
    facts = TokenizerFacts(
        bos=token("bos"),
        eos=tuple(dict.fromkeys(filter(None, (token("eos"), token("eot"))))),
        unk=token("unknown"),
        pad=token("padding"),
        added=tuple(str(text) for text, kind in zip(tokens, kinds, strict=False) if kind in ADDED_KINDS),
        # Where it says nothing, Ollama's engines begin with one.
        adds_bos=header.get("tokenizer.ggml.add_bos_token", bool) is not False,
    )
    embeds = f"{header.architecture}.pooling_type" in header.metadata
    return ChatMetadata(header.get("tokenizer.chat_template", str), "gguf", facts, {}, embeds, facts.adds_bos)


def choose_modelfile(
    repository: str,
    architecture: str,
    brought: ChatMetadata,
    chat: ChatTemplate | None,
    contents: Mapping[str, bytes],
    settings: ModelSettings,
    capabilities: Capabilities,
) -> Modelfile:
    """Whose template, parameters, system text and license it is: the user's, the repository's, else the authors'.

    `chat` is what probing made of the Jinja. Raises Refusal for files of the repository's own that cannot be read.
    """
    if brought.embeds:
        dressed = _with_license(replace(settings, template_file=None), contents)
        return Modelfile(dressed, "none", None, brought.jinja if brought.source != "gguf" else None)
    # The text of a template's file is in `template` by now.
    own, told = _own_files(repository, contents), replace(settings, template_file=None)
    stops = chat.stops if chat else ()
    found = {**parameters(brought.generation, brought.facts, stops), **own.parameters}
    merged = replace(
        told,
        system=settings.system if settings.system is not None else own.system,
        parameters=found | settings.parameters,
    )
    dressed = _with_license(merged, contents)
    is_rendered = capabilities.version >= RENDERED.get(architecture, NEVER)
    chosen, writes_bos = _by_jinja(brought, chat, dressed, capabilities), False
    if settings.template is not None:
        chosen = Modelfile(dressed, "config", True)
    elif own.template is not None:
        chosen = Modelfile(replace(dressed, template=own.template), "template", None)
    elif is_rendered:
        chosen = Modelfile(dressed, "ollama", None)
    else:
        # Nobody else's template writes BOS.
        writes_bos = True
    if brought.jinja is None or brought.source == "gguf":
        return chosen
    opening = OPENING if capabilities.runs_llama_server else ""
    adds_bos = _adds_bos(brought, chat, writes_bos=writes_bos)
    # A model whose Jinja llama-server refuses does not load where Ollama uses it.
    jinja = opening + brought.jinja if chat is None or chat.loads else None
    return dataclasses.replace(chosen, jinja=jinja, adds_bos=adds_bos)


def _adds_bos(brought: ChatMetadata, chat: ChatTemplate | None, *, writes_bos: bool) -> bool | None:
    """Whether each text begins with BOS, as the template's conversations do where that is known.

    With `writes_bos` the text of a conversation has BOS in it where the tokenizer does not add one.
    """
    if chat is None or not chat.shapes or not (brought.facts.bos or chat.emits_bos or brought.adds_bos):
        return None
    return chat.emits_bos and not (writes_bos and brought.adds_bos is False)


def _by_jinja(
    brought: ChatMetadata,
    chat: ChatTemplate | None,
    settings: ModelSettings,
    capabilities: Capabilities,
) -> Modelfile:
    native = capabilities.runs_llama_server
    if chat is None:
        text = "it has no chat template: it continues texts; set template in [models] where it can chat"
        return Modelfile(replace(settings, template=PLAIN), "none", None, warnings=(text,))
    if native and brought.source != "gguf" and chat.shapes and not _needs_go(brought.jinja or "", chat):
        # From 0.30 on llama-server renders the Jinja itself, where no template is sent.
        # It takes BOS off the text that a Jinja makes if the model adds it, and leaves it there if not (b10488).
        exact = all(chat.native.values())
        how = "cannot be rendered exactly by llama-server"
        inexact = () if exact else (_inexact(brought.source, how, chat.native),)
        return Modelfile(settings, brought.source, exact, warnings=(*inexact, *_without_bos(brought, chat)))
    if chat.template:
        how = "cannot be written exactly for Ollama"
        inexact = () if chat.exact else (_inexact(brought.source, how, chat.shapes),)
        trims = f"the chat template of {brought.source} takes spaces off the ends of messages, and Ollama does not"
        begin = brought.facts.bos if chat.emits_bos and brought.adds_bos is False else ""
        template = replace(settings, template=begin + chat.template)
        warnings = (*inexact, *((trims,) if chat.trims else ()), *_without_bos(brought, chat))
        return Modelfile(template, brought.source, chat.exact, warnings=warnings)
    why = chat.warnings[0] if chat.warnings else "it cannot be written for Ollama"
    if native and chat.loads:
        text = f"the chat template of {brought.source} could not be checked: {why}"
        return Modelfile(settings, brought.source, False, warnings=(text,))
    text = f"the chat template of {brought.source} is not used: {why}; set template in [models]"
    return Modelfile(replace(settings, template=PLAIN), "none", False, warnings=(text,))


def _without_bos(brought: ChatMetadata, chat: ChatTemplate) -> tuple[str, ...]:
    """A model adds BOS to all texts or to none, and its conversations have none here."""
    if brought.source == "gguf" or not brought.adds_bos or chat.emits_bos or not brought.facts.bos:
        return ()
    return (f"a text without the chat template begins without {brought.facts.bos}, which this tokenizer adds to it",)


def _needs_go(jinja: str, chat: ChatTemplate) -> bool:
    """Whether llama-server does not render the Jinja as its authors do, and Ollama uses a Go template that does.

    It uses the Jinja all the same where that seems to do more: shouldPreferChatTemplate in server/images.go (0.33).
    """
    calls = "tools" in jinja or "tool_call" in jinja
    thinks = "<think>" in jinja and "</think>" in jinja
    does_more = calls > ("tools" in chat.capabilities) or thinks > ("thinking" in chat.capabilities)
    return not chat.loads or (chat.exact and not all(chat.native.values()) and not does_more)


def _inexact(source: str, how: str, shapes: Mapping[str, bool]) -> str:
    failed = [shape for shape, same in shapes.items() if not same]
    return (
        f"the chat template of {source} {how}: these differ: "
        f"{', '.join(failed) or 'all'}; set template in [models] where answers suffer"
    )


def _jinja(repository: str, contents: Mapping[str, bytes], config: Mapping[str, Any]) -> tuple[str | None, str]:
    if contents.get(CHAT_TEMPLATE, b"").strip():
        try:
            return contents[CHAT_TEMPLATE].decode(), CHAT_TEMPLATE
        except UnicodeDecodeError as error:
            raise Refusal(f"{repository}/{CHAT_TEMPLATE} is not UTF-8 text") from error
    said = config.get("chat_template")
    if isinstance(said, list):
        said = next((one.get("template") for one in said if isinstance(one, dict) and one.get("name") == "default"), "")
    return (said, TOKENIZER_CONFIG) if isinstance(said, str) and said else (None, "none")


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
                raise Refusal(f"{repository}/{path} is not UTF-8 text") from error
    params = json_object(f"{repository}/params", contents["params"]) if "params" in contents else {}
    if "stop" in params:
        # Ollama takes a bare string at create and then fails at every chat.
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
    named = read_card(contents.get(README, b"")).get("license")
    first = next(iter(named), None) if isinstance(named, list) else named
    return replace(settings, license=first) if first else settings
