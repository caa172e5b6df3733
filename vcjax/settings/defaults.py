"""Every setting of a run, once: value, unit, and where in the paper it stands.

The paper is Tokmakov, Hebert, Schmid, "Unsupervised Learning of Video Representations via Dense
Trajectory Clustering", 2020; "released" is the authors' published code.
"""

import math

from ml_collections import ConfigDict

# Proportions of the paper's collection (235,000 videos, 6000 clusters, 4096 background neighbors),
# which small collections keep.
VIDEOS_PER_CLUSTER = 39
VIDEOS_PER_BACKGROUND_NEIGHBOR = 57
MIN_BACKGROUND = 32


class SettingsError(ValueError):
    """A setting does not fit; the message names it."""


def paper() -> ConfigDict:
    """The paper's values, and the released code's where the paper is silent."""
    config = ConfigDict()
    config.seed = 0  # of everything random; the same seed gives the same run
    config.stages = ("manifest", "idt", "fisher", "ir", "la", "tune", "evaluate")
    config.eval_stages = ("evaluate",)  # stages that say what came of the training
    config.epochs_scale = 1.0  # shortens (< 1) or lengthens every stage, to at least one epoch
    config.num_workers = 0  # processes that render, verify and extract; 0: one a core
    config.bank_dtype = "float32"  # of the memory bank; bfloat16: half the memory
    config.log_steps = 50  # steps between metrics, at most an epoch
    config.keep_best = True  # the checkpoint of the best validation too, beside the last two
    config.data = _data()
    config.clip = _clip()
    config.model = _model()
    config.idt = _idt()
    config.fisher = _fisher()
    config.clusters = _clusters()
    config.ir = _training(epochs=40, lr_milestones=(160, 190), init_from="")  # Sec. 4.2, as in [49]
    config.ir.objective = "instance_recognition"
    config.ir.estimator = "sampled_softmax"  # of Eq. 2; or full_softmax, nce (released)
    config.ir.num_negatives = 4096  # Sec. 4.2
    config.ir.scale_nce_constant = True  # with the collection; released: as for ImageNet
    config.la = _aggregation(epochs=200, lr_milestones=(160, 190), init_from="ir", source="idt")
    config.la_own = _aggregation(
        epochs=200, lr_milestones=(160, 190), init_from="ir", source="bank"
    )
    config.tune = _aggregation(
        epochs=25, lr_milestones=(10, 20), init_from="la", source="joint"
    )  # released
    # the baseline of Table 1, and transfer: to the run's own videos, to UCF101, to HMDB51
    config.supervised = _finetuning(epochs=200, frozen_stages=0, init_from="")
    config.finetune = _finetuning(epochs=40, frozen_stages=1, init_from="tune")
    config.ucf101 = _finetuning(epochs=40, frozen_stages=1, init_from="tune")
    config.hmdb51 = _finetuning(epochs=30, frozen_stages=2, init_from="tune")
    config.few_shot = _few_shot()
    config.evaluation = _evaluation()
    config.svm = _svm()
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    data.manifest = ""  # folder (class = parent folder), or TSV/CSV with a `path` column
    data.group = "auto"  # label column whose values stay on one side of the split; "": none;
    # "auto": the first of GROUP_COLUMNS that the manifest has
    data.holdout = 0.25  # share of videos held out for evaluation, without a `split` column
    data.num_videos = 0  # to train on, drawn at random, fewer among more (Fig. 4); 0: all
    data.on_error = "error"  # or "skip": bad videos are listed and left out
    data.verify = "decode"  # every frame of every video once; "header": only what it declares
    data.max_corrupt_fraction = (
        0.01  # of the training videos that may fail to decode and be replaced
    )
    data.max_changed_share = 0.1  # of the videos that come or go, and what is known of the others
    # stays (vectors, rows of the bank, labels); more, and stages begin anew
    data.num_threads = 2  # that read clips ahead of the device
    data.num_workers = 0  # processes that do so instead
    data.rendered = ConfigDict()
    data.rendered.num_videos = 0  # > 0: render this many instead of reading a manifest
    data.rendered.contrast = 0.35  # of scenes; 1: no haze between them and the actor
    data.rendered.brightness = 185.0  # of scenes, of 255
    data.seed = -1  # of the videos rendered, left out and held out; -1: that of the run
    return data


