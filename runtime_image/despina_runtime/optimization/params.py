"""Whether an optimiser has the parameters that it shall be given: `python -m despina_runtime.optimization.params NAME
JSON` prints what is wrong. It imports dspy, which whoever judges does not."""

from __future__ import annotations

import json
import sys

from despina_runtime.optimization.optimizers import UnknownOptimizer, check_params

if __name__ == "__main__":
    try:
        check_params(sys.argv[1], json.loads(sys.argv[2]))
    except UnknownOptimizer as exc:
        sys.stdout.write(str(exc))
