"""The plan for safetensors: the proxy converts them to a GGUF while the bytes arrive. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from proxy.config.sections import ModelSettings
from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf.conversion import AGAIN, Conversion, ModelDescription, convert
from proxy.gguf.draft import DraftRequest
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.refused import REFUSED
from proxy.gguf.keeping import NVFP4, Fallback
from proxy.gguf.projection import Projection
from proxy.gguf.single_numbers import numbers_to_read
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder
from proxy.gguf.transforms import WIDTHS
from proxy.gguf.unpacking import tensors_to_read
from proxy.gguf.vocabulary import adds_bos
from proxy.planning.capabilities import NVFP4_SINCE, OLDEST, RUNS_SINCE, Capabilities, runs_since
from proxy.planning.identity import family_revision
from proxy.planning.material import Material, conversion_errors, recipe_in_file_order, recipe_of, tensors_of
from proxy.planning.plan import Format, GgufSummary, Plan, PlanRequest, QuantizationOffer, weight_upload
from proxy.planning.projector_plan import lost_abilities, projector_upload
from proxy.planning.quantizations import offers
from proxy.planning.recipe import Recipe
from proxy.planning.weights import NotConvertible
from proxy.sources.base import Derived

FILE = "model.gguf"
DRAFT_TOKENS = {"draft_num_predict": 4}
"""How many tokens are drafted at once. It is Ollama's own number for a draft model in another file (`DefaultOptions`,
api/types.go). Without this parameter Ollama does not use the layers of a model's own GGUF (`modelOptions` in
server/routes.go)."""


def architecture_of(where: str, config: Mapping[str, Any], capabilities: Capabilities) -> str:
    """The first of config.json's `architectures`; in older files that is a text, not a list.

    Raises NotConvertible if there is none, if the proxy does not know it, or if this Ollama does not run it, and
    Refusal for one that no Ollama runs.
    """
    names = config.get("architectures")
    name = names if isinstance(names, str) else names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not name.isidentifier():
        raise NotConvertible(f"{where} names no architecture, so the proxy cannot know what the weights are")
    if reason := REFUSED.get(name):
        raise Refusal(f"{where}: {name} {reason}; pull another model")
    family = FAMILIES.get(name)
    if family is None:
        raise NotConvertible(f"{where}: this proxy does not know the architecture {name}")
    if capabilities.version < (since := runs_since(name, family.architecture)):
        raise NotConvertible(f"{where}: {capabilities.ollama} does not run {name}; Ollama {since} or newer does")
    return name


def kept_quantization(architecture: str, config: Mapping[str, Any]) -> Quantization | None:
    """The quantization that keeps weights which are quantized already: no tag means it. None if there is none."""
    return Quantization.MXFP4_MOE if FAMILIES[architecture].keeps_experts(config) else None


def draft_request(request: PlanRequest, architecture: str) -> DraftRequest | None:
    """What `pull.draft` means for an architecture of FAMILIES on this Ollama."""
    if not request.draft:
        return None
    return DraftRequest(request.capabilities.draft_problem(FAMILIES[architecture].architecture))


def read_tokens(
    repository: str, config: Mapping[str, Any], contents: Mapping[str, bytes]
) -> tuple[dict[int, str], bool]:
    """The added tokens (number to text), and whether the tokenizer begins each text with BOS.

    Raises NotConvertible.
    """
    family = FAMILIES[config["architectures"][0]]
    with conversion_errors(repository):
        files = TokenizerFiles.read(contents)
        added = {token["id"]: token["content"] for token in files.added_tokens}
        if not files.tokenizer:
            added = {token_id: token["content"] for token_id, token in read_added_tokens_decoder(files)}
        return added, adds_bos(family, family.config(config), files)


def plan_conversion(
    request: PlanRequest,
    material: Material,
    converted: tuple[Conversion, Recipe],
    projected: tuple[Projection, Recipe] | str | None,
) -> Plan:
    """The plan for a converted file, and for its projector, if there is one: a text says why the weights have none.

    Raises NotConvertible and Refusal for what this Ollama cannot run.
    """
    conversion, recipe = converted
    projection, projector = projected if isinstance(projected, tuple) else (projected, None)
    modelfile, capabilities, quantization = material.modelfile, request.capabilities, conversion.quantization
    if not capabilities.runs(conversion.architecture):
        raise NotConvertible(
            f"{request.repository.id}: {capabilities.ollama} does not run {conversion.architecture}; Ollama "
            f"{RUNS_SINCE[conversion.architecture]} or newer does"
        )
    _check_release(material, conversion, capabilities)
    uploads = [weight_upload(request.repository, FILE, recipe)]
    if projector is not None:
        uploads.append(projector_upload(request, projector, recipe))
    more = sum(upload.size for upload in uploads[1:])
    return Plan(
        request.name,
        request.repository,
        Format.SAFETENSORS,
        f"the proxy converts {material.architecture}{_stored_as(conversion)}{_with_draft(conversion)}"
        f"{', with its projector' if projector else ''}",
        tuple(uploads),
        quantization=quantization,
        is_converted=True,
        made_by=family_revision(material.architecture),
        template_source=modelfile.source,
        template_exact=modelfile.exact,
        settings=_drafting(modelfile.settings) if conversion.draft_layers else modelfile.settings,
        warnings=(
            *lost_abilities(request, material.architecture, projection),
            *_lost_draft(conversion),
            *conversion.warnings,
            *(projection.warnings if isinstance(projection, Projection) else ()),
            *_second_quantization(request, conversion),
            *capabilities.pre_tokenizer_warnings(conversion.pre_tokenizer),
            *modelfile.warnings,
        ),
        result_size=uploads[0].size + more,
        gguf_summary=GgufSummary(conversion.architecture, conversion.parameters, quantization),
        offers=tuple(offer._replace(size=offer.size + more) for offer in _offers(conversion, capabilities)),
    )


def _offers(conversion: Conversion, capabilities: Capabilities) -> tuple[QuantizationOffer, ...]:
    nvfp4 = conversion.nvfp4
    header = nvfp4.other_header if nvfp4 else len(conversion.header)
    stays = nvfp4 and not nvfp4.problem and capabilities.runs_quantization(NVFP4)
    kept = [QuantizationOffer(NVFP4, nvfp4.size)] if nvfp4 and stays else []
    return (*kept, *offers(header, conversion.facts, conversion.sources, capabilities, AGAIN))


def _check_release(material: Material, conversion: Conversion, capabilities: Capabilities) -> None:
    """Raises Refusal for a model that this Ollama would load but compute wrongly."""
    architecture, pre_tokenizer, scaling = conversion.architecture, conversion.pre_tokenizer, conversion.rope_scaling
    name = material.architecture
    embeds = material.pooling is not None
    for since, problem in (
        (
            capabilities.pre_tokenizer_since(architecture, pre_tokenizer),
            f"does not split texts as this tokenizer does ({pre_tokenizer})",
        ),
        (
            capabilities.rope_scaling_since(architecture, scaling),
            f"does not scale positions as this model does ({scaling})",
        ),
        (
            capabilities.embeddings_since(architecture) if embeds else OLDEST,
            f"makes no embeddings with {name}",
        ),
        (capabilities.correct_since(architecture, pre_tokenizer), f"computes {name} wrongly"),
    ):
        if capabilities.version < since:
            raise Refusal(f"{material.repository}: {capabilities.ollama} {problem}; update it to {since} or newer")


def _stored_as(conversion: Conversion) -> str:
    kept = ", which keeps its NVFP4" if conversion.quantization == NVFP4 else ""
    return (f" from {' and '.join(conversion.stored_as)}" if conversion.stored_as else "") + kept


def _with_draft(conversion: Conversion) -> str:
    return ", with its layer for multi-token prediction" if conversion.draft_layers else ""


def _drafting(settings: ModelSettings) -> ModelSettings:
    """The settings with which Ollama drafts tokens, unless they have a number already."""
    return msgspec.structs.replace(settings, parameters={**DRAFT_TOKENS, **settings.parameters})


def _lost_draft(conversion: Conversion) -> tuple[str, ...]:
    """A warning about what `pull.draft` asks for and the model does not get."""
    problem = conversion.draft_problem
    return (f"the layers for multi-token prediction (pull.draft) are left out: {problem}",) if problem else ()


def _second_quantization(request: PlanRequest, conversion: Conversion) -> Iterator[str]:
    stored_as, quantization = conversion.stored_as, conversion.quantization
    if not stored_as or quantization in (*WIDTHS, NVFP4):
        return
    repository = request.repository
    original = repository.quantized_from if isinstance(repository, Derived) else None
    better = f"{original}, which they were made from" if original else "the repository that they were made from"
    yield (
        f"the repository has these weights in {' and '.join(stored_as)}, and {quantization} makes them less exact "
        f"once more; pull BF16, or {better}{_about_nvfp4(conversion, request.capabilities)}"
    )


def _about_nvfp4(conversion: Conversion, capabilities: Capabilities) -> str:
    """Whether matrices that do not stay NVFP4 could."""
    if conversion.nvfp4 is None:
        return ""
    if conversion.nvfp4.problem:
        return f"; they cannot stay {NVFP4}: {conversion.nvfp4.problem}"
    if capabilities.runs_quantization(NVFP4):
        return f"; the tag {NVFP4} keeps them as they are"
    return f"; they could stay {NVFP4}, but {capabilities.ollama} does not run it; {NVFP4_SINCE} or newer does"


def convert_material(material: Material, quantization: str | Fallback) -> tuple[Conversion, Recipe]:
    """The conversion, with its pieces moved into the recipe. Raises NotConvertible."""
    repository = material.repository
    description = ModelDescription(
        repository.rpartition("/")[2],
        chat_template=material.modelfile.jinja,
        adds_bos=material.modelfile.adds_bos,
        sample=material.sample,
        pooling=material.pooling,
        draft=material.draft,
    )
    tensors = tensors_of(material)
    with conversion_errors(repository):
        conversion = convert(material.config, material.contents, tensors, description, quantization=quantization)
    make = recipe_in_file_order if conversion.in_file_order else recipe_of
    return replace(conversion, pieces=()), make(material, conversion.header, conversion.pieces)


class FilePart(NamedTuple):
    """The bytes of a file from offset `start` up to `stop`."""

    path: str
    start: int
    stop: int


def parts_to_read(material: Material) -> list[FilePart]:
    """The small tensors whose bytes a conversion needs (`Material.read`). Raises NotConvertible."""
    with conversion_errors(material.repository):
        tensors, family = tensors_of(material), FAMILIES[material.architecture]
        wanted = [*tensors_to_read(tensors), *numbers_to_read(family, family.config(material.config), tensors)]
    return [FilePart(one.path, one.source.start, one.source.stop) for one in wanted]
