"""`doctor`: checks everything that a pull needs, and prints how to repair it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Literal

import aiohttp
from rich.filesize import decimal

from proxy.admin.handler import INSTANCE_HEADER, PREFIX
from proxy.backend import spool_folder
from proxy.commands.reclaim import check_reached, outdated
from proxy.config.sections import Config
from proxy.config.values import Quantization
from proxy.errors import ConfigError, ProxyError
from proxy.gguf.engine import engine_names, has_kernel
from proxy.gguf.engine_ggml import PACKAGE
from proxy.ollama.client import Ollama, ollama_tls, upstream_session
from proxy.ollama.disk import free_disk
from proxy.planning.capabilities import capabilities_of
from proxy.planning.quantizations import is_available
from proxy.sources.hub_check import check_endpoint, check_mirror
from proxy.transfer.checkpoints import Checkpoints
from proxy.transfer.threads import cores, worker_count

LOW_DISK_BYTES = 10 * 10**9
"""A model with 8 billion parameters takes 5 GB as Q4_K_M and 8.5 GB as Q8_0."""
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail`: pulls will fail. `note`: the user may want to change this."""

    verdict: Literal["ok", "note", "fail"]
    text: str


async def examine(config: Config) -> AsyncIterator[Finding]:
    """Yields each finding as soon as it is known, because some take seconds."""
    async with upstream_session(ollama_tls(config.ollama.url)) as session:
        ollama = Ollama(config.ollama.url, session)
        finding = await _ollama(config, ollama, session)
        yield finding
        if finding.verdict != "fail":
            yield await _reaches_proxy(config)
            yield await _disk(config, ollama)
            async for finding in _outdated(config):
                yield finding
    yield await _finding_of(check_endpoint(config.hub))
    for mirror in config.hub.mirrors:
        yield await _finding_of(check_mirror(mirror))
    yield await asyncio.to_thread(_engines, config.pull.threads)
    yield await asyncio.to_thread(_spool, config)
    if config.server.is_open_to_network:
        url = config.server.address.url
        yield Finding("note", f"every client that reaches {url} can pull with this proxy's token; set api_keys")


async def _ollama(config: Config, ollama: Ollama, session: aiohttp.ClientSession) -> Finding:
    limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with session.get(f"{ollama.url}{PREFIX}health", timeout=limit) as response:
            if INSTANCE_HEADER in response.headers:
                return Finding(
                    "fail", f"ollama.url, {ollama.url}, is an ollama-hf-proxy itself; set it to Ollama's own address"
                )
    except (aiohttp.ClientError, TimeoutError):
        pass
    try:
        version = await ollama.version()
        capabilities = capabilities_of(version, config.ollama.version)
        capabilities.check_usable()
    except ProxyError as error:
        return Finding("fail", str(error))
    if capabilities.warning:
        return Finding("note", capabilities.warning)
    return Finding("ok", f"{capabilities.ollama} answers at {ollama.url}")


async def _reaches_proxy(config: Config) -> Finding:
    try:
        await check_reached(config)
    except ConfigError as error:
        return Finding("fail", str(error))
    except ProxyError as error:
        return Finding("note", str(error))
    return Finding(
        "ok", "Ollama reaches the proxy: it can pull finished models from it, and unneeded files are removed"
    )


async def _disk(config: Config, ollama: Ollama) -> Finding:
    try:
        free = await free_disk(config.ollama, ollama)
    except ProxyError as error:
        return Finding("fail", str(error))
    if free is None:
        return Finding("note", "the free disk space for Ollama is unknown; set ollama.models to its folder of models")
    if free < LOW_DISK_BYTES:
        return Finding(
            "note", f"Ollama has only {decimal(free)} of disk left; remove models that you do not use (ollama rm)"
        )
    return Finding("ok", f"Ollama has {decimal(free)} of disk left")


async def _outdated(config: Config) -> AsyncIterator[Finding]:
    try:
        models = await outdated(config)
    except ProxyError as error:
        yield Finding("note", f"the models that need an update are unknown: {error}")
        return
    for name, why in models.items():
        yield Finding("note", f"the next pull of {name} rebuilds it: {why}")


def _spool(config: Config) -> Finding:
    folder = spool_folder(config)
    if folder is None:
        return Finding("note", "an interrupted pull begins each unfinished file again, because pull.spool is off")
    size = Checkpoints(folder, config.pull.keep_seconds).size()
    return Finding("ok", f"{folder} keeps {decimal(size)} of unfinished pulls")


def _engines(threads: int) -> Finding:
    missing = [str(one) for one in Quantization if not is_available(one)]
    if missing:
        return Finding(
            "note",
            f"this machine cannot quantize to {', '.join(missing)} (engines: {engine_names()}); `pip "
            f"install {PACKAGE}` adds these types on Linux, Apple silicon and Windows (x86_64). On other machines, a C "
            "compiler during the installation of the proxy adds some of them, and numpy adds others",
        )
    count = worker_count(threads)
    threads_of_cores = f"{count} {'thread' if count == 1 else 'threads'} on {cores()} cores"
    text = f"this machine can quantize to every type, with {engine_names()} and {threads_of_cores}"
    if not has_kernel():
        text += "; a wheel, or an installation with a C compiler, is several times as fast for Q2_K to Q6_K and IQ4"
    return Finding("ok", text)


async def _finding_of(check: Awaitable[str]) -> Finding:
    try:
        return Finding("ok", await check)
    except ProxyError as error:
        return Finding("fail", str(error))
