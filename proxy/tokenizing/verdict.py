"""What comes of a comparison, as it passes between the processes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refused` is the reason not to make the GGUF, "" for none; `remarks` are for the person who pulls."""

    refused: str = ""
    remarks: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "Verdict":
        return cls(str(value["refused"]), tuple(map(str, value["remarks"])))

    def as_json(self) -> dict[str, Any]:
        return {"refused": self.refused, "remarks": list(self.remarks)}


def not_compared(why: str) -> Verdict:
    return Verdict(remarks=(f"the GGUF's tokenizer could not be compared with tokenizer.json: {why}",))
