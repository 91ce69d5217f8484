"""The result of a comparison, as the worker sends it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusal` is the reason not to make the GGUF, "" for none; `remarks` become warnings of the pull."""

    refusal: str = ""
    remarks: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "Verdict":
        return cls(str(value["refusal"]), tuple(map(str, value["remarks"])))

    def as_json(self) -> dict[str, Any]:
        return {"refusal": self.refusal, "remarks": list(self.remarks)}


def not_compared(reason: str) -> Verdict:
    return Verdict(remarks=(f"the GGUF's tokenizer could not be compared with the repository's: {reason}",))
