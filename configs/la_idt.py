"""Video LA with IDT prior, the paper's method (Sec. 3.3; Table 1, last row but one).

    python -m vcjax.main --config=configs/la_idt.py:rendered --workdir=runs/rendered

40 epochs of instance recognition, 200 of local aggregation with fixed clusters of IDT Fisher
vectors, then 25 with clusters of the joint space. Paper: 72.8 on UCF101, 44.0 on HMDB51 (split 1).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values with comma-separated variants of `settings.VARIANTS` applied."""
    config = settings.apply_variants(settings.paper(), variant)
    return settings.append_evaluation(config, [s for s in config.stages if s != "evaluate"])
