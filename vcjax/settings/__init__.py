"""Every setting of a run, once: `paper()` gives them, `vary` and `conclude` change them.

A file in `configs/` starts from `paper()`, sets what its experiment changes, and ends with
`apply_variants(config, variant)`.
"""

from vcjax.settings.defaults import (
    FINETUNING_STAGES,
    GROUP_COLUMNS,
    TRAINING_STAGES,
    SettingsError,
    num_background,
    num_clusters,
    num_epochs,
    paper,
)
from vcjax.settings.resolve import Sizes, resolve
from vcjax.settings.variants import VARIANTS, append_evaluation, apply_variants

__all__ = [
    "FINETUNING_STAGES",
    "GROUP_COLUMNS",
    "TRAINING_STAGES",
    "VARIANTS",
    "SettingsError",
    "Sizes",
    "append_evaluation",
    "num_background",
    "num_clusters",
    "num_epochs",
    "paper",
    "resolve",
    "apply_variants",
]
