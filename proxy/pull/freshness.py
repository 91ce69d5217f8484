"""Whether Ollama already has what a pull would make: by what is remembered of it, else by what Ollama shows."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from proxy.config import Config
from proxy.ollama.client import Ollama
from proxy.planning.identity import digest_of_value, outdated_reason, settings_identity, weights_identity
from proxy.planning.ollama_layers import HeldModel, held_model, layers_of, shown_parameters
from proxy.planning.plan import Plan
from proxy.pull.reference import ModelReference
from proxy.sources.base import Repository
from proxy.store.journal import Journal, Record

SIZE_TOLERANCE = 0.02
UNQUANTIZED = {"F32": ("F32", "unknown"), "F16": ("F16",), "BF16": ("BF16",)}
"""How Ollama shows a file type: 0, which is F32, is unknown to it (v0.24, v0.33)."""


class Freshness:
    def __init__(self, config: Config, journal: Journal, ollama: Ollama) -> None:
        self._config = config
        self._journal = journal
        self._ollama = ollama

    async def unchanged(self, reference: ModelReference, repository: Repository) -> Record | None:
        """The record of a model that was made of this commit with these settings, and that Ollama still has."""
        record = self._journal.record(reference.key)
        if record is None or record.asked != self._asked(reference, repository) or outdated_reason(record.made_by):
            return None
        return record if await self._is_there(reference, record) else None

    async def same(self, reference: ModelReference, plan: Plan) -> bool:
        """Whether Ollama has the model that the plan would make; it is remembered then."""
        record = self._journal.record(reference.key)
        made = record and record.weights == weights_identity(plan) and record.dressing == settings_identity(plan)
        same = bool(record and made and await self._is_there(reference, record))
        broke_off = self._journal.kept_since(reference.key)
        if not same and (record is None or broke_off is not None):
            # The state was lost, or a proxy was killed before it could remember.
            same = await self._shows(plan, broke_off or 0.0)
        if same:
            await self.remember(reference, plan)
        return same

    async def same_weights(self, reference: ModelReference, plan: Plan) -> HeldModel | None:
        """The model whose weights the plan's has, where only what is beside them changes."""
        record = self._journal.record(reference.key)
        if record is None or plan.base is not None or record.weights != weights_identity(plan):
            return None
        if not await self._is_there(reference, record):
            return None
        return held_model(await self._ollama.show(reference.name) or {})

    async def remember(self, reference: ModelReference, plan: Plan) -> None:
        """What Ollama has under this name is what the plan makes."""
        model = await self._listed(reference.name)
        if model is None:
            return
        repository = plan.repository
        record = Record(
            str(model.get("digest")),
            self._asked(reference, repository),
            weights_identity(plan),
            settings_identity(plan),
            plan.bars,
            repository.id,
            repository.commit,
            plan.made_by,
        )
        self._journal.remember(reference.key, record)

    def _asked(self, reference: ModelReference, repository: Repository) -> str:
        """Not of Ollama's version, nor of ours: an update of either is no reason to make all models anew."""
        settings = msgspec.to_builtins(self._config.settings_for(reference.name))
        pull = self._config.pull
        asked = [repository.id, repository.commit, reference.tag.casefold(), settings]
        return digest_of_value([*asked, pull.default_quantization, pull.gguf])

    async def _is_there(self, reference: ModelReference, record: Record) -> bool:
        model = await self._listed(reference.name)
        return model is not None and model.get("digest") == record.digest

    async def _listed(self, name: str) -> dict[str, Any] | None:
        models = await self._ollama.models()
        return next((model for model in models if model["name"].casefold() == name.casefold()), None)

    async def _shows(self, plan: Plan, began: float) -> bool:
        """Whether a model of which nothing is remembered is the plan's, and younger than its commit and its pull."""
        model = await self._listed(plan.name)
        if model is None or plan.repository.modified is None or plan.base is not None:
            return False
        shown = await self._ollama.show(plan.name) or {}
        settings = plan.settings
        return (
            seconds_of(str(shown.get("modified_at"))) > max(plan.repository.modified, began)
            and _has_size_and_type(plan, model.get("size"), str(shown.get("details", {}).get("quantization_level")))
            and settings.template in (None, shown.get("template"))
            and (settings.system or "") == shown.get("system", "")
            and (settings.license is None or _as_one(settings.license) == shown.get("license"))
            and _parameters(settings.parameters) == _shown_parameters(str(shown.get("parameters", "")))
        )


def _has_size_and_type(plan: Plan, size: Any, level: str) -> bool:
    """Of what the proxy makes it knows every byte; of what Ollama pulls by itself only those of the weights."""
    if not isinstance(size, int) or not plan.result_size:
        return False
    if plan.gguf_summary is None:
        return abs(size - plan.result_size) <= SIZE_TOLERANCE * plan.result_size
    beside = sum(len(content) for _, content in layers_of(plan, plan.gguf_summary))
    file_type = plan.gguf_summary.file_type
    return size == plan.result_size + beside and level in UNQUANTIZED.get(file_type, (file_type,))


def _as_one(licenses: str | list[str]) -> str:
    """As Ollama shows several."""
    return licenses if isinstance(licenses, str) else "\n".join(licenses)


def seconds_of(time: str) -> float:
    """Of a time as Go writes it, with nanoseconds; 0 where it is none."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", time)).timestamp()
    except ValueError:
        return 0.0


def _parameters(parameters: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Each value with its key, those of a list too. Ollama has no numbers but floats."""
    values = ((key, value if isinstance(value, list) else [value]) for key, value in parameters.items())
    return {(key, repr(float(one) if type(one) is int else one)) for key, several in values for one in several}


def _shown_parameters(text: str) -> set[tuple[str, str]]:
    return {(key, repr(float(one) if type(one) is int else one)) for key, one in shown_parameters(text)}
