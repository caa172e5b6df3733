r"""Scratch: random weights, trained on UCF101 and HMDB51 only (Table 1, row 1).

    python -m vcjax.main --config=configs/scratch.py:transfer --config.data.manifest=UCF101 \
        --config.few_shot.manifest=UCF101 --config.ucf101.manifest=UCF101 \
        --config.hmdb51.manifest=HMDB51 --workdir=runs/scratch

Paper, from Hara et al. (2018): 42.4 on UCF101, 17.1 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values with comma-separated variants of `settings.VARIANTS` applied."""
    config = settings.apply_variants(settings.paper(), variant)
    return settings.append_evaluation(config, ("manifest", "ingest"))
