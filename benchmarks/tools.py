"""How tool choice by ranking decides: hand-written questions, the best tool, and its score."""

from __future__ import annotations

from common import arguments, show

from gem_rag.engine.request import TOOL_THRESHOLD
from gem_rag.model import GemModel
from gem_rag.text.tools import Tool


def tool(name: str, description: str, *names: str) -> Tool:
    return Tool(name, description, {"properties": {n: {} for n in names}})


TOOLS = [
    tool("get_weather", "Get weather at a location.", "location"),
    tool("search_documents", "Search the company's documents.", "query"),
    tool("add", "Add two numbers.", "a", "b"),
]
QUESTIONS = [
    "What is the weather in San Francisco, CA?",
    "Is it raining in Paris?",
    "Weather in Tokyo tomorrow please",
    "What is 2+2?",
    "Add 3 and 4",
    "What do our documents say about the warranty?",
    "Thanks!",
    "What is the value of magic_function(3)? Use the tool.",
    "Who wrote Faust?",
    "Hello, who are you?",
    "Tell me a joke about cats.",
]


def main() -> None:
    options = arguments(__doc__).parse_args()
    model = GemModel.from_pretrained(dtype="float32")
    report = {}
    for question in QUESTIONS:
        best = model.rank(question, [t.signature for t in TOOLS])[0]
        called = TOOLS[best.index].name if best.score >= TOOL_THRESHOLD else "none"
        report[question] = f"{best.score:.2f} {called}"
    show(report, options.json)


if __name__ == "__main__":
    main()
