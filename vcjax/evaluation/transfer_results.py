"""Format of `result.json`, the results of finetuning and few-shot probes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def result(splits: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the content of `result.json`: split -> results, their mean accuracy and `more`."""
    mean = float(np.mean([split["accuracy"] for split in splits.values()]))
    return {"accuracy": mean, "splits": dict(splits), **more}


def read_result(directory: Path) -> dict[str, Any] | None:
    """Return the result of the stage in `directory`, or None if it is incomplete."""
    from vcjax.runtime import stage_record  # imported late, for a fast --help

    if not stage_record.read(directory).get("complete"):
        return None
    try:
        return json.loads((directory / "result.json").read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