def _clip() -> ConfigDict:
    clip = ConfigDict()
    clip.num_frames = 16  # Sec. 4.2; Table 3: 32, 64
    clip.stride = 1  # frames of the video from one of the clip to the next
    clip.side = 112  # pixels, Sec. 4.2; Table 7: 224
    clip.scales = tuple(2 ** (-j / 4) for j in range(5))  # of the crop, in short sides [14]
    clip.flip = 0.5  # probability
    clip.grayscale = 0.2  # probability, released
    clip.jitter = (0.4, 0.4, 0.4, 0.4)  # brightness, contrast, saturation, hue; released
    return clip


def _model() -> ConfigDict:
    model = ConfigDict()
    model.depth = 18  # or 34 (Table 7)
    model.width = 64  # channels of the first stage
    model.embedding_dim = 128  # Sec. 4.2
    model.dtype = "float32"  # of the computation; parameters, statistics and loss are float32
    return model


def _idt() -> ConfigDict:
    idt = ConfigDict()
    idt.matcher = "flow"  # matches for the camera's homography, next to corners
    idt.people = ""  # folder of human boxes, VIDEO_ID.bb (Sec. 3.3); "": none (Table 5)
    return idt


def _fisher() -> ConfigDict:
    fisher = ConfigDict()
    fisher.explained_variance = 0.9  # kept by the PCA, Sec. 4.2
    fisher.num_components = 256  # of the mixture, Sec. 4.2
    fisher.fit_split = "train"  # or "all" videos: no label is used
    fisher.num_videos = 3500  # drawn to fit PCA and mixture, Sec. 4.2
    fisher.descriptors_per_video = 500  # Sec. 4.2
    fisher.sketch_dim = 2000  # Sec. 3.3
    fisher.variant = "paper"  # Eq. 5-6; or "released"
    fisher.descriptors = ("all",)  # jointly; ("trajectory", "hog", "hof", "mbh"): each with a PCA
    # and a mixture of its own, vectors side by side (Wang & Schmid 2013)
    fisher.square_root = False  # of the descriptors, before the PCA (Wang & Schmid 2013)
    return fisher


def _clusters() -> ConfigDict:
    clusters = ConfigDict()
    clusters.num_clusters = 6000  # K, Sec. 4.2; 0: the paper's proportion of the collection
    clusters.num_runs = 3  # m, Sec. 4.2
    clusters.seed = 1234  # of the first run, then 1235, ...; released
    clusters.num_iterations = 20  # of Lloyd; released
    clusters.fisher_weight = 1.0  # of p(psi) next to d in the joint space, Sec. 3.3
    return clusters


def _training(*, epochs: int, lr_milestones: tuple[int, ...], init_from: str) -> ConfigDict:
    stage = ConfigDict()
    stage.epochs = epochs
    stage.lr_milestones = lr_milestones  # epochs after which the learning rate falls to a tenth
    stage.init_from = init_from  # stage whose weights and bank this one takes over; "": random
    stage.batch_size = 256  # Sec. 4.2
    stage.accumulation_steps = 1  # parts of a batch, one after the other, for less memory; batch
    # normalisation sees a part
    stage.learning_rate = 0.03  # Sec. 4.2
    stage.warmup_epochs = 0.0  # of a linear rise to the learning rate
    stage.momentum = 0.9  # Sec. 4.2
    stage.weight_decay = 1e-4  # not on normalisation; released
    stage.temperature = 0.07  # tau of Eq. 2, Sec. 4.2
    stage.bank_momentum = 0.5  # released
    stage.checkpoint_steps = 0  # steps between checkpoints; 0: an epoch
    stage.validate_epochs = 1  # epochs between validations
    return stage


def _aggregation(
    *, epochs: int, lr_milestones: tuple[int, ...], init_from: str, source: str
) -> ConfigDict:
    stage = _training(epochs=epochs, lr_milestones=lr_milestones, init_from=init_from)
    stage.objective = "local_aggregation"
    stage.source = source  # of the clusters: idt (fixed), bank or joint (anew every epoch)
    stage.num_background = 4096  # |B_i|, released; 0: the paper's proportion of the collection
    stage.num_candidates = 0  # rows in the nearest cells of the bank that B_i is sought among, for
    # collections of many millions; 0: all, exactly
    return stage


