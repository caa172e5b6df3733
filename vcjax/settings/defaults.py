"""Default value of every setting, with its unit and source.

The paper is Tokmakov, Hebert, Schmid, "Unsupervised Learning of Video Representations via Dense
Trajectory Clustering", 2020; "released" marks a value from the authors' published code, [N] an
entry of the paper's bibliography.
"""

import math
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

# Ratios of the paper's collection (235,000 videos, 6000 clusters, 4096 background neighbors), to
# which a count of 0 scales with the number of videos.
VIDEOS_PER_CLUSTER = 39
VIDEOS_PER_BACKGROUND_NEIGHBOR = 57
MIN_BACKGROUND = 32


class SettingsError(ValueError):
    """A setting is invalid; the message names it."""


def paper() -> ConfigDict:
    """Return the settings of the paper, and of the released code where the paper is silent."""
    config = ConfigDict()
    config.seed = 0  # seed of every random draw; the same seed gives the same run
    config.stages = ("manifest", "ingest", "fisher", "ir", "la", "tune", "evaluate")
    # stages to run, in order
    config.eval_stages = ("evaluate",)  # stages that follow training and report its result
    config.epochs_scale = 1.0  # factor of the epochs of every stage; at least one epoch remains
    config.num_workers = 0  # processes that render, verify and extract; 0: one per CPU core
    config.bank_dtype = "float32"  # data type of the memory bank; bfloat16: half the memory
    config.log_steps = 50  # training steps between logged metrics, at most one epoch
    config.keep_best = True  # keep the checkpoint of the best validation besides the last two
    config.keep_previous = False  # keep STAGE.previous, the result of other settings, when a stage
    # that was redone is complete
    config.data = _data()
    config.clip = _clip()
    config.model = _model()
    config.idt = _idt()
    config.fisher = _fisher()
    config.clusters = _clusters()
    config.ir = _training(epochs=40, lr_milestones=(160, 190), init_from="")  # Sec. 4.2, as in [49]
    config.ir.objective = "instance_recognition"  # Sec. 3.1
    config.ir.estimator = "sampled_softmax"  # of Eq. 2; or full_softmax, nce (released)
    config.ir.num_negatives = 4096  # negative samples per clip, Sec. 4.2
    config.ir.scale_nce_constant = True  # Z of NCE scales with the collection; released: ImageNet's
    config.la = _aggregation(epochs=200, lr_milestones=(160, 190), init_from="ir", source="idt")
    config.la_own = _aggregation(
        epochs=200, lr_milestones=(160, 190), init_from="ir", source="bank"
    )
    config.tune = _aggregation(
        epochs=25, lr_milestones=(10, 20), init_from="la", source="joint"
    )  # released
    # the supervised baseline of Table 1; transfer to the run's own videos, UCF101 and HMDB51
    config.supervised = _finetuning(epochs=200, frozen_stages=0, init_from="")
    config.finetune = _finetuning(epochs=40, frozen_stages=1, init_from="tune")
    config.ucf101 = _finetuning(epochs=40, frozen_stages=1, init_from="tune")
    config.hmdb51 = _finetuning(epochs=30, frozen_stages=2, init_from="tune")
    config.few_shot = _few_shot()
    config.evaluation = _evaluation()
    config.svm = _svm()
    config.explore = _explore()
    return config


