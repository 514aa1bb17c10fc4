"""What is tried, in the order of the page."""

from __future__ import annotations

from typing import Any

from tests.support.fidelity.programs import EXPERIMENTAL, GIVEN_ONLY, TAKEN_ONLY, TYPES, name_of
from tests.support.fidelity.trial import Row

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
PART = {"code": "ABC-1", "made": "2026-02-03"}
VALUES: dict[str, Any] = {
    "str": "text",
    "int": 3,
    "float": 0.5,
    "bool": True,
    "Literal": "a",
    "Enum": "low",
    "Optional": None,
    "Union": "many",
    "list": ["a"],
    "set": [1, 2],
    "tuple": [1, "a"],
    "dict": {"a": 1},
    "TypedDict": {"width": 3, "unit": "mm"},
    "Decimal": "1.50",
    "datetime": "2026-02-03T04:05:06Z",
    "date": "2026-02-03",
    "time": "04:05:06",
    "timedelta": "PT1H",
    "UUID": "6f1c1a2e-52a7-4a53-9d5c-3a2b7f0c9d11",
    "pydantic model": PART | {"parts": [PART]},
    "list of models": [PART],
    "Any": {"a": [1]},
    "dspy.Image": {"url": PIXEL},
    "dspy.Audio": {"data": "UklGRg==", "audio_format": "wav"},
    "dspy.File": {"file_data": "data:text/plain;base64,YQ==", "filename": "a.txt"},
    "dspy.Code": {"code": "print(1)"},
    "dspy.ToolCalls": {"tool_calls": []},
    "experimental Noul": {"value": True, "confidence": 0.5, "probability": 0.75},
    "experimental Choice": {"value": "a", "confidence": 0.5},
    "experimental Score": {"value": 0.5, "confidence": 0.5, "probabilities": {"0": 0.5, "1": 0.5}},
    "experimental Document": {"data": "text", "title": "a"},
    "experimental Citations": {
        "citations": [{"cited_text": "a", "document_index": 0, "start_char_index": 0, "end_char_index": 1}]
    },
    "dspy.History": {"messages": [{"x": "q", "category": "a"}]},
}

MODULES = {
    "dspy.Predict": "predict",
    "dspy.ChainOfThought": "chain_of_thought",
    "dspy.ReAct": "react",
    "dspy.ReActV2": "react_v2",
    "dspy.ProgramOfThought, no Deno": "needs_deno",
    "dspy.ProgramOfThought, LocalInterpreter": "program_of_thought",
    "dspy.CodeAct, LocalInterpreter": "code_act",
    "dspy.RLM, LocalInterpreter": "rlm",
    "dspy.Flex, no Deno": "flex_needs_deno",
    "dspy.Flex, LocalInterpreter": "flex",
    "dspy.BestOfN": "BestOfN",
    "dspy.Refine": "Refine",
    "dspy.Parallel": "Parallel",
    "Module.batch": "Batch",
    "dspy.MultiChainComparison": "MultiChainComparison",
    "dspy.majority": "Majority",
    "dspy.retrievers.Embeddings": "Embeddings",
    "dspy.KNN": "NearestExamples",
}
ADAPTERS = {
    "ChatAdapter in dspy.context": "chat_adapter",
    "JSONAdapter in dspy.context": "json_adapter",
    "XMLAdapter in dspy.context": "xml_adapter",
    "BAMLAdapter in dspy.context": "baml_adapter",
    "TwoStepAdapter in dspy.context": "TwoSteps",
}
WAYS = {
    "forward": "Sorting",
    "aforward alone": "OnlyAsync",
    "asyncio.gather": "Gathering",
    "dspy.asyncify": "Asyncified",
    "asyncio.to_thread": "InThreads",
    "asyncio.run in forward": "RunsALoop",
    "dspy.syncify": "Synced",
    "aforward that does not await": "Blocking",
    "set_lm in the constructor": "OwnLM",
    "dspy.context": "InContext",
    "dspy.configure in forward": "Configuring",
    "dspy.configure in the constructor": "ConfiguringFirst",
    "dspy.track_usage": "Tracking",
    "a thread pool of its own": "Pooling",
    "a class in a notebook": "in_a_notebook",
    "several files": "several_files",
    "a module beside the program's": "a_module_beside",
    "an LM called directly": "DirectCall",
    "dspy.streamify within": "Streaming",
    "a list of modules": "Lists",
    "a dictionary of modules": "Dictionaries",
    "a module in a module": "Nested",
    "an async module in another": "NestedAsync",
    "a predictor that takes tools": "InnerTools",
    "status messages, a tool awaited": "AwaitsATool",
    "status messages, a tool called in a thread": "CallsAToolInAThread",
    "status messages, a tool called on the loop": "CallsAToolOnTheLoop",
    "code that asks more of an answer than its type": "Demanding",
    "a constructor with a default": "ItsOwnArgument",
    "a constructor that needs an argument": "needs_an_argument",
    "a subclass of a module, with another forward": "OtherForward",
    "forward(**kwargs) with one predictor": "AnyArguments",
    "forward(**kwargs) with several": "Keywords",
    "forward that returns a text": "GivesAText",
    "neither forward nor aforward": "NoForward",
}


def _typed(prefix: str, kinds: dict[str, Any]) -> list[Row]:
    taken = prefix == "taking"
    return [Row(name, name_of(prefix, name), {"x": VALUES[name]} if taken else {"ticket": "a card"}) for name in kinds]


ROWS: dict[str, list[Row]] = {
    "Modules": [Row(name, entry) for name, entry in MODULES.items()],
    "Adapters": [Row(name, entry) for name, entry in ADAPTERS.items()],
    "Inputs": _typed("taking", TYPES | TAKEN_ONLY | EXPERIMENTAL),
    "Outputs": [
        *_typed("giving", TYPES | GIVEN_ONLY | EXPERIMENTAL),
        Row("experimental Noul without desc=", "undescribed"),
        Row("a pydantic model with dspy.Image in it", "GivingImages"),
    ],
    "Ways of writing a program": [
        Row(name, entry, told="status" if name.startswith("status") else "result") for name, entry in WAYS.items()
    ],
}
