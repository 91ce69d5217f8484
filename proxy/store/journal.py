"""What outlives the process, in SQLite: pulls that are not over, the blobs that they brought, the models they made.

Losing it costs a check, never a model. Only one process has it open: what another one claims would not be seen here.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import platformdirs

from proxy.config import Config
from proxy.errors import ConfigError, ProxyError
from proxy.ollama.registry import Blob

RESPITE_SECONDS = 3600.0
"""How long a blob stays that a client asked for or sent: it may be about to make a model of it."""
log = logging.getLogger(__name__)

VERSION = 3
"""Of the tables; a file with another one is begun anew, but for one that only lacks what is `ADDED`."""
TABLES = """
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
    bars TEXT NOT NULL, repository TEXT NOT NULL DEFAULT '', revision TEXT NOT NULL DEFAULT '',
    made_by TEXT NOT NULL DEFAULT '?'
) WITHOUT ROWID;
"""
_MADE_BY = "ALTER TABLE models ADD COLUMN made_by TEXT NOT NULL DEFAULT '?';"
ADDED = {
    1: f"""
ALTER TABLE models ADD COLUMN repository TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN revision TEXT NOT NULL DEFAULT '';
{_MADE_BY}
""",
    2: _MADE_BY,
}
"""By the version that lacks it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A model as it was made: Ollama's `digest` of it, and what its pull `asked` for and found.

    `asked` is of the commit and the settings, `weights` of what its GGUF comes from, `dressing` of all that is beside
    it. `bars` are the digest and the size of each weight file. `repository` and `commit` are what people are shown;
    empty where an older version made the model. `made_by` is the plan's.
    """

    digest: str
    asked: str
    weights: str
    dressing: str
    bars: tuple[tuple[str, int], ...]
    repository: str = ""
    commit: str = ""
    made_by: str = ""


def state_file(config: Config) -> Path:
    """One for each Ollama."""
    folder = Path(config.server.state).expanduser() if config.server.state else _usual_folder()
    ollama = urlsplit(config.ollama.url)
    host = "127.0.0.1" if ollama.hostname == "localhost" else str(ollama.hostname).replace(":", "-")
    return folder / f"{host}-{ollama.port or ollama.scheme}.sqlite"


def _usual_folder() -> Path:
    return platformdirs.user_state_path("ollama-hf-proxy", appauthor=False)


class JournalError(ProxyError):
    """The file cannot be written or read."""


class Locked(ConfigError):
    """Another process has the file. `url` is where that proxy listens, empty where it has not said so yet."""

    def __init__(self, file: Path, url: str) -> None:
        at = f", and listens at {url}" if url else ""
        super().__init__(
            f"another ollama-hf-proxy serves this Ollama{at}: it has {file}; end that one, or set ollama.url to another"
        )
        self.url = url


class Journal:
    """Raises ConfigError where the file cannot be used, Locked where another process does. Times are Unix seconds."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path it lives in memory, for what only looks."""
        self._path = path
        self._wanted_at: dict[str, float] = {}
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if path is None or error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise
                self._db.close()
                broken = path.replace(path.with_suffix(".broken"))
                log.warning("%s is no database any more (%s); begun anew, and kept as %s", path, error, broken)
                self._open()
        except (OSError, sqlite3.Error) as error:
            is_busy = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if path is not None and is_busy:
                url = _url_file(path)
                raise Locked(path, url.read_text(encoding="utf-8") if url.exists() else "") from error
            raise ConfigError(f"{path} cannot be used ({error}); set server.state to a folder that can") from error

    def close(self) -> None:
        self._db.close()

    def tell(self, url: str) -> None:
        """Say where this proxy listens, for who finds the file locked."""
        if self._path is not None:
            _url_file(self._path).write_text(url, encoding="utf-8")

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path or ":memory:", isolation_level=None, timeout=0)
        # The lock goes with the process, however it ends; a commit needs no fsync to outlive a process that is killed.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("BEGIN EXCLUSIVE")
        [(version,)] = self._db.execute("PRAGMA user_version").fetchall()
        if version in ADDED:
            self._bring_to_version(ADDED[version])
        elif version != VERSION:
            names = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                self._db.execute(f"DROP TABLE {name}")
            self._bring_to_version(TABLES)
        self._db.execute("COMMIT")

    def _bring_to_version(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._do("BEGIN EXCLUSIVE")
        try:
            yield
        except BaseException:
            self._do("ROLLBACK")
            raise
        self._do("COMMIT")

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(
                f"{self._path} cannot be used ({error}); make room there, or set server.state to another folder"
            ) from error

    def begin(self, model: str, temporary: str | None, digests: Iterable[str]) -> int:
        """A pull that claims blobs, and perhaps a temporary model, until it is ended.

        It takes over what an earlier pull of the same model had left.
        """
        with self._transaction():
            begun = "INSERT INTO pulls (model, temporary, begun_at) VALUES (?, ?, ?) RETURNING id"
            [(number,)] = self._do(begun, model, temporary, time.time())
            self.need(int(number), digests)
            self.end_kept_of(model)
        return int(number)

    def need(self, pull: int, digests: Iterable[str]) -> None:
        for digest in digests:
            self._do("INSERT OR IGNORE INTO needs VALUES (?, ?)", pull, digest)

    def need_no_more(self, pull: int) -> None:
        """Its temporary model has what it needed the blobs for."""
        self._do("DELETE FROM needs WHERE pull = ?", pull)

    def keep(self, pull: int, until: float) -> None:
        """The pull broke off; what it needs stays for the next one."""
        self._do("UPDATE pulls SET keep_until = ? WHERE id = ?", until, pull)

    def keep_interrupted(self, until: float) -> None:
        """At start: pulls of a process that is gone."""
        self._do("UPDATE pulls SET keep_until = ? WHERE keep_until IS NULL", until)

    def end(self, pull: int) -> None:
        """Its model is made, or never will be: also what others had kept for it is needed no more."""
        for (model,) in self._do("DELETE FROM pulls WHERE id = ? RETURNING model", pull):
            self.end_kept_of(model)

    def release(self, pull: int) -> None:
        """Its model is made, and what it or others had kept for it is needed no more; what comes now is cleaning up.

        Another model's pull that broke off needs no temporary model of the same weights: this model has them.
        """
        for model, temporary in self._do("SELECT model, temporary FROM pulls WHERE id = ?", pull):
            self.release_kept_of(model)
            kept = "UPDATE pulls SET temporary = NULL WHERE temporary = ? AND keep_until IS NOT NULL"
            self._do(kept, temporary)
        self._release(pull)

    def kept_since(self, model: str) -> float | None:
        """When a pull of it began that broke off, and that nobody has gone on with."""
        [(begun,)] = self._do("SELECT max(begun_at) FROM pulls WHERE model = ? AND keep_until IS NOT NULL", model)
        return None if begun is None else float(begun)

    def release_kept_of(self, model: str) -> None:
        """It is made, by whomever: what broken pulls of it had kept is needed no more."""
        for (pull,) in self._do("SELECT id FROM pulls WHERE model = ? AND keep_until IS NOT NULL", model):
            self._release(pull)

    def _release(self, pull: int) -> None:
        self.need_no_more(pull)
        self._do("UPDATE pulls SET temporary = NULL WHERE id = ?", pull)

    def end_kept_of(self, model: str) -> None:
        self._do("DELETE FROM pulls WHERE model = ? AND keep_until IS NOT NULL", model)

    def end_kept(self, now: float) -> None:
        self._do("DELETE FROM pulls WHERE keep_until <= ?", now)

    def temporaries(self) -> set[str]:
        """The temporary models that a pull needs."""
        kept = "SELECT temporary FROM pulls WHERE temporary IS NOT NULL AND (keep_until IS NULL OR keep_until > ?)"
        return {name for (name,) in self._do(kept, time.time())}

    def brings(self, digest: str, size: int) -> None:
        """Ollama has no such blob, and is about to be sent it."""
        wanted_at = self._wanted_at.get(digest, 0.0)
        self._do("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", digest, size, wanted_at)

    def forget(self, digests: Iterable[str]) -> None:
        """They are gone, or a model's."""
        for digest in digests:
            self._do("DELETE FROM blobs WHERE digest = ?", digest)

    def wanted(self, digest: str) -> None:
        """A client asked for it or sent it: it may be about to make a model of it."""
        now = time.time()
        self._wanted_at.pop(digest, None)
        self._wanted_at[digest] = now
        while (oldest := next(iter(self._wanted_at))) != digest and self._wanted_at[oldest] < now - RESPITE_SECONDS:
            del self._wanted_at[oldest]
        self._do("UPDATE blobs SET wanted_at = ? WHERE digest = ?", now, digest)

    def unneeded(self) -> list[Blob]:
        """Blobs that the proxy brought, no pull needs and no client wanted of late; the smallest first."""
        now = time.time()
        found = self._do(
            "SELECT digest, size FROM blobs WHERE wanted_at < ? AND digest NOT IN (SELECT digest FROM needs JOIN pulls "
            "ON pull = id WHERE keep_until IS NULL OR keep_until > ?) ORDER BY size, digest",
            now - RESPITE_SECONDS,
            now,
        )
        return [Blob(*row) for row in found]

    def digest_of(self, recipe: str) -> str | None:
        """Of a blob that was made of this recipe before."""
        return next((digest for (digest,) in self._do("SELECT digest FROM recipes WHERE recipe = ?", recipe)), None)

    def made(self, recipe: str, digest: str) -> None:
        self._do("INSERT OR REPLACE INTO recipes VALUES (?, ?)", recipe, digest)

    def record(self, model: str) -> Record | None:
        columns = "digest, asked, weights, dressing, bars, repository, revision, made_by"
        known = f"SELECT {columns} FROM models WHERE model = ?"  # noqa: S608 - the names stand above
        for digest, asked, weights, dressing, bars, repository, commit, made_by in self._do(known, model):
            sizes = tuple((name, size) for name, size in orjson.loads(bars))
            return Record(digest, asked, weights, dressing, sizes, repository, commit, made_by)
        return None

    def remember(self, model: str, record: Record) -> None:
        bars = orjson.dumps([list(bar) for bar in record.bars]).decode()
        texts = (record.digest, record.asked, record.weights, record.dressing)
        origin = (record.repository, record.commit, record.made_by)
        self._do("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", model, *texts, bars, *origin)


def _url_file(path: Path) -> Path:
    return path.with_suffix(".url")
