"""From Ollama 0.30 on: whether a model needs a Go template, or is better off with the authors' Jinja. Pure."""

import re

from proxy.chat.facts import ChatTemplate


def needs_go(source: str, chat: ChatTemplate) -> bool:
    """Whether llama-server does not start with the Jinja, or Ollama would use a Go template that is right more often.

    The two are compared in the kinds of conversation that are known of both. In the others, such as tool calls,
    llama-server renders the authors' own template.
    """
    if not chat.loads:
        return True
    kinds = chat.native.keys() & chat.shapes.keys()
    gains = sum(chat.shapes[kind] for kind in kinds) > sum(chat.native[kind] for kind in kinds)
    return bool(chat.template) and gains and not _prefers_jinja(source, chat)


def jinja_capabilities(source: str) -> frozenset[str]:
    """What Ollama takes a Jinja to support (chatTemplateCapabilities in server/images.go, 0.33 to 0.40)."""
    capabilities = set()
    if "tools" in source or "tool_call" in source:
        capabilities.add("tools")
    has_tags = "<think>" in source and "</think>" in source
    drops_thoughts = re.search(r"""content\.split\((['"])</think>\1\)""", source) and "reasoning_content" not in source
    if has_tags or (drops_thoughts and "<SPECIAL_12>" not in source):
        capabilities.add("thinking")
    return frozenset(capabilities)


def _prefers_jinja(source: str, chat: ChatTemplate) -> bool:
    """Whether Ollama uses the Jinja although there is a Go template.

    shouldPreferChatTemplate in server/images.go (0.40) counts what each of the two supports. If they support the same,
    with tools, it looks for the calls and their ids.
    """
    of_jinja, of_go = jinja_capabilities(source), chat.capabilities & {"tools", "thinking"}
    if len(of_jinja) != len(of_go) or "tools" not in of_jinja & of_go:
        return len(of_jinja) > len(of_go)
    return ("[CALL_ID]" in source and "tool_call.id" in source) or ".ToolCalls" not in chat.template
