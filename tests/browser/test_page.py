"""The page in a browser: with the mouse, with the keyboard, in dark mode, on a phone."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.config.values import Quantization
from proxy.gguf import engine_ggml
from proxy.planning.capabilities import UNSUPPORTED
from proxy.planning.quantizations import USUAL
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.browser.devtools import Page
from tests.kit.support import Client, eventually, settings
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:q8_0"
SLOW = 400_000
MARKUP = "<img src=x onerror=\"document.title='owned'\">"
SHOTS = os.environ.get("SHOTS")
"""A folder for screenshots of the tests."""

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


@pytest.fixture(autouse=True)
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama(shards=4)
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
async def opened(page: Page, app: App) -> AsyncIterator[Page]:
    """The page. The test fails if the console has a message at the end."""
    await page.open(f"{app.address.url}/-/")
    await page.until("document.querySelector('#ollama.up')")
    yield page
    assert page.problems == []


async def take_screenshot(page: Page, name: str) -> None:
    if SHOTS:
        await page.shoot(Path(SHOTS, f"{name}.png"))


async def plan(page: Page, name: str) -> None:
    """Type a name, and wait for its plan."""
    await page.click("#name")
    await page.value("document.getElementById('name').select()")
    await page.type(name)
    await page.press("Enter")
    await page.until("document.getElementById('inspecting').textContent === '' && plan !== null")
    await page.until("document.getElementById('plan').getAttribute('aria-busy') === 'false'")


async def wait_until_moving(page: Page) -> None:
    await page.until("running.some((pull) => pull.completed > 0 && pull.completed < pull.total)")


async def test_a_pull_from_its_name_to_success(
    opened: Page, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    await plan(opened, "hf.co/acme/tiny")
    plan_text = await opened.text("#plan")
    commit = hub.repositories["acme/tiny"].commit
    for text in (
        "hf.co/acme/tiny:latest",
        f"acme/tiny · commit {commit[:7]} · safetensors",
        "to download\n3.4 MB",
        "model size\n≈ 1.1 MB",
        "The proxy converts LlamaForCausalLM, as Q4_K_M",
        "tokenizer_config.json, exactly as its authors wrote it",
        "stop <|eot_id|>",
    ):
        assert text in plan_text
    offers = "[...document.querySelectorAll('#offers button')].map((one) => one.innerText)"
    assert [text.split("\n")[0] for text in await opened.value(offers)] == [
        *("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16")
    ]
    assert await opened.text("#offers [aria-pressed=true]") == "Q4_K_M\n1.1 MB"
    await opened.click("#files summary")
    assert "model.gguf\t1.1 MB\tno" in await opened.text("#files")
    assert not [request for request in ollama.requests if request.method == "POST"]
    await opened.click("#offers li:nth-child(4) button")
    await opened.until("document.getElementById('plan-name').textContent === 'hf.co/acme/tiny:Q8_0'")
    await take_screenshot(opened, "plan")
    hub.line = SLOW
    await opened.click("#pull")
    await wait_until_moving(opened)
    await opened.until("document.querySelector('#running .files li')")
    shown = await opened.text("#running")
    assert "hf.co/acme/tiny:Q8_0\nCancel" in shown
    assert "kB of 3.4 MB" in shown or "MB of 3.4 MB" in shown
    assert "of 4 files" in shown
    assert "model-0000" in shown
    await opened.until("running[0].eta > 0 && running[0].rate > 0")
    await opened.shows("#running", "kB/s")
    await opened.shows("#running", "s left")
    assert await opened.text("#pull") == "Pulling …"
    assert (await opened.value("document.title")).endswith("% · ollama-hf-proxy")
    drawn = "(({value, max}) => [value, max])(document.querySelector('#running progress'))"
    value, most = await opened.value(drawn)
    assert 0 < value < most == sum(len(data) for path, data in files.items() if path.endswith(".safetensors"))
    await take_screenshot(opened, "mid-pull")
    hub.line = None
    await opened.shows("#ended .done", "hf.co/acme/tiny:Q8_0")
    assert await opened.text("#running") == ""
    await opened.shows("#models", f"acme/tiny at {commit[:7]}")
    await opened.shows("#models", "Up to date")
    assert await opened.text("#pull") == "Pull it"
    assert await opened.value("document.title") == "ollama-hf-proxy"
    assert "hf.co/acme/tiny:Q8_0" in ollama.models


async def test_a_refusal_shows_the_reason_and_alternatives(
    opened: Page, hub: StandInHub, ollama: StandInOllama
) -> None:
    strange = {**tiny_llama(), "config.json": orjson.dumps({"architectures": ["StrangeForCausalLM"]})}
    hub.add("acme/strange", strange)
    hub.add("acme/strange-GGUF", {"strange.Q4_K_M.gguf": tiny_gguf()}, quantized_from="acme/strange")
    await plan(opened, "hf.co/acme/strange")
    assert "this proxy does not know the architecture StrangeForCausalLM" in await opened.text("#refusal")
    assert await opened.text("#choice") == "What would work\n\nhf.co/acme/strange-GGUF"
    assert await opened.text("#pull") == ""
    await take_screenshot(opened, "refusal")
    await opened.click("#offers button")
    await opened.until("document.getElementById('plan-name').textContent.startsWith('hf.co/acme/strange-GGUF')")
    assert await opened.text("#refusal") == ""
    assert await opened.text("#pull") == "Pull it"
    await plan(opened, "hf.co/acme/tiny:iq1_s")
    assert "IQ1_S needs an importance matrix" in await opened.text("#refusal")
    assert "Q4_K_M\n1.1 MB" in await opened.text("#choice")
    assert not [request for request in ollama.requests if request.method == "POST"]


async def test_a_reload_shows_the_running_pull(opened: Page, app: App, hub: StandInHub, ollama: StandInOllama) -> None:
    hub.line = SLOW
    await plan(opened, NAME)
    await opened.click("#pull")
    await wait_until_moving(opened)
    before = await opened.value("running[0]")
    await opened.reload()
    await wait_until_moving(opened)
    after = await opened.value("running[0]")
    assert (after["id"], after["started"]) == (before["id"], before["started"])
    assert after["completed"] >= before["completed"]
    await opened.until("document.getElementById('plan-name').textContent === 'hf.co/acme/tiny:q8_0'")
    assert await opened.text("#pull") == "Pulling …"
    await opened.call("Page.navigate", url="about:blank")
    await asyncio.sleep(0.3)
    [job] = app.jobs.all()
    assert job.ended is None
    hub.line = None
    await eventually(lambda: job.ended)
    assert (job.error, NAME in ollama.models) == (None, True)


async def test_a_pull_can_be_cancelled_and_restarted(opened: Page, app: App, hub: StandInHub) -> None:
    hub.line = SLOW
    await plan(opened, NAME)
    await opened.click("#pull")
    await wait_until_moving(opened)
    await opened.click("#running button")
    await opened.shows("#ended .cancelled", "was cancelled; finished files stay for the next pull")
    assert await opened.text("#running") == ""
    hub.line = None
    await opened.click("#ended .cancelled button")
    await opened.shows("#ended .done", NAME)
    assert [job.error is None for job in app.jobs.all()] == [True, False]


async def test_pulls_of_other_clients_are_shown(opened: Page, app: App, hub: StandInHub, client: Client) -> None:
    hub.line = SLOW
    pulling = asyncio.create_task(client.pull("hf.co/acme/tiny:f16"))
    await opened.shows("#running", "hf.co/acme/tiny:f16")
    hub.line = None
    await pulling
    await opened.shows("#ended .done", "hf.co/acme/tiny:f16")


async def test_one_click_updates_a_changed_model(
    opened: Page, hub: StandInHub, ollama: StandInOllama, client: Client
) -> None:
    await client.pull(NAME)
    repository = hub.repositories["acme/tiny"]
    first = ollama.models[NAME].digest
    await opened.shows("#models", "Up to date")
    assert await opened.text("#models button") == ""
    commit = repository.update(tiny_llama(seed=5, shards=4))
    await opened.reload()
    await opened.shows("#models .changed", "Changed on the Hub")
    await take_screenshot(opened, "moved")
    await opened.click("#models .changed button")
    await opened.shows("#models", f"acme/tiny at {commit[:7]}")
    await opened.shows("#models", "Up to date")
    assert ollama.models[NAME].digest != first


async def test_the_keyboard_can_do_everything(opened: Page, app: App, hub: StandInHub, client: Client) -> None:
    hub.line = SLOW
    focused = "document.activeElement.id || document.activeElement.innerText"

    async def tab_to(target: str) -> None:
        for _ in range(40):
            await opened.press("Tab")
            now = await opened.value(focused)
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert now == "" or await opened.value(outline) == "solid", now
            if str(now).startswith(target):
                return
        raise AssertionError(f"the keyboard does not reach {target}")

    await tab_to("name")
    await opened.type("hf.co/acme/tiny")
    await opened.press("Enter")
    await opened.until("!document.getElementById('plan').hidden")
    await tab_to("Show the plan")
    await tab_to("pull")
    await tab_to("Q8_0")
    await opened.press(" ")
    await opened.until("document.getElementById('plan-name').textContent === 'hf.co/acme/tiny:Q8_0'")
    assert str(await opened.value(focused)).startswith("Q8_0")
    for _ in range(4):
        await opened.press("Tab", shift=True)
    assert await opened.value(focused) == "pull"
    await opened.press("Enter")
    await wait_until_moving(opened)
    assert await opened.value(focused) == "pull"
    await tab_to(
        "1 file" if await opened.value("plan.files.length === 1") else str(await opened.value("plan.files.length"))
    )
    await opened.press("Enter")
    assert await opened.value("document.getElementById('files').open")
    await tab_to("Cancel")
    await opened.press("Enter")
    await opened.shows("#ended", "was cancelled")
    assert await opened.value("document.activeElement.id") == "pulls-title"
    await tab_to("Pull again")
    for _ in range(10):  # and out of the page again
        await opened.press("Tab")
        if await opened.value("document.activeElement === document.body"):
            break
    else:
        raise AssertionError("the keyboard is trapped")


async def test_a_screen_reader_finds_landmarks_and_progress(opened: Page, hub: StandInHub) -> None:
    hub.line = SLOW
    await plan(opened, NAME)
    await opened.click("#pull")
    await wait_until_moving(opened)
    elements = await opened.accessible()
    for expected in (
        ("banner", ""),
        ("main", ""),
        ("region", "Pull a model"),
        ("region", "Pulls"),
        ("region", "Models"),
        ("textbox", "Name"),
        ("button", "Show the plan"),
        ("article", NAME),
        ("heading", NAME),
        ("list", "Running pulls"),
        ("progressbar", NAME),
        ("button", f"Cancel {NAME}"),
    ):
        assert expected in elements, (expected, elements)
    assert ("button", "") not in elements
    assert (
        await opened.value("document.getElementById('announcement').textContent") == f"The pull of {NAME} has started."
    )
    hub.line = None
    await opened.until(f"document.getElementById('announcement').textContent === '{NAME}: done'")


@pytest.mark.parametrize("dark", [False, True])
async def test_dark_mode_is_followed_and_contrast_is_sufficient(
    opened: Page, hub: StandInHub, client: Client, dark: bool
) -> None:
    await client.pull_at_once("hf.co/acme/none")
    await client.pull(NAME)
    await opened.set_viewport(1000, 900, dark=dark)
    await plan(opened, "hf.co/acme/tiny:q3_k_m")
    await opened.shows("#models", "Up to date")
    ground = await opened.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(19, 22, 21)" if dark else "rgb(246, 246, 244)")
    await take_screenshot(opened, "dark" if dark else "light")
    assert await opened.value(CONTRASTS) == []


CONTRASTS = """(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (part) => (part /= 255) <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = numbers(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3]) return color;
    }
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.matches("script, style, noscript, .unseen")) continue;
    const pair = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    if (ratio < 4.5) poor.push(`${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""
"""Texts with less contrast than WCAG requires."""


async def test_the_page_fits_a_narrow_phone(opened: Page, hub: StandInHub, client: Client) -> None:
    long = "acme-with-a-long-name/Tiny-Llama-of-Many-Words-3.1-8B-Instruct-Distilled"
    hub.add(long, tiny_llama(shards=2))
    await opened.set_viewport(360, 740)
    await client.pull_at_once("hf.co/acme/none")
    await client.pull(f"hf.co/{long}:q8_0")
    hub.line = SLOW // 4
    hub.add(long, tiny_llama(seed=1, shards=2))
    await plan(opened, f"hf.co/{long}:f16")
    await opened.click("#files summary")
    await opened.click("#pull")
    await wait_until_moving(opened)
    assert await opened.value("document.documentElement.scrollWidth") == 360
    outside = "[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > 360)"
    assert await opened.value(f"{outside}.map((one) => one.outerHTML)") == []
    await take_screenshot(opened, "360")


async def test_markup_from_outside_is_shown_as_text(opened: Page, hub: StandInHub, client: Client) -> None:
    files = {f"{MARKUP}.Q4_K_M.gguf": tiny_gguf(), "x.Q8_0.gguf": tiny_gguf("Q8_0")}
    hub.add("acme/markup", files)
    await plan(opened, "hf.co/acme/markup:Q4_K_M")
    await opened.click("#files summary")
    assert f"{MARKUP}.Q4_K_M.gguf" in await opened.text("#files")
    hub.line = SLOW // 2
    await opened.click("#pull")
    await opened.shows("#running .files", MARKUP[:20])
    await opened.click("#running button")
    await plan(opened, MARKUP)
    assert await opened.text("#plan-name") == MARKUP
    assert MARKUP in (await opened.text("#refusal")).replace("\\'", "'")
    assert await opened.value("document.querySelectorAll('img').length") == 0
    assert not (await opened.value("document.title")).startswith("owned")


async def test_the_browser_refuses_markup_from_the_script(opened: Page) -> None:
    """The policy protects the page even if somebody changes the script."""
    tried = "(() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } })()"
    assert await opened.value(tried) == "TypeError"
    await opened.value(
        "document.body.append(Object.assign(document.createElement('iframe'), {src: 'https://huggingface.co'}))"
    )
    await eventually(lambda: [text for text in opened.problems if "frame" in text])
    opened.problems.clear()


async def test_a_broken_event_stream_reconnects(
    page: Page, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Also after the proxy was down, answered 401, and was replaced by another process."""
    async with App(settings(hub.endpoint, ollama.url)) as first:
        address = first.address
        await page.open(f"{address.url}/-/")
        await page.until("document.querySelector('#ollama.up')")
    await page.shows("#link", "Connection lost")
    server = {"listen": f"{address.host}:{address.port}"}
    async with App(settings(hub.endpoint, ollama.url, server={**server, "api_keys": ["sk-own"]})):
        await page.until("stream.readyState === EventSource.CLOSED")
    async with App(settings(hub.endpoint, ollama.url, server=server)) as second:
        await page.until("document.getElementById('link').textContent === ''")
        await Client(second.address.url, session).pull_at_once("hf.co/acme/none")
        await page.shows("#ended", "acme/none")


async def test_a_key_in_the_address_works(page: Page, hub: StandInHub, ollama: StandInOllama) -> None:
    server = {"listen": "127.0.0.1:0", "api_keys": ["sk-own"]}
    async with App(settings(hub.endpoint, ollama.url, server=server)) as app:
        await page.open(f"{app.address.url}/-/")
        await page.shows("body", "This proxy needs a key")
        page.problems.clear()  # the 401 itself
        await page.open(f"{app.address.url}/-/key/sk-own/-/")
        await page.until("document.querySelector('#ollama.up')")
        await plan(page, NAME)
        await page.click("#pull")
        await page.shows("#ended .done", NAME)
        assert page.problems == []


async def test_an_error_is_shown(opened: Page, app: App, hub: StandInHub) -> None:
    await plan(opened, NAME)
    await opened.value("plan.name = 'nonsense'")
    await opened.click("#pull")
    await opened.shows("#trouble", "'nonsense' is not a name of the form hf.co/ORG/REPO[:TAG]")
    await plan(opened, NAME)
    assert await opened.text("#trouble") == ""
    opened.problems.clear()  # the 400 itself


@pytest.mark.parametrize("reached", [True, False])
async def test_a_slow_creation_is_shown_as_such(
    page: Page, hub: StandInHub, ollama: StandInOllama, *, reached: bool
) -> None:
    """Ollama pulls a manifest from the proxy, or creates the model if it cannot reach the proxy."""
    sections = {"advertise_url": "" if reached else "http://127.0.0.1:9"}
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=sections)) as app:
        await page.open(f"{app.address.url}/-/#hf.co/acme/tiny:q4_K_M")
        await page.click("#pull")
        await page.shows("#running", "Ollama creates the model\n")
        assert await page.value("document.querySelector('#running progress').position") == -1
        ollama.hold_making.set()
        await page.shows("#ended .done", "hf.co/acme/tiny:q4_K_M")
    assert await page.text("#running") == ""


@needs_ggml
async def test_other_quantizations_are_in_a_disclosure(page: Page, hub: StandInHub, ollama: StandInOllama) -> None:
    shown = "[...document.querySelectorAll('#{0} button .name')].map((one) => one.innerText)"
    is_open = "document.getElementById('others-choice').open"
    async with App(settings(hub.endpoint, ollama.url)) as app:
        await page.open(f"{app.address.url}/-/")
        await page.until("document.querySelector('#ollama.up')")
        await plan(page, "hf.co/acme/tiny")
        assert await page.value(shown.format("offers")) == ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16"]
        assert not await page.value(is_open)
        assert "IQ4_XS" not in await page.text("#choice")
        await page.value("document.querySelector('#others-choice summary').focus()")
        await page.press("Enter")
        assert await page.value(is_open)
        others = await page.value(shown.format("others"))
        assert set(others) == set(Quantization) - {*USUAL, *UNSUPPORTED, "MXFP4_MOE"}
        assert await page.value("[...document.querySelectorAll('#others .quiet')].every((one) => one.innerText)")
        await take_screenshot(page, "others")
        await page.click(f"#others li:nth-child({others.index('IQ4_XS') + 1}) button")
        await page.until("document.getElementById('plan-name').textContent === 'hf.co/acme/tiny:IQ4_XS'")
        assert (await page.text("#others [aria-pressed=true]")).startswith("IQ4_XS\n")
        assert await page.text("#offers [aria-pressed=true]") == ""
        await page.click("#pull")
        await page.shows("#ended .done", "hf.co/acme/tiny:IQ4_XS")
        assert ollama.models["hf.co/acme/tiny:IQ4_XS"].quantization_level == "IQ4_XS"
        # An address with one of them opens the disclosure and selects it.
        await page.open(f"{app.address.url}/-/#hf.co/acme/tiny:q2_k")
        await page.reload()
        await page.until("document.getElementById('plan-name').textContent === 'hf.co/acme/tiny:q2_k'")
        assert await page.value(is_open)
        assert (await page.text("#others [aria-pressed=true]")).startswith("Q2_K\n")
