"""A trained network to hand on: a folder of safetensors, JSON and a model card; and its use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from ml_collections import ConfigDict

from vcjax import inference, settings
from vcjax.data import manifest as manifests
from vcjax.data import verify
from vcjax.data.manifest import Manifest
from vcjax.inference import Embedded
from vcjax.models import state_dict
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import stage_cache
from vcjax.training import networks

WEIGHTS, CONFIG, CARD, BANK = "model.safetensors", "config.json", "README.md", "bank.safetensors"
BEST = "best"  # RUN/STAGE/best is no file: the stage's network at its best validation


@dataclass(frozen=True)
class Pretrained:
    """A network with the clips that it was trained on.

    Called with clips, uint8 RGB [b, t, h, w, 3], it gives their embeddings and pooled features;
    the mean colour is subtracted inside. `videos` reads and cuts the clips of videos itself.
    """

    model: ResNet3D
    architecture: dict[str, Any]  # depth, width, embedding_dim
    clip: dict[str, int]  # num_frames, stride, side in pixels
    source: dict[str, Any] = field(default_factory=dict)  # where the weights are from

    def __call__(self, clips: UInt8[np.ndarray, "b t h w 3"]) -> Embedded:
        """Embeddings [b, d] (unit L2 norm) and pooled features [b, f] of `clips`."""
        return inference.clips_of(self.model, clips)

    def videos(self, source: str | Path | Manifest, *, clips_per_video: int = 5) -> Embedded:
        """Those of each video, in the order of the ids: means over random clips, seed 0.

        `source` is a folder, a table with a `path` column, or a manifest that is read. The short
        side is resized to `clip["side"]`, and the centre cut out. Raises ManifestError or
        DecodeError.
        """
        if not isinstance(source, Manifest):
            source, _ = verify.verify(
                manifests.read(source), on_missing="error", decode=False, num_workers=1
            )
        return inference.videos(
            {"": self.model}, source, self.config(), clips_per_video=clips_per_video
        )[""]

    def config(self) -> ConfigDict:
        """Settings of a run with this network and these clips."""
        config = settings.paper()
        config.model.update(self.architecture)
        config.clip.update(self.clip)
        return config


def load(source: str | Path) -> Pretrained:
    """See `vcjax.load`."""
    folder = Path(source)
    if (folder / CONFIG).is_file():
        return _load_folder(folder)
    if (folder / "checkpoints").is_dir():
        return _load_stage(folder)
    if folder.name == BEST and (folder.parent / "checkpoints").is_dir():
        return _load_stage(folder.parent, best=True)
    if folder.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise FileNotFoundError(
            f"{source}: neither a folder with {CONFIG} nor a training stage such as runs/mine/la"
        )
    return _load_folder(_download(str(source)))


def _load_folder(folder: Path) -> Pretrained:
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        architecture, clip = dict(config["model"]), dict(config["clip"])
        model = ResNet3D(**architecture, rngs=nnx.Rngs(0))
        source = dict(config.get("source", {}))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG}: not one of ours: {error!r}") from error
    state_dict.load(model, load_file(folder / WEIGHTS))
    return Pretrained(model, architecture, clip, source)


def _load_stage(folder: Path, *, best: bool = False) -> Pretrained:
    record = stage_cache.read(folder)["settings"]
    config = settings.paper()
    config.model.update(record["model"])
    config.seed = record["seed"]
    architecture = {k: record["model"][k] for k in ("depth", "width", "embedding_dim")}
    clip = {k: record["clip"][k] for k in ("num_frames", "stride", "side")}
    source = {"stage": folder.name, "best": best, "settings": record[folder.name]}
    return Pretrained(networks.load_model(config, folder, best=best), architecture, clip, source)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(f"{name} is no folder; from the hub: pip install 'vcjax[hub]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{name}: no such folder, nor on the hub: {reason}") from error


def save(
    network: Pretrained, folder: Path, *, rows: Mapping[str, np.ndarray | None] | None = None
) -> None:
    """Writes `network` into `folder` for `load`, with a model card.

    `rows` are a memory bank [n, d] and its labels [runs, n], which go into a file of their own.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = {k: np.ascontiguousarray(v) for k, v in state_dict.arrays(network.model).items()}
    save_file(values, folder / WEIGHTS, metadata={"format": "vcjax"})
    known = {k: np.ascontiguousarray(v) for k, v in (rows or {}).items() if v is not None}
    if known:
        save_file(known, folder / BANK)
    config = {"model": network.architecture, "clip": network.clip, "source": network.source}
    (folder / CARD).write_text(card(network), "utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def card(network: Pretrained) -> str:
    """The model card, Markdown with the hub's header."""
    shape, clip = network.architecture, network.clip
    count = sum(x.size for x in jax.tree.leaves(nnx.state(network.model, nnx.Param)))
    features = 8 * shape["width"]
    told = "\n".join(f"- {k}: `{json.dumps(v)}`" for k, v in network.source.items())
    return f"""---
library_name: vcjax
pipeline_tag: video-classification
tags: [video, self-supervised-learning, jax]
---
# 3D ResNet-{shape["depth"]}, {count / 1e6:.2f} million parameters

Clips of {clip["num_frames"]} frames, stride {clip["stride"]}, {clip["side"]} pixels, to unit
embeddings of {shape["embedding_dim"]} values and pooled features of {features}. Trained without
labels by the method of Tokmakov, Hebert and Schmid, *Unsupervised Learning of Video
Representations via Dense Trajectory Clustering* (2020).

```python
import vcjax

network = vcjax.load("THIS_FOLDER")
embedding, pooled = network.videos("FOLDER_OF_VIDEOS")
```

## Source

{told or "not recorded"}

## Limits

It groups videos by what is in its training videos, faces and scenes among them; measure it on your
own before you rely on it.
"""
