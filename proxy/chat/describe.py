"""From a Jinja and the tokenizer's facts to the result: finds out what kind of template it is, learns it, checks it."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from proxy.chat import go_template, toolcalls
from proxy.chat.conversations import Conversation, Dialect, compose, sentinel, spoken
from proxy.chat.cutting import Cutter, Unmodelled
from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.learning import Learned, Learner, Scope, find_place
from proxy.chat.llama_server import LlamaServer
from proxy.chat.program import Each, If, Node, Text
from proxy.chat.sandbox import Sandbox, Unrenderable
from proxy.chat.stops import stops
from proxy.chat.synthesis import synthesise
from proxy.chat.verify import exact, verify, verify_native

LARGEST = 256 * 1024
_ANGLED = re.compile(r"</?([\w:]*(?:think|thought|reason)[\w:]*)>")
_SQUARE = re.compile(r"\[/?([A-Z_]*(?:THINK|REASON)[A-Z_]*)\]")
_START_END = re.compile(r"<\|(START|END)_([A-Z_]*(?:THINK|REASON)[A-Z_]*)\|>")
_OPENING = re.compile(r"(<[^<>\s]{1,40}>\w*|\[[A-Z_]{1,40}\])\s*\Z")
_CLOSING = re.compile(r"\s*(<[^<>\s]{1,40}>|\[/[A-Z_]{1,40}\])")
# A sentinel, or what `repr` or an ASCII-only `json` made of one.
_LEFT_OVER = re.compile(r"[\ue000-\ue005]|\\ue00[0-5]")
_SAMPLES = ("SUAU", "UAU", "U")
_TOGGLE = re.compile(r"\b[a-z_]*(?:think|reason)[a-z_]*\b")


@dataclass(frozen=True, slots=True)
class _Attempt:
    scope: Scope
    learned: Learned
    program: tuple[Node, ...]
    shapes: dict[str, bool]
    emits_bos: bool

    @property
    def score(self) -> tuple[bool, int]:
        return exact(self.shapes), sum(self.shapes.values())


def describe(source: str, facts: TokenizerFacts) -> ChatTemplate:
    if any("\ud800" <= letter <= "\udfff" for letter in source):
        return ChatTemplate(warnings=("the chat template is not Unicode",))
    if len(source) > LARGEST:
        return ChatTemplate(warnings=("the chat template is too large to probe",))
    known = ChatTemplate()
    try:
        description = _Description(source, facts)
        known = description.as_jinja()
        result = description.result()
        return replace(result, native=known.native, loads=known.loads, trims=known.trims, sample=known.sample)
    except Unrenderable as error:
        return replace(known, warnings=(f"the chat template cannot be rendered: {str(error)[:300]}",))
    except Unmodelled as error:
        return replace(known, warnings=(f"the chat template cannot be said in Go: {error}",))


def think_tags(source: str) -> tuple[str, str] | None:
    for pattern, opening, closing in (
        (_ANGLED, "<{}>", "</{}>"),
        (_SQUARE, "[{}]", "[/{}]"),
    ):
        match = pattern.search(source)
        if match:
            return opening.format(match[1]), closing.format(match[1])
    match = _START_END.search(source)
    return (f"<|START_{match[2]}|>", f"<|END_{match[2]}|>") if match else None


def _ladder(scope: Scope, *, think: bool) -> Iterable[Scope]:
    """From all that may be asked of a template down to what every one should do."""
    for thinks in (True, False) if think else (False,):
        for late, extras in ((True, True), (False, True), (False, False)):
            if scope.late_system or not late:
                yield replace(scope, think=thinks, late_system=late, extras=extras)


class _Description:
    def __init__(self, source: str, facts: TokenizerFacts) -> None:
        self._source, self._facts = source, facts
        self._sandbox = Sandbox(source, facts)
        self._tags = think_tags(source)
        self._warnings: list[str] = []
        self._dialect = self._plain_dialect()
        self._dialect = replace(self._dialect, toggle=self._toggle())
        # Where a template says that its model thinks but not how, the tags are the ones that nearly all models use.
        self._tags = self._tags or self._probed_tags() or (("<think>", "</think>") if self._dialect.toggle else None)

    def result(self) -> ChatTemplate:
        attempts = list(self._attempts())
        if not attempts:
            raise Unmodelled("; ".join(dict.fromkeys(self._warnings)) or "nothing was understood")
        best = max(attempts, key=lambda attempt: attempt.score)
        return self._told(best)

    def as_jinja(self) -> ChatTemplate:
        """What is known of it without a Go template."""
        server = LlamaServer(self._source, self._facts, self._sandbox.now)
        native, loads = verify_native(server, self._learner().render)
        return ChatTemplate(native=native, loads=loads, trims=self._trims(), sample=self._sample())

    def _trims(self) -> bool:
        for conversation, text, _ in self._samples(lambda index, kind: f"\n {sentinel(index, kind)} \n"):
            return any(
                message.content.strip() in text and message.content not in text for message in conversation.messages
            )
        return False

    def _sample(self) -> str:
        for _, text, emits_bos in self._samples(spoken):
            return self._facts.bos + text if emits_bos else text
        return ""

    def _samples(self, say: Callable[[int, str], str]) -> Iterator[tuple[Conversation, str, bool]]:
        """Those that the Jinja renders, how, and whether it opens with BOS."""
        for shape in _SAMPLES:
            conversation, learner = compose(shape, say), self._learner()
            with suppress(Unrenderable):
                yield conversation, learner.render(conversation), learner.emits_bos

    def _learner(self, dialect: Dialect | None = None) -> Learner:
        return Learner(self._sandbox, dialect or self._dialect, self._facts.bos, self._tags)

    def _renders(self, dialect: Dialect, shape: str, tools: int = 0) -> str | None:
        try:
            return self._learner(dialect).render(compose(shape, sentinel, tools))
        except Unrenderable:
            return None

    def _plain_dialect(self) -> Dialect:
        for shape in ("U", "SU"):
            for dialect in (Dialect(), Dialect(bare=True), Dialect(parts=True)):
                text = self._renders(dialect, shape)
                if text is not None and sentinel(len(shape) - 1, "u") in text:
                    return dialect
        self._learner(Dialect()).render(compose("U", sentinel))
        raise Unmodelled("it leaves out what the user says")

    def _toggle(self) -> str:
        names = {match[0] for match in _TOGGLE.finditer(self._source)}
        for name in sorted(names, key=lambda name: (name not in self._sandbox.variables, len(name), name))[:12]:
            dialect = replace(self._dialect, toggle=name)
            for shape in ("U", "SU", "UAU"):
                forms: set[str] = set()
                for think in ("on", "off"):
                    with suppress(Unrenderable):
                        forms.add(self._learner(dialect).render(compose(shape, sentinel, 0, think)))
                if len(forms) > 1:
                    return name
        return ""

    def _probed_tags(self) -> tuple[str, str] | None:
        for shape in ("UKU", "URT"):
            text = self._renders(self._dialect, shape, 2 * (shape == "URT")) or ""
            before, thought, after = text.partition(sentinel(1, "k"))
            opening, closing = _OPENING.search(before), _CLOSING.match(after)
            if thought and opening and closing:
                return opening[1], closing[1]
        return None

    def _attempts(self) -> Iterable[_Attempt]:
        base = self._base_scope()
        think = bool(self._dialect.toggle and self._tags)
        plain = self._dialect
        kinds = [(plain, base)]
        calling = self._tool_scope(base)
        if calling:
            kinds.insert(0, calling)
        for lenient in (False, True):
            for dialect, scope in kinds:
                self._dialect = dialect
                for tried in _ladder(replace(scope, lenient=lenient), think=think):
                    attempt = self._attempt(tried)
                    if attempt:
                        yield attempt
                        if all(attempt.shapes.values()):
                            return
                        if lenient:
                            break
                self._dialect = plain

    def _attempt(self, scope: Scope) -> _Attempt | None:
        learner = self._learner()
        for marked in (True, False):
            self._sandbox.mark_dates = marked
            try:
                learned, program = self._understood(learner, scope)
            except Unmodelled as error:
                self._warnings.append(str(error))
                continue
            shapes = verify(
                program,
                learner.render,
                self._sandbox,
                tools=scope.tools,
                think=scope.think,
                thought=self._tags is not None and "thinking" in learned.gaps,
            )
            if exact(shapes) or not marked:
                return _Attempt(scope, learned, program, shapes, learner.emits_bos)
        return None

    def _understood(self, learner: Learner, scope: Scope) -> tuple[Learned, tuple[Node, ...]]:
        learned = learner.learn(scope)
        program = synthesise(learned, self._tags)
        if _LEFT_OVER.search(go_template.write(program)):
            raise Unmodelled("it rewrites what messages or tools say")
        if scope.tools and not learned.tools:
            raise Unmodelled("tools are not written as JSON")
        if scope.tools and not self._readable(learned):
            raise Unmodelled("tool calls are written in a way that Ollama's parser cannot read")
        return learned, program

    def _base_scope(self) -> Scope:
        learner = self._learner()
        place = "refused"
        for shape in ("SUAU", "SU"):
            conversation = compose(shape, sentinel)
            try:
                slots, _ = Cutter().cut(learner.render(conversation), conversation)
            except Unrenderable:
                continue
            except Unmodelled:
                place = "elsewhere"
                continue
            place = find_place(slots)
            break
        late = compose("UASU", sentinel)
        try:
            order = [slot.kind for slot in Cutter().cut(learner.render(late), late)[0]]
        except (Unrenderable, Unmodelled):
            order = []
        in_place = order == ["user", "assistant", "system", "user"]
        if place == "in place" and not in_place:
            place = "head"
        return Scope(tools=False, think=False, place=place, late_system=place == "in place")

    def _tool_scope(self, base: Scope) -> tuple[Dialect, Scope] | None:
        """How the template wants calls, or None where it has no tools in the sense of Ollama."""
        plain = self._renders(self._dialect, "U")
        with_tools = self._renders(self._dialect, "U", 2)
        if "tools" not in self._source or with_tools is None or with_tools == plain:
            return None
        for identifiers in (False, True):
            for text_arguments in (False, True):
                dialect = replace(self._dialect, identifiers=identifiers, text_arguments=text_arguments)
                text = self._renders(dialect, "UCT", 2)
                if text is None:
                    continue
                drops = sentinel(1, "n0") not in text
                if not drops and sentinel(1, "v0") not in text:
                    continue
                scope = replace(base, tools=True, drops_calls=drops, encoded_results=self._encodes(dialect))
                return dialect, scope
        self._warnings.append("a conversation with tool calls cannot be rendered")
        return None

    def _encodes(self, dialect: Dialect) -> bool:
        conversation = compose("UCT", lambda index, kind: 'q"q' if kind == "t" else sentinel(index, kind), 2)
        try:
            return 'q\\"q' in self._learner(dialect).render(conversation)
        except Unrenderable:
            return False

    def _readable(self, learned: Learned) -> bool:
        """Whether what the Jinja writes for a call is what Ollama's parser will find."""
        if learned.scope.drops_calls:
            return True
        opener = next((node.then[0] for node in _calls(synthesise(learned, self._tags))), None)
        if not isinstance(opener, Text) or learned.calls is None:
            return False
        try:
            answer = self._learner().render(compose("UC", spoken, 1), generation=False)
        except Unrenderable:
            answer = self._learner().render(compose("UCT", spoken, 1))
        start = max(answer.rfind(opener.text), 0)
        return toolcalls.read(answer[start:], toolcalls.tag(opener.text), "look_up") == {"place": "Malmö 1"}

    def _told(self, best: _Attempt) -> ChatTemplate:
        learned, shapes = best.learned, best.shapes
        text = go_template.write(best.program)
        tools, think = best.scope.tools, self._tags is not None
        inside = "".join(node.then[0].text for node in _calls(best.program) if isinstance(node.then[0], Text))
        token, found = stops(learned.end_of_turn, learned.user_marker, self._facts, inside + "".join(self._tags or ()))
        capabilities = {"tools"} if tools else set()
        if think:
            capabilities.add("thinking")
        if best.scope.place != "ignored":
            capabilities.add("system")
        return ChatTemplate(
            template=text,
            stops=found,
            end_of_turn=token,
            capabilities=frozenset(capabilities),
            exact=exact(shapes),
            shapes=shapes,
            emits_bos=best.emits_bos,
            think_tags=self._tags,
            warnings=tuple(dict.fromkeys(self._cautions(best))),
        )

    def _cautions(self, best: _Attempt) -> Iterable[str]:
        wrong = [name for name, same in best.shapes.items() if not same and name != "late system"]
        if wrong:
            yield f"the Go template differs from the chat template here: {', '.join(wrong)}"
        if best.scope.place == "ignored":
            yield "the chat template ignores system messages"
        if best.scope.place == "elsewhere":
            yield "the chat template puts system messages where Go cannot; they open the first user turn instead"
        if best.scope.place == "refused":
            yield "the chat template refuses system messages; they open the first user turn instead"
        if self._sandbox.frozen_dates:
            yield "the chat template writes a date in a form that Ollama cannot; it is today's for good"
        if best.scope.drops_calls:
            yield "the chat template leaves tool calls out of the history"
        if not best.scope.tools and "tools" in self._source:
            yield from self._warnings
            yield "tools are not supported"
        if self._dialect.toggle and not best.scope.think:
            yield "thinking cannot be switched off"


def _calls(nodes: Iterable[Node]) -> Iterable[If]:
    for node in nodes:
        if isinstance(node, Each):
            yield from _calls(node.body)
        elif isinstance(node, If):
            if getattr(node.test, "feature", "") == "called":
                yield node
            yield from _calls(node.then)
            yield from _calls(node.other)
