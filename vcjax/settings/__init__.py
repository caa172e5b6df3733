"""Every setting of a run, once: `paper()` gives them, `vary` and `conclude` change them.

A file in `configs/` starts from `paper()`, sets what its experiment changes, and ends with
`vary(config, variant)`.
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
from vcjax.settings.variants import VARIANTS, conclude, vary

__all__ = [
    "FINETUNING_STAGES",
    "GROUP_COLUMNS",
    "TRAINING_STAGES",
    "VARIANTS",
    "SettingsError",
    "conclude",
    "num_background",
    "num_clusters",
    "num_epochs",
    "paper",
    "vary",
]
