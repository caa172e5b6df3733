"""Trained networks in a portable format: a folder of safetensors, JSON and a model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from vcjax import inference, settings
from vcjax.data import manifest as manifests
from vcjax.data import verify
from vcjax.data.manifest import Manifest
from vcjax.inference import Features
from vcjax.models import state_dict
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checks, stage_record
from vcjax.training import finetune, networks

WEIGHTS, CONFIG, CARD, BANK = "model.safetensors", "config.json", "README.md", "bank.safetensors"
BEST = "best"  # suffix for `load`: RUN/STAGE/best is the checkpoint with the best validation


@dataclass(frozen=True)
class Classifier:
    """Classes of a finetuned network, and the way in which its run evaluates it."""

    classes: list[str]  # in the order of the logits
    label: str  # column of the classes
    average: str  # over the clips of a video, a key of `finetune.AVERAGES`
    input_scale: float  # factor of the mean-subtracted colors
    clips_per_video: int
    seed: int  # of the clips

    def probabilities(self, averages: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Return the probabilities of the classes from averages over clips, as `average` says."""
        return np.asarray(jax.nn.softmax(averages)) if self.average == "logits" else averages


@dataclass(frozen=True)
class Pretrained:
    """A trained network with the format of its training clips.

    Call it with clips, or use `videos` to read video files. Both return embeddings and pooled
    features. The mean color is subtracted internally.
    """

    model: ResNet3D
    architecture: dict[str, Any]  # depth, width, embedding_dim
    clip: dict[str, int]  # num_frames, stride (frames), side (pixels)
    source: dict[str, Any] = field(default_factory=dict)  # provenance, for the model card
    classifier: Classifier | None = None  # of a finetuned network, else None

    def __call__(self, clips: UInt8[np.ndarray, "b t h w 3"]) -> Features:
        """Return embeddings [b, d] (unit L2 norm) and pooled features [b, f] of RGB clips.

        The embedding of a classifier is its normalized pooled features.
        """
        return self._features(inference.clips_of(self.model, clips))

    def videos(self, source: str | Path | Manifest, *, clips_per_video: int = 5) -> Features:
        """Return embeddings and pooled features of videos, averaged over random clips (seed 0).

        The short side of a frame is resized to `clip["side"]` pixels and the center is cropped.

        Args:
          source: a folder of videos, a table with a `path` column, or a verified manifest.
          clips_per_video: number of clips to average over.

        Returns:
          One row per video, sorted by id (for a Manifest: in its order).

        Raises:
          ValueError: if `source` is not a path or a manifest, or a count is not positive.
          ManifestError: if `source` is not a valid list of videos.
          DecodeError: if a video cannot be decoded.
        """
        checks.count("clips_per_video", clips_per_video)
        return self._features(
            inference.videos(
                {"": self.model}, _manifest(source), self.config(), clips_per_video=clips_per_video
            )[""]
        )

    def predict(
        self,
        source: str | Path | Manifest,
        *,
        clips_per_video: int | None = None,
        config: ConfigDict | None = None,
    ) -> Float[np.ndarray, "n c"]:
        """Return the probability of each class of `classifier` for every video.

        Args:
          source: as for `videos`.
          clips_per_video: number of clips to average over; None: as in the evaluation of the run.
          config: settings of the reader; None: `self.config()`.

        Raises:
          ValueError: if the network is not a classifier, or in the cases of `videos`.
        """
        classifier = self.require_classifier()
        logits = finetune.clip_logits(
            self.model,
            _manifest(source),
            config or self.config(),
            ConfigDict({"input_scale": classifier.input_scale}),
            clips_per_video=clips_per_video or classifier.clips_per_video,
        )
        return classifier.probabilities(finetune.AVERAGES[classifier.average](logits))

    def require_classifier(self) -> Classifier:
        """Return the classifier.

        Raises:
          ValueError: if there is none.
        """
        if self.classifier is None:
            raise ValueError(
                f"the network of {self.source.get('stage', 'this folder')} is not a classifier; "
                "pass a finetuned stage, such as runs/mine/finetune"
            )
        return self.classifier

    def _features(self, features: Features) -> Features:
        if self.classifier is None:
            return features
        norm = np.linalg.norm(features.pooled, axis=1, keepdims=True)
        return Features(features.pooled / np.maximum(norm, 1e-12), features.pooled)

    def config(self) -> ConfigDict:
        """Return the paper's settings with this architecture and clip format.

        The clips of a classifier are drawn with the seed of its run, as in its evaluation.
        """
        config = settings.paper()
        config.model.update(self.architecture)
        config.clip.update(self.clip)
        if self.classifier:
            config.seed = self.classifier.seed
        return config


def _manifest(source: str | Path | Manifest) -> Manifest:
    if not isinstance(source, str | Path | Manifest):
        raise ValueError(
            f"source must be a folder, a table with a column path, or a Manifest, not a "
            f"{type(source).__name__}; write the paths of single videos into a table"
        )
    if isinstance(source, Manifest):
        return source
    return verify.verify(manifests.read(source), on_error="error", decode=False, num_workers=1)[0]


def load(source: str | Path) -> Pretrained:
    """Load a network; see `vcjax.load`."""
    if not isinstance(source, str | Path):
        raise ValueError(f"source must be a path or a name, not a {type(source).__name__}")
    folder = Path(source)
    if (folder / CONFIG).is_file():
        return _load_folder(folder)
    if (folder / "checkpoints").is_dir():
        return _load_stage(folder)
    if folder.name == BEST and (folder.parent / "checkpoints").is_dir():
        return _load_stage(folder.parent, best=True)
    inside = sorted(path.parent.name for path in folder.glob("*/checkpoints"))
    if len(inside) == 1:
        return _load_stage(folder / inside[0])
    if folder.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise FileNotFoundError(_no_network(folder, inside))
    return _load_folder(_download(str(source)))


