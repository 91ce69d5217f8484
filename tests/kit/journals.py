"""Helpers for tests of the journal."""

from proxy.store.journal import Journal, Record

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")

MODEL = "hf.co/acme/tiny:q4_k_m"
RECORD = Record("d" * 64, "asked", "weights", "dressing", ((A, 10), (B, 20)), "acme/tiny", "c" * 40)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def unneeded(journal: Journal) -> list[str]:
    return [blob.digest for blob in journal.unneeded()]


def is_interrupted(journal: Journal, model: str) -> bool:
    return journal.interrupted_since(model) is not None


FIRST_TABLES = """
CREATE TABLE pulls (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, temporary TEXT, begun_at REAL NOT NULL, keep_until REAL
);
CREATE TABLE needs (
    pull INTEGER NOT NULL REFERENCES pulls ON DELETE CASCADE, digest TEXT NOT NULL, PRIMARY KEY (pull, digest)
) WITHOUT ROWID;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, wanted_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (
    model TEXT PRIMARY KEY, digest TEXT NOT NULL, asked TEXT NOT NULL, weights TEXT NOT NULL, dressing TEXT NOT NULL,
    bars TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO pulls VALUES (1, 'hf.co/acme/tiny:q4_k_m', 'temporary', 1.0, 1e12);
INSERT INTO models VALUES ('hf.co/acme/tiny:q4_k_m', 'd', 'asked', 'weights', 'dressing', '[["sha256:a", 10]]');
PRAGMA user_version = 1;
"""

SECOND_TABLES = FIRST_TABLES

for first, second in [
    ("bars TEXT NOT NULL", "bars TEXT NOT NULL, repository TEXT NOT NULL DEFAULT '', revision TEXT NOT NULL"),
    (""" 10]]')""", """ 10]]', '', '')"""),
    ("user_version = 1", "user_version = 2"),
]:
    SECOND_TABLES = SECOND_TABLES.replace(first, second)
