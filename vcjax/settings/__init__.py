"""Settings of a run: `paper()` returns all of them, `apply_variants` modifies them by name.

A file in `configs/` starts from `paper()`, sets the values of its experiment, and ends with
`apply_variants(config, variant)`. For example:

    config = settings.apply_variants(settings.paper(), "folder,released")
"""

from vcjax.settings.defaults import (
    FINETUNING_STAGES,
    GROUP_COLUMNS,
    TRAINING_STAGES,
    SettingsError,
    group_column,
    num_background,
    num_clusters,
    num_epochs,
    paper,
)
from vcjax.settings.resolve import Sizes, only_trains_longer, resolve
from vcjax.settings.variants import VARIANTS, append_evaluation, apply_variants

__all__ = [
    "FINETUNING_STAGES",
    "GROUP_COLUMNS",
    "TRAINING_STAGES",
    "VARIANTS",
    "SettingsError",
    "Sizes",
    "append_evaluation",
    "group_column",
    "num_background",
    "num_clusters",
    "num_epochs",
    "only_trains_longer",
    "paper",
    "resolve",
    "apply_variants",
]
