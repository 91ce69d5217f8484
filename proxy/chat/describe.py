"""Describes a Jinja chat template: the Go template for it, and the facts that the proxy needs to know."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from proxy.chat import go_template
from proxy.chat.conversations import Conversation, Dialect, compose, ordinary_text, sentinel
from proxy.chat.detection import detect_dialect, detect_think_tags
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.learner import Scope
from proxy.chat.llama_server import LlamaServer
from proxy.chat.program import Text
from proxy.chat.renderer import Renderer
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.search import Attempt, Search, call_blocks
from proxy.chat.segmentation import UnsupportedTemplate
from proxy.chat.stops import find_stops
from proxy.chat.verify import is_exact, verify_native, verify_thinking

LARGEST = 256 * 1024
_SAMPLES = ("SUAU", "UAU", "U")
_SYSTEM_WARNINGS = {
    "ignored": "the chat template ignores system messages",
    "elsewhere": "the chat template puts system messages where a Go template cannot; they open the first user message",
    "refused": "the chat template refuses system messages; they open the first user message instead",
}


def describe(source: str, facts: TokenizerFacts) -> ChatTemplate:
    if any("\ud800" <= letter <= "\udfff" for letter in source):
        return ChatTemplate(warnings=("the chat template is not Unicode",))
    if len(source) > LARGEST:
        return ChatTemplate(warnings=("the chat template is too large to probe",))
    chat = ChatTemplate()
    try:
        sandbox = Sandbox(source, facts)
        dialect = detect_dialect(sandbox)
        chat = _describe_jinja(sandbox, facts, dialect)
        return _add_go_template(chat, sandbox, facts, dialect)
    except Unrenderable as error:
        return replace(chat, warnings=(f"the chat template cannot be rendered: {str(error)[:300]}",))
    except UnsupportedTemplate as error:
        return replace(chat, warnings=(f"the chat template cannot be written as a Go template: {error}",))


def _describe_jinja(sandbox: Sandbox, facts: TokenizerFacts, dialect: Dialect) -> ChatTemplate:
    """The facts that hold without a Go template too."""
    server = LlamaServer(sandbox.source, facts, sandbox.now)
    return ChatTemplate(
        native=verify_native(server, Renderer(sandbox, dialect), toggles=bool(dialect.toggle)),
        loads=server.starts(),
        trims=_trims(sandbox, dialect),
        sample=_render_sample(sandbox, dialect),
    )


def _trims(sandbox: Sandbox, dialect: Dialect) -> bool:
    for conversation, text, _ in _render_samples(
        sandbox, dialect, lambda index, kind: f"\n {sentinel(index, kind)} \n"
    ):
        return any(message.content.strip() in text and message.content not in text for message in conversation.messages)
    return False


def _render_sample(sandbox: Sandbox, dialect: Dialect) -> str:
    for _, text, emits_bos in _render_samples(sandbox, dialect, ordinary_text):
        return sandbox.bos + text if emits_bos else text
    return ""


def _render_samples(
    sandbox: Sandbox, dialect: Dialect, text: Callable[[int, str], str]
) -> Iterator[tuple[Conversation, str, bool]]:
    """The conversations that the Jinja renders, the results without BOS, and whether they had one."""
    for shape in _SAMPLES:
        conversation, renderer = compose(shape, text), Renderer(sandbox, dialect)
        with suppress(Unrenderable):
            yield conversation, renderer.render(conversation), renderer.emits_bos


def _add_go_template(chat: ChatTemplate, sandbox: Sandbox, facts: TokenizerFacts, dialect: Dialect) -> ChatTemplate:
    think_tags = detect_think_tags(sandbox, dialect)
    search = Search(sandbox, dialect, think_tags)
    best = search.best()
    thinking: dict[str, bool] = {}
    if dialect.toggle:
        thinking = verify_thinking(best.program, Renderer(sandbox, dialect), thinks=think_tags is not None)
    call_openers = [block.then[0].text for block in call_blocks(best.program) if isinstance(block.then[0], Text)]
    inner_text = "".join((*call_openers, *(think_tags or ())))
    chat_format = best.chat_format
    end_of_turn, stops = find_stops(chat_format.end_of_turn, chat_format.user_marker, facts, inner_text)
    return replace(
        chat,
        template=go_template.write(best.program),
        stops=stops,
        end_of_turn=end_of_turn,
        capabilities=frozenset(_capabilities(best.scope, thinks=think_tags is not None)),
        exact=is_exact(best.shapes),
        shapes=thinking | best.shapes,
        emits_bos=best.emits_bos,
        think_tags=think_tags,
        warnings=tuple(_warnings(best, search.failures, sandbox, dialect)),
    )


def _capabilities(scope: Scope, *, thinks: bool) -> Iterator[str]:
    if scope.tools:
        yield "tools"
    if thinks:
        yield "thinking"
    if scope.system_place != "ignored":
        yield "system"


def _warnings(attempt: Attempt, failures: list[str], sandbox: Sandbox, dialect: Dialect) -> Iterator[str]:
    scope = attempt.scope
    different = [name for name, same in attempt.shapes.items() if not same and name != "late system"]
    if different:
        yield f"the Go template differs from the chat template in these conversations: {', '.join(different)}"
    if scope.system_place in _SYSTEM_WARNINGS:
        yield _SYSTEM_WARNINGS[scope.system_place]
    if sandbox.frozen_dates:
        yield "the chat template writes a date or time in a form that Ollama cannot; it stays at the date of the pull"
    if scope.drops_calls:
        yield "the chat template leaves tool calls out of the history"
    if not scope.tools and "tools" in sandbox.source:
        reasons = "; ".join(dict.fromkeys(failures))
        yield "the chat template's tools are not supported" + (f": {reasons}" if reasons else "")
    if dialect.toggle and not scope.think:
        yield "thinking cannot be switched off"
