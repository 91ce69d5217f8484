"""The objects that plan and execute a pull, without a listener. `serve` and `inspect` use them."""

from pathlib import Path

from proxy.config.sections import NO_SPOOL, Config
from proxy.metrics import Metrics
from proxy.ollama.client import Ollama, ollama_tls, upstream_session
from proxy.pull.planner import Planner
from proxy.sources.plugins import build_sources
from proxy.store.journal import Journal, state_file
from proxy.timings import DEFAULT, Timings
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.checkpoints import Checkpoints
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.streams import MIB, Streams
from proxy.transfer.transfer import Transfer
from proxy.transfer.wait_for_ollama import WaitForOllama


class Backend:
    """Create it inside the running loop."""

    def __init__(self, config: Config, journal: Journal, metrics: Metrics, *, timings: Timings = DEFAULT) -> None:
        pull = config.pull
        bandwidth = Bandwidth(pull.bandwidth_bytes, metrics.received.inc)
        # The sources come first: if one refuses its settings, nothing is open yet.
        self._sources = build_sources(config, bandwidth.receive_buffer(pull.connections))
        self.tls = ollama_tls(config.ollama.url)
        self.session = upstream_session(self.tls)
        self.ollama = Ollama(config.ollama.url, self.session, timings, config.ollama.models)
        aiohttp_buffers = min(pull.connections * MIB, pull.memory_bytes // 4)
        self.streams = Streams(pull.connections, pull.memory_bytes - aiohttp_buffers, timings)
        self.checkpoints = Checkpoints(spool_folder(config), pull.keep_seconds)
        metrics.show_spool(self.checkpoints.size)
        self.transfer = Transfer(
            WaitForOllama(self.ollama, config.ollama.patience_seconds),
            FetchLimits(self.streams, bandwidth, timings),
            journal,
            metrics.uploaded.inc,
            pull.threads,
            self.checkpoints,
        )
        by_host = {host: source for source in self._sources for host in source.hosts}
        self.planner = Planner(config, by_host, self.ollama, self.transfer)

    async def close(self) -> None:
        self.transfer.close()
        for source in self._sources:
            await source.close()
        await self.session.close()


def spool_folder(config: Config) -> Path | None:
    """Each Ollama has its own, as it has its own journal; None if nothing is to be kept."""
    if config.pull.spool == NO_SPOOL:
        return None
    journal = state_file(config)
    folder = Path(config.pull.spool).expanduser() if config.pull.spool else journal.parent
    return folder / f"{journal.stem}.spool"
