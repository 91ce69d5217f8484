"""Logs on stderr: one line per event, as text or as JSON."""

import logging
from contextvars import ContextVar
from enum import StrEnum

import orjson

PULL_ID: ContextVar[str | None] = ContextVar("pull", default=None)
"""The job whose task writes the log line."""


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (pull := PULL_ID.get()) is not None:
            fields["pull"] = pull
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pull = PULL_ID.get()
        record.pull = f"pull {pull}: " if pull is not None else ""
        return super().format(record)


def configure(log_format: LogFormat) -> None:
    handler = logging.StreamHandler()
    text = TextFormatter("%(asctime)s %(levelname)s %(pull)s%(message)s")
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # The Hub's client logs every request at level INFO.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