def _no_network(folder: Path, inside: Sequence[str]) -> str:
    path = folder.absolute()
    if inside:
        return f"{path} contains {len(inside)} networks; use one of {', '.join(inside)} in it"
    exists = "" if folder.exists() else "no such folder, and so "
    return (
        f"{path}: {exists}neither a folder with {CONFIG} nor a training stage such as runs/mine/la "
        f"(looked for {path / CONFIG} and {path / 'checkpoints'})"
    )


def _load_folder(folder: Path) -> Pretrained:
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        architecture, clip = dict(config["model"]), dict(config["clip"])
        model = ResNet3D(**architecture, rngs=nnx.Rngs(0))
        source = dict(config.get("source", {}))
        classifier = Classifier(**config["classifier"]) if config.get("classifier") else None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG}: not written by vcjax: {error!r}") from error
    state_dict.load(model, load_file(folder / WEIGHTS))
    return Pretrained(model, architecture, clip, source, classifier)


def _load_stage(folder: Path, *, best: bool = False) -> Pretrained:
    """Return the network of a stage, or of one split of a finetuning stage."""
    stage = folder.parent if (folder.parent / "stage.json").exists() else folder
    record = stage_record.read(stage).get("settings")
    if record is None:
        raise FileNotFoundError(f"no record of the stage in {stage.absolute() / 'stage.json'}")
    config = settings.paper()
    config.model.update(record["model"])
    config.seed = record["seed"]
    architecture = {k: record["model"][k] for k in ("depth", "width", "embedding_dim")}
    clip = {k: record["clip"][k] for k in ("num_frames", "stride", "side")}
    source = {"stage": stage.name, "best": best, "settings": record[stage.name]}
    classifier = None
    if stage.name in settings.FINETUNING_STAGES:
        classifier = _classifier(stage, folder.name, record)
        config.model.embedding_dim = architecture["embedding_dim"] = len(classifier.classes)
        source["split"] = folder.name
    model = networks.load_model(config, folder, best=best)
    return Pretrained(model, architecture, clip, source, classifier)


def _classifier(stage: Path, split: str, record: Mapping[str, Any]) -> Classifier:
    """Return the classifier of a split, whose classes are in the result of the stage."""
    path = stage.absolute() / "result.json"
    try:
        result = json.loads(path.read_text("utf-8"))
        classes, label = list(result["splits"][split]["classes"]), str(result["label"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: no such file, so the classes are unknown; complete the stage {stage.name}"
        ) from error
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: no classes of {split}; it is damaged or of an earlier version: run the stage "
            f"{stage.name} again"
        ) from error
    trained = record[stage.name]
    return Classifier(
        classes,
        label,
        trained["average"],
        trained["input_scale"],
        record["evaluation"]["clips_per_video"],
        record["seed"],
    )


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(
            f"{name} is not a folder; to load it from the hub: pip install 'vcjax[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"{name}: no such folder, and the hub cannot provide it: {reason}"
        ) from error


@checks.arguments
def save(
    network: Pretrained, folder: Path, *, rows: Mapping[str, np.ndarray | None] | None = None
) -> None:
    """Write `network` into `folder` for `load`, with a model card.

    `rows` can hold a memory bank [n, d] and its labels [runs, n], written to bank.safetensors.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = {k: np.ascontiguousarray(v) for k, v in state_dict.arrays(network.model).items()}
    save_file(values, folder / WEIGHTS, metadata={"format": "vcjax"})
    bank = {k: np.ascontiguousarray(v) for k, v in (rows or {}).items() if v is not None}
    if bank:
        save_file(bank, folder / BANK)
    config = {"model": network.architecture, "clip": network.clip, "source": network.source}
    if network.classifier:
        config["classifier"] = asdict(network.classifier)
    (folder / CARD).write_text(card(network), "utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")


@checks.arguments
def card(network: Pretrained) -> str:
    """Return the model card as Markdown with the hub's YAML header."""
    shape, clip = network.architecture, network.clip
    count = sum(x.size for x in jax.tree.leaves(nnx.state(network.model, nnx.Param)))
    features = 8 * shape["width"]
    source = "\n".join(f"- {k}: `{json.dumps(v)}`" for k, v in network.source.items())
    outputs, trained = (
        f"unit-norm embeddings of {shape['embedding_dim']} values",
        "trained without labels",
    )
    usage = 'embedding, pooled = network.videos("FOLDER_OF_VIDEOS")'
    if network.classifier:
        names = ", ".join(network.classifier.classes)
        outputs, trained = f"logits of the classes {names}", "finetuned on labels"
        usage = 'probabilities = network.predict("FOLDER_OF_VIDEOS")'
    return f"""---
library_name: vcjax
pipeline_tag: video-classification
tags: [video, self-supervised-learning, jax]
---
# 3D ResNet-{shape["depth"]}, {count / 1e6:.2f} million parameters

The network maps clips of {clip["num_frames"]} frames (stride {clip["stride"]}, {clip["side"]} x
{clip["side"]} pixels) to {outputs} and pooled
features of {features} values. It was {trained} by the method of Tokmakov, Hebert and
Schmid, *Unsupervised Learning of Video Representations via Dense Trajectory Clustering* (2020).

```python
import vcjax

network = vcjax.load("THIS_FOLDER")
{usage}
```

## Source

{source or "not recorded"}

## Limits

The features reflect the contents of the training videos, including faces and scenes. Evaluate them
on your own data before you rely on them.
"""