def flat(config: ConfigDict, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every setting of `config`."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _data() -> ConfigDict:
    data = ConfigDict()
    data.manifest = ""  # folder (class = parent folder), or TSV/CSV with a `path` column
    data.collection = ""  # folder made by `vcjax ingest`, in place of data.manifest; "": the run
    # makes a collection of its own in its workdir
    data.side = 0  # short side of the frames of that collection, in pixels; 0: twice clip.side
    data.codec = "jpeg"  # of these frames; or "h264": a third of the space, slower to read
    data.group = "auto"  # label column whose values are never divided between training and test;
    # "": none; "auto": the first column of GROUP_COLUMNS that the manifest has
    data.holdout = 0.25  # fraction of videos held out for evaluation, without a `split` column;
    # 0: none, train on all videos, which needs evaluation.folds
    data.num_videos = 0  # random training videos, smaller subsets nested in larger (Fig. 4); 0: all
    data.on_error = "error"  # or "skip": list invalid videos and leave them out
    data.verify = "decode"  # decode every frame of every video once; "header": read metadata only
    data.max_corrupt_fraction = 0.01  # fraction of training videos that may fail to decode during
    # training and be replaced
    data.max_changed_share = 0.1  # fraction of videos that may be added or removed before stages
    # start over; below it, the state of the remaining videos (vectors, bank rows, labels) is kept
    data.num_threads = 0  # threads that read clips ahead of the device; 0: two if the network runs
    # on a CPU, otherwise one per CPU core, up to 8
    data.num_workers = 0  # processes that read clips in place of the threads; 0: threads
    data.rendered = ConfigDict()
    data.rendered.num_videos = 0  # > 0: render this many videos instead of reading a manifest
    data.rendered.contrast = 0.35  # contrast of the scenes; 1: no haze between scene and actor
    data.rendered.brightness = 185.0  # brightness of the scenes, in [0, 255]
    data.seed = -1  # seed of rendering, subsets and the split; -1: `seed`
    return data


def _clip() -> ConfigDict:
    clip = ConfigDict()
    clip.num_frames = 16  # frames per clip, Sec. 4.2; Table 3: 32, 64
    clip.stride = 1  # video frames from one frame of the clip to the next
    clip.side = 112  # pixels, Sec. 4.2; Table 7: 224
    clip.scales = tuple(2 ** (-j / 4) for j in range(5))  # crop side / short side of the video [14]
    clip.flip = 0.5  # probability of a horizontal flip
    clip.grayscale = 0.2  # probability of conversion to gray, released
    clip.jitter = (0.4, 0.4, 0.4, 0.4)  # brightness, contrast, saturation, hue; released
    return clip


def _model() -> ConfigDict:
    model = ConfigDict()
    model.depth = 18  # layers of the 3D ResNet, Sec. 4.2; or 34 (Table 7)
    model.width = 64  # channels of the first stage
    model.embedding_dim = 128  # Sec. 4.2
    model.dtype = "auto"  # of activations: bfloat16 on TPUs and recent GPUs, else float32;
    # parameters, statistics and loss are float32
    return model


def _idt() -> ConfigDict:
    idt = ConfigDict()
    idt.matcher = "flow"  # point matches for the camera's homography; or "surf"
    idt.detector = "maskrcnn"  # of people, whose motion is not the camera's (Sec. 3.3); to go
    # without: none (Table 5, and the small variants); or hog, onnx:FILE, maskrcnn:WEIGHTS
    idt.people = ""  # folder of boxes of people, VIDEO_ID.bb, in place of the detector; "": none
    idt.max_side = 0  # pixels of the larger side, to which larger frames are reduced; 0: as is
    return idt


def _fisher() -> ConfigDict:
    fisher = ConfigDict()
    fisher.explained_variance = 0.9  # fraction of variance kept by the PCA, Sec. 4.2
    fisher.num_components = 256  # Gaussians of the mixture, Sec. 4.2
    fisher.fit_split = "train"  # split to fit on; or "all": both splits, as no label is used
    fisher.num_videos = 3500  # random videos to fit PCA and mixture on, Sec. 4.2
    fisher.descriptors_per_video = 500  # random descriptors of each of these videos, Sec. 4.2
    fisher.sketch_dim = 2000  # dimensions of the count sketch, Sec. 3.3; 0: no sketch
    fisher.variant = "paper"  # Eq. 5-6; or "released"
    fisher.descriptors = ("all",)  # one joint model; or ("trajectory", "hog", "hof", "mbh"): a PCA
    # and a mixture for each descriptor, vectors concatenated (Wang & Schmid 2013)
    fisher.square_root = False  # signed square root before the PCA (Wang & Schmid 2013)
    return fisher


def _clusters() -> ConfigDict:
    clusters = ConfigDict()
    clusters.num_clusters = 6000  # K, Sec. 4.2; 0: the paper's ratio of videos to clusters
    clusters.num_runs = 3  # runs of K-means that are combined (m), Sec. 4.2
    clusters.seed = 1234  # seed of the first run, then 1235, ...; released
    clusters.num_iterations = 20  # iterations of Lloyd's algorithm; released
    clusters.fisher_weight = 1.0  # factor of p(psi) in the joint space of d and p(psi), Sec. 3.3
    return clusters


def _training(*, epochs: int, lr_milestones: tuple[int, ...], init_from: str) -> ConfigDict:
    stage = ConfigDict()
    stage.epochs = epochs  # passes over the training videos
    stage.lr_milestones = lr_milestones  # epochs after which the learning rate is divided by 10
    stage.init_from = init_from  # stage that provides initial weights and bank; "": random
    stage.batch_size = 256  # clips per step, Sec. 4.2
    stage.accumulation_steps = 1  # sequential parts of a batch, to save memory; batch
    # normalization computes its statistics over one part
    stage.learning_rate = 0.03  # Sec. 4.2
    stage.warmup_epochs = 0.0  # epochs of linear warmup to the learning rate
    stage.momentum = 0.9  # Sec. 4.2
    stage.weight_decay = 1e-4  # except for batch normalization; released
    stage.temperature = 0.07  # tau of Eq. 2, Sec. 4.2
    stage.bank_momentum = 0.5  # weight of the old row in an update of the memory bank; released
    stage.checkpoint_steps = 0  # training steps between checkpoints; 0: one epoch
    stage.validate_epochs = 1  # epochs between validations
    return stage


def _aggregation(
    *, epochs: int, lr_milestones: tuple[int, ...], init_from: str, source: str
) -> ConfigDict:
    stage = _training(epochs=epochs, lr_milestones=lr_milestones, init_from=init_from)
    stage.objective = "local_aggregation"  # Eq. 3-4
    stage.source = source  # clustered vectors: idt (once), bank or joint (again in every epoch)
    stage.bank = "embeddings"  # rows of the memory bank: running means of the embeddings, Sec. 3.1,
    # or "fisher": fixed Fisher vectors, projected to the embedding's dimension (source idt only)
    stage.num_background = 4096  # |B_i|, released; 0: the paper's ratio
    stage.num_candidates = 0  # bank rows of the nearest cells to search for B_i, for many millions
    # of videos; 0: exact search of the whole bank
    return stage


def _finetuning(*, epochs: int, frozen_stages: int, init_from: str) -> ConfigDict:
    stage = ConfigDict()
    stage.manifest = ""  # labeled videos, in the form of data.manifest; "": the run's own videos
    stage.label = ""  # column of the classes; "": class, label, action or motion
    stage.splits = ()  # columns of train and test, or of folds to hold out in turn; (): split1 to
    # split3 if present, or else split
    stage.init_from = init_from  # stage that provides initial weights; "": random
    stage.starts = ()  # several such stages to compare, each finetuned in turn in place of
    # init_from; "scratch": random weights, of which nothing is frozen
    stage.epochs = epochs  # released
    stage.batch_size = 128  # clips per step, Sec. 4.2
    stage.learning_rate = 0.1  # Sec. 4.2
    stage.momentum = 0.9  # Sec. 4.2
    stage.dampening = 0.9  # factor 1 - dampening of the gradient in the momentum; released
    stage.weight_decay = 1e-3  # except for batch normalization; released
    stage.patience = 5  # epochs without a lower loss before the learning rate drops; released
    stage.plateau_split = "holdout"  # videos of that loss: "holdout", a part of the training
    # videos, or "test" (released)
    stage.holdout = 0.1  # fraction of the training videos in that part
    stage.frozen_stages = frozen_stages  # first network stages to freeze, with the stem; 0: none
    stage.freeze_statistics = True  # freeze their batch statistics too; released: False
    stage.videos_per_class = 0  # random training videos per class; 0: all
    stage.scales = (1.0, 2**-0.25)  # crop side / short side of the video, released; no color jitter
    stage.input_scale = 1.0  # factor of colors in [0, 1] after mean subtraction; released: 255
    stage.average = "softmax"  # mean over a video's clips, Sec. 4.2; or logits (released)
    stage.checkpoint_steps = 0  # training steps between checkpoints; 0: one epoch
    return stage


def _few_shot() -> ConfigDict:
    stage = ConfigDict()
    stage.manifest = ""  # labeled videos, in the form of data.manifest; "": the run's own videos
    stage.label = ""  # column of the classes; "": class, label, action or motion
    stage.splits = ()  # columns of train and test, or of folds to hold out in turn; (): split1 to
    # split3 if present, or else split
    stage.init_from = "tune"  # stage whose frozen network is evaluated; "": random weights
    return stage


def _evaluation() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.clips_per_video = 5  # Sec. 4.2
    evaluation.folds = ""  # label column whose values are held out in turn to fit and evaluate the
    # probes, such as fold; "": the split
    evaluation.labels = ()  # label columns that the stages evaluate and svm report; (): all
    evaluation.batch_size = 32  # clips per step
    evaluation.shots = (1, 5, 10, 20)  # labeled videos per class, Table 2
    evaluation.num_draws = 10  # random samples per number of shots, for mean and 95% interval
    evaluation.sampling = "random"  # or "first": a single sample, the first videos (released)
    evaluation.retrieval = (1, 5, 10, 20, 50)  # depths k of R@k
    evaluation.num_neighbors = 20  # voting neighbors, each weighted by exp(cosine / temperature)
    evaluation.temperature = 0.07  # temperature of the vote (Wu et al. 2018)
    evaluation.max_train = 20_000  # training videos that probes are fitted to and neighbors are
    # searched in, drawn at random from more; 0: all
    return evaluation


def _svm() -> ConfigDict:
    svm = ConfigDict()
    svm.penalty = 100.0  # C of the linear SVM on Fisher vectors (Wang & Schmid 2013)
    svm.leave_groups_out = False  # hold out each value of `data.group` in turn; ignores the split
    return svm


def _explore() -> ConfigDict:
    explore = ConfigDict()
    explore.num_clusters = 0  # K; 0: the square root of the number of videos, so that there are as
    # many clusters as videos in a cluster
    explore.embeddings = ()  # NAME=FILE[:ARRAY] of other embeddings to compare, npz or parquet
    explore.num_shared = 10  # nearest neighbors of which two spaces share a part
    return explore


DESCRIPTORS = ("all", "trajectory", "hog", "hof", "mbh")  # each may have its own mixture
GROUP_COLUMNS = ("group", "scene", "sequence")
TRAINING_STAGES = ("ir", "la_own", "la", "tune")
FINETUNING_STAGES = ("supervised", "finetune", "ucf101", "hmdb51")


def group_column(configured: str, columns: Collection[str]) -> str:
    """Return the label column of groups, which is `configured` or chosen for "auto"; "": none.

    Raises:
        SettingsError: If `columns` does not contain the configured column.
    """
    if configured == "auto":
        return next((c for c in GROUP_COLUMNS if c in columns), "")
    if configured and configured not in columns:
        raise SettingsError(
            f"--config.data.group is {configured!r}; use one of the manifest's label columns "
            f"{', '.join(sorted(columns)[:10]) or '(there is none)'}"
        )
    return configured


def num_epochs(stage: ConfigDict, epochs_scale: float) -> int:
    """Return the number of epochs of a stage after scaling, at least one."""
    return max(1, round(stage.epochs * epochs_scale))


def num_clusters(configured: int, num_videos: int) -> int:
    """Return K, which is `configured`, or for 0 the paper's fraction of `num_videos`, at least 2.

    Raises:
        SettingsError: If there are not more videos than clusters.
    """
    count = configured or max(2, round(num_videos / VIDEOS_PER_CLUSTER))
    if count >= num_videos:
        raise SettingsError(
            f"{count} clusters need more than {num_videos} training videos; "
            "set --config.clusters.num_clusters=0 for the paper's ratio"
        )
    return count


def num_background(configured: int, num_videos: int) -> int:
    """Return |B_i|, at most `num_videos`; 0 for the paper's fraction of them, at least 32."""
    proportional = max(MIN_BACKGROUND, math.ceil(num_videos / VIDEOS_PER_BACKGROUND_NEIGHBOR))
    return min(num_videos, configured or proportional)
