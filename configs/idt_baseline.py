r"""IDT with Fisher vectors and a linear SVM on labels, without a network (Table 4, last row).

    python -m vcjax.main --config=configs/idt_baseline.py:folder \
        --config.data.manifest=VIDEOS.tsv --workdir=runs/idt_baseline

The SVM is trained on whole Fisher vectors (without count sketch) of each descriptor, of their
concatenation, and of all descriptors jointly (Sec. 3.3). With --config.svm.leave_groups_out=True,
each value of --config.data.group=COLUMN is held out in turn; --config.fisher.fit_split=all then
fits PCA and GMM to all videos, without labels. --config.clusters.num_clusters=K sets the number of
clusters to compare with the labels. Paper, quoting Simonyan & Zisserman: 85.9 on UCF101, 57.2 on
HMDB51 (three splits).
"""

from ml_collections import ConfigDict

from vcjax import settings


def get_config(variant: str = "") -> ConfigDict:
    """Return the paper's values, or a variant: rendered, folder, smoke, released."""
    config = settings.apply_variants(settings.paper(), variant)
    config.stages = ("manifest", "ingest", "fisher", "svm")
    config.clusters.num_clusters = 0
    config.fisher.sketch_dim = 0
    config.fisher.descriptors = ("trajectory", "hog", "hof", "mbh", "all")
    return config
