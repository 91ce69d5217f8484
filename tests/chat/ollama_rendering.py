"""Renders a Go template as Ollama does (`template/template.go`, 0.24 and 0.33), with gotpl."""

import json
from datetime import datetime
from typing import Any

import gotpl

from proxy.chat.conversations import Conversation, Message
from proxy.chat.program import collate


class Struct(dict[str, Any]):
    """A Go struct: its fields are capitalized, the keys of its JSON are not."""

    def __init__(self, wire: object, **fields: Any) -> None:
        super().__init__(fields)
        self.wire = wire


def go_json(value: Any) -> str:
    wire = value.wire if isinstance(value, Struct) else value
    text = json.dumps(wire, ensure_ascii=False, separators=(",", ":"), sort_keys=not isinstance(value, Struct))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tool(tool: dict[str, Any]) -> Struct:
    function = tool["function"]
    inner = Struct(
        function,
        Name=function["name"],
        Description=function["description"],
        Parameters=Struct(function["parameters"], Type="object"),
    )
    return Struct(tool, Type="function", Function=inner)


def _message(message: Message) -> dict[str, Any]:
    return {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": [],
        "ToolCalls": [
            {"ID": call.identifier, "Function": {"Index": n, "Name": call.name, "Arguments": call.arguments}}
            for n, call in enumerate(message.calls)
        ],
        "ToolName": message.answered.name if message.answered else "",
        "ToolCallID": message.answered.identifier if message.answered else "",
    }


def render(template: str, conversation: Conversation, now: datetime) -> str:
    environment = gotpl.Environment(
        functions={"json": go_json, "currentDate": lambda *_: now.strftime("%Y-%m-%d")}, missing_key="zero"
    )
    data = {
        "System": "\n\n".join(message.content for message in conversation.messages if message.role == "system"),
        "Messages": [_message(message) for message in collate(conversation.messages)],
        "Tools": [_tool(tool) for tool in conversation.tools],
        "Response": "",
        "Think": conversation.think == "on",
        "ThinkLevel": "",
        "IsThinkSet": conversation.think != "",
    }
    return str(environment.from_string(template).render(data))
