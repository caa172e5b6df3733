"""Evaluation of learned representations: probes on held-out videos, and visualized clusters."""

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
