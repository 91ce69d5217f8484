"""What a user of Open WebUI does: `$OPEN_WEBUI_BIN`, or `open-webui` on the PATH. Skipped if there is none.

The selectors of its dialogs are those of v0.12.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from tests.browser.devtools import Page
from tests.kit.real_ollama import RealOllama, running, wait_for
from tests.kit.smollm2 import Smollm2
from tests.kit.support import PULL_STATUSES, Client, digest_of, eventually, fetched

BINARY = os.environ.get("OPEN_WEBUI_BIN") or shutil.which("open-webui")
NAME = "hf.co/acme/SmolLM2:q4_K_M"
QUESTION = "What is the capital of France? Answer in one sentence."
SLOW = 30_000_000
SHOTS = os.environ.get("SHOTS")
"""A folder for screenshots."""

# One thread, because several threads wait for each other by spinning. Without `legacy`, Open WebUI sends its own tools
# with every message, and Ollama refuses them for a model whose template has no tools.
PARAMETERS = {"function_calling": "legacy", "temperature": 0, "max_tokens": 10, "num_ctx": 512, "num_thread": 1}
ENVIRONMENT = {
    "OFFLINE_MODE": "true",
    "WEBUI_AUTH": "false",
    "WEBUI_SECRET_KEY": "a key that has to have thirty-two bytes",
    "DEFAULT_MODEL_PARAMS": json.dumps(PARAMETERS),
    "RAG_EMBEDDING_ENGINE": "ollama",  # Open WebUI's own engine would download a model
    **dict.fromkeys(
        (
            "ENABLE_OPENAI_API",
            "ENABLE_TITLE_GENERATION",
            "ENABLE_TAGS_GENERATION",
            "ENABLE_FOLLOW_UP_GENERATION",
        ),
        "false",
    ),
}

FIELD = "input[placeholder*='mistral']"
DOWNLOAD = f"div:has(> {FIELD}) + div button"
BAR = ".leading-none[style^='width: ']"
PULL = f"[role=dialog] div:has(> div > div > {BAR})"
"""The bar, and the digest below it."""
TOASTS = "[...document.querySelectorAll('[data-sonner-toast]')].map((toast) => toast.innerText)"
UPDATING = r"""/Updating ".*"\s+\(\d?\d([.]\d)?%\)/.test(document.body.innerText)"""
STILL = """
    ((toasts) => toasts.length > 1 && toasts.every((toast) => toast.getAnimations().length === 0))(
        [...document.querySelectorAll("[data-sonner-toast][data-STATE=true]")]
    )
"""
"""The animations of the toasts have ended. Under the mouse, the toasts are side by side."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        BINARY is None,
        reason="no real Open WebUI here: put `open-webui` on the PATH, or its path in OPEN_WEBUI_BIN"
        " (pip install open-webui, in an environment of its own)",
    ),
]


@pytest.fixture(scope="module")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    """An Ollama with its own store: "update all" pulls all models in it."""
    with running(tmp_path_factory.mktemp("ollama")) as ollama:
        yield ollama


@pytest.fixture(scope="module")
def open_webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the real program. Every visitor is an administrator."""
    home = tmp_path_factory.mktemp("open-webui")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(BINARY), "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | ENVIRONMENT | {"DATA_DIR": str(home), "HF_HOME": str(home)}
    with (
        (home / "output").open("wb") as output,
        subprocess.Popen(command, cwd=home, env=environment, stdout=output, stderr=output) as server,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
async def user(open_webui: str) -> AsyncIterator[Client]:
    """A signed-in user of its API."""
    async with aiohttp.ClientSession() as session:
        user = Client(open_webui, session)
        _, signed_in = await user.post("/api/v1/auths/signin", {"email": "", "password": ""})
        session.headers["Authorization"] = f"Bearer {orjson.loads(signed_in)['token']}"
        no_changelog = {"ui": {"showChangelog": False}}
        assert (await user.post("/api/v1/users/user/settings/update", no_changelog))[0] == 200
        yield user


async def connect(user: Client, app: App) -> None:
    """Makes the proxy Open WebUI's only Ollama."""
    connection = {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": [app.address.url], "OLLAMA_API_CONFIGS": {}}
    assert (await user.post("/ollama/config/update", connection))[0] == 200


@pytest.fixture
def files(smollm2: Smollm2, hub: StandInHub) -> dict[str, bytes]:
    files = smollm2.files("BF16") | {"tokenizer_config.json": smollm2.tokenizer_config(chat_template=smollm2.jinja)}
    hub.add("acme/SmolLM2", files)
    return files


async def models(user: Client) -> dict[str, str]:
    """Name → digest of the models that it offers."""
    _, listed = await user.get("/api/models?refresh=true")
    return {model["id"]: model["ollama"]["digest"] for model in orjson.loads(listed)["data"]}


async def test_its_api_pulls_chats_and_deletes(
    user: Client, real_app: App, real_client: Client, files: dict[str, bytes]
) -> None:
    await connect(user, real_app)
    through_it = Client(f"{user.url}/ollama", user.session)
    lines = await through_it.pull(NAME)
    expected = [*PULL_STATUSES[:-1], "removing unused layers", "success"]
    statuses = [line["status"] for line in lines if "digest" not in line]
    assert [status for status in statuses if not status.startswith("warning: ")] == expected
    weights = files["model.safetensors"]
    bar = [line for line in lines if line.get("digest") == digest_of(weights)]
    steps = [line.get("completed", 0) for line in bar]
    assert {line["total"] for line in bar} == {len(weights)}
    assert steps == sorted(steps)
    assert len(steps) > 2
    assert steps[-1] == len(weights)

    assert list(await models(user)) == [NAME]
    chat = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "stream": False}
    status, answer = await user.post("/api/chat/completions", chat)
    assert status == 200, answer
    assert "Paris" in orjson.loads(answer)["choices"][0]["message"]["content"]

    for refused in ("hf.co/acme/none", "hf.co/acme/SmolLM2:iq2_xxs"):
        assert await through_it.pull(refused) == await real_client.pull(refused)

    async with user.session.delete(f"{through_it.url}/api/delete", json={"model": NAME}) as response:
        assert response.status == 200
    assert await models(user) == {}


