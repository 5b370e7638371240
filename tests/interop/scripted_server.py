"""An OpenAI-compatible chat server that answers each question as the oracle would, by messages or by tool calls.

    python tests/interop/scripted_server.py PORT

It knows the question by its text and the round by the number of assistant messages. Streams end with `data: [DONE]`, as OpenAI's do.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripts import ARGUMENTS, oracle_messages

import searchgym

CORPUS = searchgym.open_corpus(ARGUMENTS["corpus"])
SCRIPTS = {
    dialect: {CORPUS.question(i).text: texts for i, texts in oracle_messages("dev", 10, dialect).items()}
    for dialect in ("tags", "tools")
}


def reply(request: dict[str, Any]) -> dict[str, Any]:
    """The next message of the assistant."""
    messages = request["messages"]
    (question,) = [m["content"] for m in messages if m["role"] == "user"][:1]
    if not isinstance(question, str):
        question = "".join(part["text"] for part in question)
    dialect = "tools" if request.get("tools") else "tags"
    script = SCRIPTS[dialect][question]
    done = sum(m["role"] == "assistant" for m in messages)
    text = script[done] if done < len(script) else "I am done."
    call = re.search(r"<tool_call>\n(.*)\n</tool_call>", text, re.DOTALL)
    if call is None:
        return {"role": "assistant", "content": text}
    given = json.loads(call[1])
    function = {"name": given["name"], "arguments": json.dumps(given["arguments"])}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, "id": f"call_{done}", "type": "function", "function": function}],
    }


class Handler(BaseHTTPRequestHandler):
    """`/v1/chat/completions`, streamed or not, and `/v1/models`."""

    def do_GET(self) -> None:
        self._send(
            "application/json", json.dumps({"object": "list", "data": [{"id": "oracle", "object": "model"}]})
        )

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = reply(request)
        reason = "tool_calls" if "tool_calls" in message else "stop"
        head = {"id": "r", "created": 0, "model": "oracle"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not request.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._send(
                "application/json",
                json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}),
            )
            return
        choices = [
            {"index": 0, "delta": message, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": reason},
        ]
        chunks = [{**head, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

    def _send(self, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    print("ready", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
