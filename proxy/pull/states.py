"""The states of a pull."""

from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    """The values of `state` in `/-/pulls`."""

    WAITING = "waiting"
    PLANNING = "planning"
    TRANSFERRING = "transferring"
    CREATING = "creating"
    RECLAIMING = "reclaiming"
    DONE = "done"
    FAILED = "failed"


Enter = Callable[[State], None]
