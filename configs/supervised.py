"""Supervised: pretrained on the labels of the pretraining videos (Table 1, last row).

    python -m vcjax.main --config=configs/supervised.py:rendered --workdir=runs/supervised

Paper, from Hara et al. (2018): 84.4 on UCF101, 56.4 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values with comma-separated variants of `settings.VARIANTS` applied."""
    config = settings.apply_variants(settings.paper(), variant)
    return settings.append_evaluation(config, ("manifest", "ingest", "supervised"))
