"""The plan for the projector of safetensors: what lets a model see or hear, made by the proxy beside its text. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families import FAMILIES
from proxy.gguf.projection import NoTowers, Projection, project
from proxy.gguf.projectors import TOWERS
from proxy.gguf.projectors.common import ADDED_TOKENS, added_tokens
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.planning.capabilities import PROJECTORS_SINCE
from proxy.planning.json_files import json_object
from proxy.planning.material import Material, conversion_errors, recipe_of, tensors_of
from proxy.planning.plan import PlanRequest, Upload, weight_upload
from proxy.planning.recipe import Recipe
from proxy.planning.weights import PREPROCESSOR, PROCESSOR, NotConvertible

FILE = "mmproj.gguf"
TEXT_ALONE = "for the text model alone set pull.vision = false, or vision = false in its [models] settings"


def wants_projector(request: PlanRequest, architecture: str) -> bool:
    """Whether a projector is to be made. Raises NotConvertible if this Ollama could not use it."""
    towers = TOWERS.get(architecture, ())
    if not towers or not request.vision:
        return False
    if request.capabilities.version < PROJECTORS_SINCE:
        raise NotConvertible(
            f"{request.repository.id}: with {request.capabilities.ollama} this model could not {towers[0].ability}; "
            f"update Ollama to {PROJECTORS_SINCE} or newer; {TEXT_ALONE}"
        )
    return True


def project_material(material: Material, file_type: str) -> tuple[Projection, Recipe] | str:
    """The projector, with its pieces moved into the recipe; or why there is none, for models that were saved without.

    Raises NotConvertible.
    """
    repository, tensors = material.repository, tensors_of(material)
    name = repository.rpartition("/")[2]
    try:
        with conversion_errors(repository):
            try:
                towers = TOWERS[material.architecture]
                projection = project(towers, material.config, _images(material), tensors, (name, file_type))
            except NoTowers as missing:
                return str(missing)
    except NotConvertible as error:
        raise NotConvertible(f"{error}; {TEXT_ALONE}") from error
    return replace(projection, pieces=()), recipe_of(material, projection.header, projection.pieces)


def _images(material: Material) -> Mapping[str, Any]:
    """How pictures are prepared, as llama.cpp's converter reads it, and the added tokens of the tokenizer.

    processor_config.json wins.
    """
    merged: dict[str, Any] = {ADDED_TOKENS: added_tokens(TokenizerFiles.read(material.contents))}
    for path, inner in ((PREPROCESSOR, "media_proc_cfg"), (PROCESSOR, "image_processor")):
        if content := material.contents.get(path):
            fields = json_object(f"{material.repository}/{path}", content)
            within = fields.get(inner)
            merged |= {**fields, **(within if isinstance(within, dict) else {})}
    return merged


def projector_upload(request: PlanRequest, recipe: Recipe, model: Recipe) -> Upload:
    """`model` makes the text model of the same plan."""
    return weight_upload(request.repository, FILE, recipe, "projector", is_read_past=model.takes_whole_files)


def lost_abilities(request: PlanRequest, architecture: str, made: Projection | str | None) -> tuple[str, ...]:
    """A warning about what the authors' model can do and the made one cannot."""
    text = FAMILIES[architecture].text_part
    has = made.abilities if isinstance(made, Projection) else ()
    lost = [ability for ability in text.abilities if ability not in has] if text else []
    if not lost:
        return ()
    if isinstance(made, str):
        reason = made
    elif not request.vision:
        reason = "its projector is left out, as the configuration says"
    else:
        reason = "the proxy converts only its text" + (" and its eyes" if has else "")
    return (f"this model cannot {' or '.join(lost)}: {reason}",)
