"""Helpers for tests of the journal."""

from proxy.store.journal import Journal, Record

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")

MODEL = "hf.co/acme/tiny:q4_k_m"
RECORD = Record("d" * 64, "request", "weights", "settings", ((A, 10), (B, 20)), "acme/tiny", "c" * 40)


class WallClock:
    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def unneeded(journal: Journal) -> list[str]:
    return [blob.digest for blob in journal.unneeded()]


def is_interrupted(journal: Journal, model: str) -> bool:
    return journal.interrupted_since(model) is not None
