"""How long the proxy waits for what: one value, so that tests can pass shorter times."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """All in seconds."""

    first_retry_pause: float = 0.5
    """Before the second try of a range; each further pause is twice as long."""
    longest_retry_pause: float = 15.0
    least_throttle_pause: float = 1.0
    """No new stream for so long when a source throttles, even if it asks for less."""
    batch: float = 0.25
    """How long the first bytes of a batch may wait for the rest of it."""
    concurrency_tick: float = 0.1
    """Between two checks of the streams: their rate, the end of a pause, slow ones."""
    concurrency_hold: float = 20.0
    """After a throttle, or after more streams were not faster, before more streams are tried again."""
    slow_stream: float = 5.0
    """How long a stream is measured before it may count as slow."""
    keep_alive: float = 8.0
    """The longest silence in the stream of a pull: clients may see at most 10 s."""
    ollama_answer: float = 5.0
    """For answers that Ollama gives without work."""
    load: float = 600.0
    """For loading a model to verify it. Ollama itself waits 5 minutes for its runner (OLLAMA_LOAD_TIMEOUT)."""
    ollama_poll: float = 1.0
    """Between two tries to reach an Ollama that is gone."""
    first_sweep: float = 2.0
    """After the start."""
    sweep: float = 600.0
    sweep_retry: float = 60.0
    """After a sweep that failed."""


DEFAULT = Timings()
