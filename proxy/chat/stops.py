"""Which texts end an answer."""

import re

from proxy.chat.facts import TokenizerFacts

_TOKEN = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,40}\]")
# Shorter ones, or ones without a sign or a capital, would stop an answer in mid-sentence.
_MARKER = re.compile(r"#{1,6} ?[^\n:]{1,40}:?|\*{0,2}[^\W\d_][\w ]{0,40}:\*{0,2}")


def first_token(text: str, facts: TokenizerFacts) -> str:
    """The special token that a text opens with, spaces aside, or ""."""
    opened = text.lstrip()
    known = [token for token in (*facts.added, *facts.eos) if token.strip() and opened.startswith(token)]
    if known:
        return max(known, key=len)
    match = _TOKEN.match(opened)
    return match[0] if match else ""


def stops(end_of_turn: str, user_marker: str, facts: TokenizerFacts, inside: str) -> tuple[str, tuple[str, ...]]:
    """The end-of-turn token ("" for a text-style template) and all stops.

    `inside` is what surrounds thoughts and tool calls: its tokens are no stops.
    """
    token = first_token(end_of_turn, facts)
    if token == facts.bos:
        token = ""
    found = [token, *facts.eos]
    if not token:
        found.append(first_token(user_marker, facts))
        line = next((line.strip() for line in reversed(user_marker.splitlines()) if line.strip()), "")
        match = _MARKER.match(line)
        found.append(match[0].strip() if match else "")
    chosen = [
        text
        for text in dict.fromkeys(found)
        if text and text != facts.bos and (text in facts.eos or text not in inside)
    ]
    return (token if token in chosen else ""), tuple(chosen)
