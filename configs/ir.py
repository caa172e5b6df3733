"""Video IR: instance recognition (Sec. 3.1; Table 1, row 2).

    python -m vcjax.main --config=configs/ir.py:rendered --workdir=runs/ir

Trained for 200 epochs like the other methods; as their initialization, for 40 (Sec. 4.2).
Paper: 70.0 on UCF101, 39.9 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values with comma-separated variants of `settings.VARIANTS` applied."""
    config = settings.paper()
    config.ir.epochs = 200
    config = settings.apply_variants(config, variant)
    return settings.append_evaluation(config, ("manifest", "ingest", "ir"))
