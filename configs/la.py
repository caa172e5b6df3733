"""Video LA: local aggregation with clusters of the memory bank (Sec. 3.2; Table 1, row 3).

    python -m vcjax.main --config=configs/la.py:rendered --workdir=runs/la

40 epochs of instance recognition, then 200 of local aggregation, clustered again every epoch.
Paper: 71.4 on UCF101, 41.7 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values with comma-separated variants of `settings.VARIANTS` applied."""
    config = settings.paper()
    config.la.source = "bank"
    config = settings.apply_variants(config, variant)
    return settings.append_evaluation(config, ("manifest", "ingest", "ir", "la"))
