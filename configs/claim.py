"""The paper's claim (Sec. 4.5): own clusters follow the scene, IDT clusters the motion.

    python -m vcjax.evaluation claim --config=configs/claim.py:rendered --workdir=runs/claim

trains every kind of network with several seeds on the same videos, of which motion and scene are
known and independent, and compares what they know of either. Scenes are seen in more contrast than
elsewhere, so that it is tempting to go by them. Real clips of several collections, all together:

    python -m vcjax.evaluation claim --config=configs/claim.py:folder --workdir=runs/claim_real \\
        --join fight.tsv tennis.tsv --claims "fight motion" "fight scene" \\
        --claims "tennis stroke" "tennis scene" -- "--config.supervised.label=tennis stroke"

Ablations are overrides behind --, such as --config.clusters.num_runs=1, --config.clip.num_frames=4,
--config.data.num_videos=120.
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "rendered") -> ConfigDict:
    """Sized for a laptop; variants of `settings.VARIANTS`: rendered, folder or smoke."""
    config = settings.vary(settings.paper(), variant)
    config.stages = (
        *("manifest", "idt", "fisher", "ir", "la_own", "la", "tune"),
        *("supervised", "evaluate"),
    )
    config.data.seed = 0  # the same videos for every seed of the training
    config.data.rendered.contrast = 0.8
    config.data.rendered.brightness = 152.0
    config.supervised.label = "motion"
    config.supervised.epochs = 100
    config.supervised.learning_rate, config.supervised.batch_size = 0.03, config.ir.batch_size
    if variant == "rendered":
        config.data.seed = 1  # settings were chosen on the videos of seed 0
        _many_seeds(config)
    return config


def _many_seeds(config: ConfigDict) -> None:
    """Little enough for several seeds, and settings at which so few steps teach something."""
    config.clip.side, config.model.width = 32, 12
    # twice the motions: six, the paper's proportion of 240 videos, would hold two motions each
    config.clusters.num_clusters = 16
    # at 0.03 the loss of instance recognition leaps from 8 to 11 first
    config.ir.learning_rate = 0.01
    for aggregation in (config.la_own, config.la):
        aggregation.epochs, aggregation.drops = 60, (50,)
    config.tune.learning_rate = 0.01
    config.supervised.epochs = 25
