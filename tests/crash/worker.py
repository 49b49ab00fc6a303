"""Fork server: loads every library once, then does each action in a child of its own, which may be killed.

One request a line on stdin (`kind`, `case`, `photos`, `crash_at`, `times`), one answer a line on stdout: the
signal that ended the child (0 for none), and what it computed and which points it passed. The server itself
never opens a lake: a process that has used Lance must not be forked.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import actions

from resources.lake import failpoints


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a child prints must not look like an answer
    _load_everything()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), file=answers, flush=True)


def _load_everything() -> None:
    import dagster as dg
    import torch

    import models.identity.embedding
    import models.swap.base
    import models.swap.checkpoint
    import models.swap.data
    import models.swap.training  # noqa: F401

    # true of a process that has used it; this one only imports it, and the children open lakes of their own
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    torch.set_num_threads(1)
    actions.small_commits()
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home):
        pass  # loads the hundreds of modules of Dagster's storage, once for all children


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    result = Path(request["case"]) / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result.write_text(json.dumps(_act(request)), encoding="utf-8")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    done = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status), **done}
    return {"signal": 0, "exit": os.WEXITSTATUS(status), **done}


def _act(request: dict[str, Any]) -> dict[str, Any]:
    os.environ[failpoints.VARIABLE] = request["crash_at"]
    failpoints.arm(os.environ[failpoints.VARIABLE])
    action = next(item for item in actions.ACTIONS if item.kind == request["kind"])
    case, photos = Path(request["case"]), Path(request["photos"])
    computed = action.run(case, photos)
    passes = failpoints.passes()
    again = action.run(case, photos) if request["times"] == 2 else {}
    return {"computed": computed, "passes": passes, "again": again}


if __name__ == "__main__":
    main()
