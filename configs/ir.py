"""Video IR: instance recognition (Sec. 3.1; Table 1, row 2).

    python -m vcjax.main --config=configs/ir.py:rendered --workdir=runs/ir

As a method of its own it is trained as long as the others, 200 epochs; as their warm-up, 40.
Paper: 70.0 on UCF101, 39.9 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """The paper's values, or variants of `settings.VARIANTS`, comma-separated."""
    config = settings.paper()
    config.ir.epochs = 200
    config = settings.vary(config, variant)
    return settings.conclude(config, ("manifest", "ir"))