async def shoot(page: Page, name: str) -> None:
    if SHOTS:
        await page.shoot(Path(SHOTS, f"open-webui-{name}.png"))


async def toast(page: Page, text: str) -> None:
    await page.until(f"{TOASTS}.some((toast) => toast.includes({text!r}))")


async def pull(page: Page, name: str) -> None:
    """Starts a pull in its dialog. The dialog clears the field after each pull."""
    await page.until(f"document.querySelector({FIELD!r})?.value === ''")
    await page.click(FIELD)
    await page.type(name)
    await page.click(DOWNLOAD)


async def moving(page: Page) -> None:
    await page.until(f"parseFloat(document.querySelector({BAR!r})?.innerText) % 100 > 0")


async def gone(page: Page) -> None:
    await page.until(f"!document.querySelector({BAR!r})")


async def open_dialog(page: Page, user: Client) -> None:
    """Opens the dialog that manages Ollama's models."""
    await page.set_viewport(1000, 800)
    await page.open(f"{user.url}/admin/settings/models")
    await page.click_button("Actions")
    await page.click_button("Manage")


async def update_all(page: Page, user: Client) -> None:
    await open_dialog(page, user)
    await page.click("[aria-label='Update All Models']")


async def test_its_dialog_pulls_cancels_resumes_and_updates(
    page: Page, user: Client, real_app: App, hub: StandInHub, files: dict[str, bytes]
) -> None:
    """The model also chats. The dialog shows only lines with a digest."""
    await connect(user, real_app)
    await open_dialog(page, user)
    hub.line = SLOW
    await pull(page, NAME)
    await moving(page)
    digest = digest_of(files["model.safetensors"])
    await page.shows(PULL, digest)
    await shoot(page, "downloading")
    [job] = real_app.jobs.all()
    await page.click("[role=dialog] [aria-label=Cancel]")
    await toast(page, f"{NAME} download has been canceled")
    await shoot(page, "cancelled")
    await gone(page)
    await eventually(lambda: not job.clients)
    assert job.ended is None

    await pull(page, NAME)
    await moving(page)
    assert real_app.jobs.all() == [job]
    hub.line = None
    await eventually(lambda: job.ended, 120)
    await toast(page, f"Model '{NAME}' has been successfully downloaded.")
    await gone(page)
    await shoot(page, "downloaded")

    await page.open(f"{user.url}/?model={NAME}")
    await page.click("#chat-input")
    await page.type(QUESTION)
    await page.press("Enter")
    await page.shows(".chat-assistant", "Paris")
    await shoot(page, "chat")

    before, moved = await models(user), fetched(hub)
    await update_all(page, user)
    await toast(page, "All models are up to date")
    assert (await models(user), fetched(hub)) == (before, moved)
    hub.repositories["acme/SmolLM2"].update({"generation_config.json": b'{"temperature": 0.5}'})
    hub.line = SLOW
    await update_all(page, user)
    await page.until(UPDATING)
    await shoot(page, "updating")
    hub.line = None
    await eventually(lambda: real_app.jobs.all()[0].ended, 120)
    await toast(page, "All models are up to date")
    after = await models(user)
    assert list(after) == list(before) == [NAME]
    assert after != before


async def test_its_dialog_shows_the_reason_of_a_refusal(
    page: Page, user: Client, real_app: App, real_client: Client, files: dict[str, bytes]
) -> None:
    name = "hf.co/acme/SmolLM2:iq2_xxs"
    [*_, refusal] = await real_client.pull(name)
    await connect(user, real_app)
    await open_dialog(page, user)
    await pull(page, name)
    await toast(page, refusal["error"])
    await toast(page, "Download canceled")
    await page.until(STILL.replace("STATE", "mounted"))
    await page.hover("[data-sonner-toast]")
    await page.until(STILL.replace("STATE", "expanded"))
    await shoot(page, "refused")
