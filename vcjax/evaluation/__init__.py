"""Evaluation of learned representations: probes on held-out videos, and visualized clusters."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcjax.evaluation.baseline import evaluate as evaluate_baseline
    from vcjax.evaluation.measures import ProbeSettings
    from vcjax.evaluation.outputs import IdtOutputs, ModelOutputs
    from vcjax.evaluation.report import evaluate, write
    from vcjax.evaluation.report_table import table

__all__ = [
    "IdtOutputs",
    "ModelOutputs",
    "ProbeSettings",
    "evaluate",
    "evaluate_baseline",
    "table",
    "write",
]

_MODULES = {
    "IdtOutputs": "outputs",
    "ModelOutputs": "outputs",
    "ProbeSettings": "measures",
    "evaluate": "report",
    "evaluate_baseline": "baseline",
    "table": "report_table",
    "write": "report",
}


def __getattr__(name: str) -> Any:
    # imported at the first use: `python -m vcjax.evaluation --help` should not wait for JAX
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, "evaluate" if name == "evaluate_baseline" else name)
