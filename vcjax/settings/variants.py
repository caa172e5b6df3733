"""Named variants of the settings: sizes, the released code, ablations of the paper."""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from vcjax.settings.defaults import FINETUNING_STAGES, TRAINING_STAGES, SettingsError


def _small(config: ConfigDict) -> None:
    """Reduce all sizes to a laptop's CPU; K and |B_i| keep the paper's ratios."""
    if config.la.source == "idt":  # plain LA is trained for comparison
        config.stages = (
            *("manifest", "ingest", "fisher"),
            *("ir", "la_own", "la", "tune", "evaluate"),
        )
    # every other frame: the duration of the paper's 16 frames at half the cost
    config.clip.num_frames, config.clip.stride, config.clip.side = 8, 2, 56
    config.model.width = 16
    config.clusters.num_clusters = 0
    config.idt.detector = "none"
    config.fisher.num_components = 32
    config.ir.estimator = "full_softmax"
    for stage, epochs, lr_milestones in (
        (config.ir, 20, ()),
        (config.la_own, 20, (16,)),
        (config.la, 20, (16,)),
        (config.tune, 5, (4,)),
    ):
        stage.epochs, stage.lr_milestones, stage.batch_size = epochs, lr_milestones, 16
        stage.validate_epochs = 5
        if stage.objective == "local_aggregation":
            stage.num_background = 0
    for name in FINETUNING_STAGES:
        config[name].batch_size = 16


def _rendered(config: ConfigDict) -> None:
    """Render 320 videos, in which motion and scene are independent, instead of reading videos."""
    _small(config)
    config.data.rendered.num_videos = 320
    config.data.group = "scene"
    config.clip.side, config.model.width = 32, 12
    config.clip.scales = (1.0, 2**-0.25)  # an actor fills most of the picture
    config.fisher.num_components = 4  # few trajectories per video, all of one actor
    # Two clusters per motion. The paper's ratio of clusters to videos gives six for 240 videos,
    # which would merge motions.
    config.clusters.num_clusters = 16
    # At 0.03 the loss of instance recognition first rises.
    config.ir.learning_rate = config.tune.learning_rate = 0.01
    for aggregation in (config.la_own, config.la):
        aggregation.epochs, aggregation.lr_milestones = 60, (50,)
        aggregation.validate_epochs = 20
    for name in TRAINING_STAGES:
        config[name].batch_size = 32


def _folder(config: ConfigDict) -> None:
    """Read any manifest, with the sizes of a laptop's CPU."""
    _small(config)


def _jhmdb(config: ConfigDict) -> None:
    """Train on all videos of JHMDB without labels; hold out its folds of scenes in the probes.

    The manifest needs the columns action, scene and fold.
    """
    _small(config)
    config.data.holdout, config.evaluation.folds = 0.0, "fold"
    config.clip.num_frames = 16  # at stride 2, nearly a whole video
    config.clusters.num_clusters = 40
    for stage, epochs, lr_milestones in (
        (config.ir, 40, ()),
        (config.la_own, 100, (80,)),
        (config.la, 100, (80,)),
    ):
        stage.epochs, stage.lr_milestones = epochs, lr_milestones
    for name in TRAINING_STAGES:
        config[name].batch_size = 32
    config.supervised.splits = config.finetune.splits = ("fold",)


def _smoke(config: ConfigDict) -> None:
    """Test all stages on 32 rendered videos in about a minute; the results are meaningless."""
    _rendered(config)
    config.data.rendered.num_videos = 32
    config.clusters.num_clusters = 0
    config.epochs_scale = 0.1
    config.clip.side = 32
    for name in TRAINING_STAGES + FINETUNING_STAGES:
        config[name].batch_size = 8
    config.model.width = 8
    config.fisher.num_components = 4
    config.evaluation.clips_per_video = 1


def _released(config: ConfigDict) -> None:
    """Follow the released code where it departs from the paper."""
    config.ir.batch_size = 128
    config.ir.estimator = "nce"
    config.ir.scale_nce_constant = False
    for stage in (config.ir, config.la, config.la_own):
        stage.lr_milestones = (161, 191)
    config.fisher.variant = "released"
    config.evaluation.sampling = "first"
    for name in FINETUNING_STAGES:
        stage = config[name]
        stage.plateau_split, stage.freeze_statistics = "test", False
        stage.input_scale, stage.average = 255.0, "logits"


def _transfer(config: ConfigDict) -> None:
    """Evaluate on UCF101 and HMDB51 and few-shot (Tables 1-7), not on the run's own videos."""
    config.eval_stages = ("few_shot", "ucf101", "hmdb51")


def _finetune(config: ConfigDict) -> None:
    """Finetune on the run's own labels after all other stages."""
    config.eval_stages = (*config.eval_stages, "finetune")


def _no_tune(config: ConfigDict) -> None:
    """Leave out the stage `tune`, the last stage of training (Table 5)."""
    config.stages = tuple(s for s in config.stages if s != "tune")


def _of(section: str, **values: int) -> Callable[[ConfigDict], None]:
    """Return a variant that sets `values` in a section of the config."""

    def variant(config: ConfigDict) -> None:
        config[section].update(values)

    return variant


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "rendered": _rendered,
    "folder": _folder,
    "jhmdb": _jhmdb,
    "smoke": _smoke,
    "released": _released,
    "transfer": _transfer,
    "finetune": _finetune,
    "no_tune": _no_tune,
    **{f"frames{t}": _of("clip", num_frames=t) for t in (32, 64)},  # Table 3
    **{  # K and m, Table 6
        f"clusters{k}x{m}": _of("clusters", num_clusters=k, num_runs=m)
        for k, m in ((1500, 1), (3000, 2), (12000, 6), (30000, 10))
    },
    "depth34": _of("model", depth=34),  # Table 7
    "side224": _of("clip", side=224),  # Table 7
    **{f"videos{n}k": _of("data", num_videos=1000 * n) for n in (135, 185, 370)},  # Fig. 4
}


def apply_variants(config: ConfigDict, variant: str) -> ConfigDict:
    """Apply comma-separated variants to `config` in order, and return it.

    Args:
        config: Settings, which are modified.
        variant: Keys of `VARIANTS`, for example "folder,released"; "": none.

    Raises:
        SettingsError: If a variant is unknown.
    """
    for name in filter(None, variant.split(",")):
        if name not in VARIANTS:
            raise SettingsError(f"variant {name!r} is unknown; use one of {', '.join(VARIANTS)}")
        VARIANTS[name](config)
    return config


def append_evaluation(config: ConfigDict, pretraining: Sequence[str]) -> ConfigDict:
    """Set the stages of `config` to `pretraining` and its `eval_stages`, and return it.

    The transfer stages start from the last training stage in `pretraining`. Without one, they start
    from random weights, and finetuning freezes no part of the network.
    """
    trained = [s for s in pretraining if s in (*TRAINING_STAGES, "supervised")]
    for name in ("few_shot", "finetune", "ucf101", "hmdb51"):
        config[name].init_from = trained[-1] if trained else ""
        if not trained and name != "few_shot":
            config[name].frozen_stages = 0
    config.stages = (*pretraining, *config.eval_stages)
    return config
