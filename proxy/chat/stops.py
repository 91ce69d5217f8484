"""Finds the texts that end an answer."""

import re

from proxy.chat.facts import TokenizerFacts

_TOKEN = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,40}\]")
# A shorter marker, or one without a sign or a colon, would stop an answer in mid-sentence.
_MARKER = re.compile(r"#{1,6} ?[^\n:]{1,40}:?|\*{0,2}[^\W\d_][\w ]{0,40}:\*{0,2}")


def first_token(text: str, facts: TokenizerFacts) -> str:
    """The special token at the start of a text, after spaces; "" if there is none."""
    stripped = text.lstrip()
    known = [token for token in (*facts.added, *facts.eos) if token.strip() and stripped.startswith(token)]
    if known:
        return max(known, key=len)
    match = _TOKEN.match(stripped)
    return match[0] if match else ""


def find_stops(
    end_of_turn: str, user_marker: str, facts: TokenizerFacts, inner_text: str
) -> tuple[str, tuple[str, ...]]:
    """The end-of-turn token ("" if turns end with plain text) and all stops.

    `inner_text` surrounds thoughts and tool calls: its tokens must not stop an answer.
    """
    token = first_token(end_of_turn, facts)
    if token == facts.bos:
        token = ""
    candidates = [token, *facts.eos]
    if not token:
        candidates.append(first_token(user_marker, facts))
        last_line = next((line.strip() for line in reversed(user_marker.splitlines()) if line.strip()), "")
        match = _MARKER.match(last_line)
        candidates.append(match[0].strip() if match else "")
    stops = [
        text
        for text in dict.fromkeys(candidates)
        if text and text != facts.bos and (text in facts.eos or text not in inner_text)
    ]
    return (token if token in stops else ""), tuple(stops)
