"""Results of finetuning and of few-shot probes, as written and read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcjax.runtime import stage_cache


def result(found: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The splits' results and the mean of their accuracies, as `result.json` holds them."""
    mean = float(np.mean([split["accuracy"] for split in found.values()]))
    return {"accuracy": mean, "splits": dict(found), **more}


def read_result(directory: Path) -> dict[str, Any] | None:
    """The result of a complete stage, or None."""
    if not stage_cache.read(directory).get("complete"):
        return None
    try:
        return json.loads((directory / "result.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
