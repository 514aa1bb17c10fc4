"""Logging the two programs: `python release.py`. MLFLOW_TRACKING_URI names the server.

Their tools' contracts are known from the packages that DESPINA_TOOL_PACKAGES names; nothing is called.
"""

import os
import sys

from ingest import Ingest

from despina_runtime import log_program
from rag import Rag


def main() -> None:
    """Log a version of both and move the alias."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    question = {"question": "Until when are you open?"}
    print(log_program(Rag(), "rag", entrypoint="rag:Rag", input_example=question, alias="champion"))
    if sys.argv[1:] != ["rag"]:
        documents = {"documents": [{"id": "a", "text": "We are open until eight."}]}
        print(
            log_program(Ingest(), "rag-ingest", entrypoint="ingest:Ingest", input_example=documents, alias="champion")
        )


if __name__ == "__main__":
    main()
