"""Map of videos by looks and by motion, without training and without labels (Sec. 3.3, 4.5).

    vcjax explore VIDEOS --out runs/mine

Improved dense trajectories are described by HOG (looks) and by HOF and MBH (motion), each with a
PCA and a mixture of its own and a signed square root, as in Wang & Schmid 2013. The Fisher vectors
of all videos are clustered and compared.
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the values of the variant `folder`, with further variants of `settings.VARIANTS`."""
    config = settings.apply_variants(settings.paper(), ",".join(filter(None, ["folder", variant])))
    config.stages = (*config.stages[: config.stages.index("fisher") + 1], "explore")
    config.data.holdout = 0.0  # nothing is trained, so no video is held out
    config.evaluation.num_neighbors = 5
    config.idt.max_side = 320  # pixels: minutes in place of hours for videos of a phone
    config.fisher.fit_split = "all"
    config.fisher.sketch_dim = 0
    config.fisher.square_root = True
    config.fisher.descriptors = ("hog", "hof", "mbh")
    return config