def _finetuning(*, epochs: int, frozen_stages: int, init_from: str) -> ConfigDict:
    stage = ConfigDict()
    stage.manifest = ""  # labeled videos, as data.manifest; "": the run's own
    stage.label = ""  # column of the classes; "": class, label, action or motion
    stage.splits = ()  # columns that say train or test; (): split1 to split3 if there, else split
    stage.init_from = init_from  # stage whose weights this one takes over; "": random
    stage.epochs = epochs  # released
    stage.batch_size = 128  # Sec. 4.2
    stage.learning_rate = 0.1  # Sec. 4.2
    stage.momentum = 0.9  # Sec. 4.2
    stage.dampening = 0.9  # released
    stage.weight_decay = 1e-3  # not on normalisation; released
    stage.patience = 5  # epochs without a better loss that the learning rate survives; released
    stage.plateau_split = (
        "holdout"  # whose loss that is: a share of the training side; or test (released)
    )
    stage.holdout = 0.1  # that share
    stage.frozen_stages = frozen_stages  # of the network, with the stem; 0: all is trained
    stage.freeze_statistics = True  # of batch normalisation too; released: False
    stage.videos_per_class = 0  # drawn from the training side; 0: all
    stage.scales = (1.0, 2**-0.25)  # of the crop, released; there is no jitter
    stage.input_scale = 1.0  # times colours in [0, 1] less their mean; released: 255
    stage.average = "softmax"  # over a video's clips, Sec. 4.2; or logits (released)
    stage.checkpoint_steps = 0  # steps between checkpoints; 0: an epoch
    return stage


def _few_shot() -> ConfigDict:
    stage = ConfigDict()
    stage.manifest = ""  # labeled videos, as data.manifest; "": the run's own
    stage.label = ""  # column of the classes; "": class, label, action or motion
    stage.splits = ()  # columns that say train or test; (): split1 to split3 if there, else split
    stage.init_from = "tune"  # stage whose frozen network is asked; "": random
    return stage


def _evaluation() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.clips_per_video = 5  # Sec. 4.2
    evaluation.batch_size = 32
    evaluation.shots = (1, 5, 10, 20)  # labeled videos of each class, Table 2
    evaluation.num_draws = 10  # random samples of that many, for the mean and its 95% interval
    evaluation.sampling = "random"  # or "first": one sample, the first in the list (released)
    evaluation.retrieval = (1, 5, 10, 20, 50)  # depths k of R@k
    evaluation.num_neighbors = 20  # that vote, weighted by exp(cosine / temperature)
    evaluation.temperature = 0.07  # of the vote (Wu et al. 2018)
    return evaluation


def _svm() -> ConfigDict:
    svm = ConfigDict()
    svm.penalty = 100.0  # C of the linear SVM on Fisher vectors (Wang & Schmid 2013)
    svm.leave_groups_out = False  # each value of `data.group` held out in turn, not the split
    return svm


DESCRIPTORS = ("all", "trajectory", "hog", "hof", "mbh")  # that may have a mixture of their own
GROUP_COLUMNS = ("group", "scene", "sequence")
TRAINING_STAGES = ("ir", "la_own", "la", "tune")
FINETUNING_STAGES = ("supervised", "finetune", "ucf101", "hmdb51")


def num_epochs(stage: ConfigDict, epochs_scale: float) -> int:
    """Epochs of a stage after `epochs_scale`, at least one."""
    return max(1, round(stage.epochs * epochs_scale))


def num_clusters(wanted: int, num_videos: int) -> int:
    """K: `wanted`, or for 0 the paper's proportion of `num_videos`, at least 2.

    Raises SettingsError when there are not more videos than clusters.
    """
    count = wanted or max(2, round(num_videos / VIDEOS_PER_CLUSTER))
    if count >= num_videos:
        raise SettingsError(
            f"{count} clusters need more than {num_videos} training videos; "
            "set --config.clusters.num_clusters=0 for the paper's proportion"
        )
    return count


def num_background(wanted: int, num_videos: int) -> int:
    """|B_i|: `wanted`, or for 0 the paper's proportion, at least 32; never more than all videos."""
    proportional = max(MIN_BACKGROUND, math.ceil(num_videos / VIDEOS_PER_BACKGROUND_NEIGHBOR))
    return min(num_videos, wanted or proportional)
