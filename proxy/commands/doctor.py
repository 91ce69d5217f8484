"""`doctor`: whether all that a pull needs is there, and what to do where it is not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Literal

import aiohttp
from rich.filesize import decimal

from proxy.admin.handler import INSTANCE_HEADER, PREFIX
from proxy.commands.reclaim import check_reached, outdated
from proxy.config import Config, Quantization
from proxy.errors import ConfigError, ProxyError
from proxy.gguf.engine import described, has_kernel
from proxy.gguf.engine_ggml import PACKAGE
from proxy.ollama.client import Ollama, ollama_tls, upstream_session
from proxy.ollama.disk import free_disk
from proxy.planning.capabilities import capabilities_of
from proxy.planning.quantizations import is_made_here
from proxy.sources.hub_check import check_endpoint, check_mirror
from proxy.transfer.threads import cores, worker_count

LITTLE_BYTES = 10 * 10**9
"""A model of 8 billion parameters takes 5 GB as Q4_K_M, and 8.5 GB as Q8_0."""
SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail` is where pulls fail, `note` what somebody may want otherwise."""

    verdict: Literal["ok", "note", "fail"]
    text: str


async def examine(config: Config) -> AsyncIterator[Finding]:
    """One finding after the other, since some take seconds."""
    async with upstream_session(ollama_tls(config.ollama.url)) as session:
        ollama = Ollama(config.ollama.url, session)
        found = await _ollama(config, ollama, session)
        yield found
        reachable = found.verdict != "fail"
        if reachable:
            yield await _reached(config)
            yield await _disk(config, ollama)
            async for finding in _outdated(config):
                yield finding
    yield await _told(check_endpoint(config.hub))
    for mirror in config.hub.mirrors:
        yield await _told(check_mirror(mirror))
    yield await asyncio.to_thread(_engines, config.pull.threads)
    if config.server.is_open_to_network:
        yield Finding(
            "note", f"whoever reaches {config.server.address.url} can pull with this proxy's token; set api_keys"
        )


async def _ollama(config: Config, ollama: Ollama, session: aiohttp.ClientSession) -> Finding:
    try:
        async with session.get(f"{ollama.url}{PREFIX}health", timeout=aiohttp.ClientTimeout(total=SECONDS)) as answer:
            if INSTANCE_HEADER in answer.headers:
                return Finding(
                    "fail", f"ollama.url, {ollama.url}, is an ollama-hf-proxy itself; set it to where Ollama listens"
                )
    except (aiohttp.ClientError, TimeoutError):
        pass
    try:
        said = await ollama.version()
        capabilities = capabilities_of(said, config.ollama.version)
        capabilities.check_usable()
    except ProxyError as error:
        return Finding("fail", str(error))
    if capabilities.warning:
        return Finding("note", capabilities.warning)
    return Finding("ok", f"{capabilities.ollama} answers at {ollama.url}")


async def _reached(config: Config) -> Finding:
    try:
        await check_reached(config)
    except ConfigError as error:
        return Finding("fail", str(error))
    except ProxyError as error:
        return Finding("note", str(error))
    return Finding("ok", "Ollama reaches the proxy: finished models need no create, and nothing stays behind")


async def _disk(config: Config, ollama: Ollama) -> Finding:
    try:
        free = await free_disk(config.ollama, ollama)
    except ProxyError as error:
        return Finding("fail", str(error))
    if free is None:
        return Finding("note", "how much disk Ollama has left is not known; set ollama.models to its folder")
    if free < LITTLE_BYTES:
        return Finding(
            "note", f"Ollama has {decimal(free)} of disk left; remove models that you do not use (ollama rm)"
        )
    return Finding("ok", f"Ollama has {decimal(free)} of disk left")


async def _outdated(config: Config) -> AsyncIterator[Finding]:
    try:
        models = await outdated(config)
    except ProxyError as error:
        yield Finding("note", f"which models would be made anew is not known: {error}")
        return
    for name, why in models.items():
        yield Finding("note", f"{name} is made anew when it is pulled again: {why}")


def _engines(threads: int) -> Finding:
    missing = [str(one) for one in Quantization if not is_made_here(one)]
    if missing:
        return Finding(
            "note",
            f"this machine does not make {', '.join(missing)} (engines: {described()}); `pip install {PACKAGE}` brings "
            "them on Linux, Apple silicon and Windows (x86_64). On other machines install the proxy again where a C "
            "compiler is, and numpy: each brings some of them",
        )
    count = worker_count(threads)
    in_threads = f"in {count} {'thread' if count == 1 else 'threads'} of {cores()} cores"
    text = f"every quantization is made here, by {described()}, {in_threads}"
    if not has_kernel():
        text += "; a wheel, or an installation with a C compiler, makes Q2_K to Q6_K and IQ4 several times as fast"
    return Finding("ok", text)


async def _told(check: Awaitable[str]) -> Finding:
    try:
        return Finding("ok", await check)
    except ProxyError as error:
        return Finding("fail", str(error))
