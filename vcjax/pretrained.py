"""Trained networks in a portable format: a folder of safetensors, JSON and a model card."""

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
from vcjax.inference import Features
from vcjax.models import state_dict
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checks, stage_cache
from vcjax.training import networks

WEIGHTS, CONFIG, CARD, BANK = "model.safetensors", "config.json", "README.md", "bank.safetensors"
BEST = "best"  # suffix for `load`: RUN/STAGE/best is the checkpoint with the best validation


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

    def __call__(self, clips: UInt8[np.ndarray, "b t h w 3"]) -> Features:
        """Return embeddings [b, d] (unit L2 norm) and pooled features [b, f] of RGB clips."""
        return inference.clips_of(self.model, clips)

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
        if not isinstance(source, str | Path | Manifest):
            raise ValueError(
                f"source must be a folder, a table with a column path, or a Manifest, not a "
                f"{type(source).__name__}; write the paths of single videos into a table"
            )
        if not isinstance(source, Manifest):
            source, _ = verify.verify(
                manifests.read(source), on_error="error", decode=False, num_workers=1
            )
        return inference.videos(
            {"": self.model}, source, self.config(), clips_per_video=clips_per_video
        )[""]

    def config(self) -> ConfigDict:
        """Return the paper's settings with this architecture and clip format."""
        config = settings.paper()
        config.model.update(self.architecture)
        config.clip.update(self.clip)
        return config


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
        raise ValueError(f"{folder / CONFIG}: not written by vcjax: {error!r}") from error
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
    (folder / CARD).write_text(card(network), "utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")


@checks.arguments
def card(network: Pretrained) -> str:
    """Return the model card as Markdown with the hub's YAML header."""
    shape, clip = network.architecture, network.clip
    count = sum(x.size for x in jax.tree.leaves(nnx.state(network.model, nnx.Param)))
    features = 8 * shape["width"]
    source = "\n".join(f"- {k}: `{json.dumps(v)}`" for k, v in network.source.items())
    return f"""---
library_name: vcjax
pipeline_tag: video-classification
tags: [video, self-supervised-learning, jax]
---
# 3D ResNet-{shape["depth"]}, {count / 1e6:.2f} million parameters

The network maps clips of {clip["num_frames"]} frames (stride {clip["stride"]}, {clip["side"]} x
{clip["side"]} pixels) to unit-norm embeddings of {shape["embedding_dim"]} values and pooled
features of {features} values. It was trained without labels by the method of Tokmakov, Hebert and
Schmid, *Unsupervised Learning of Video Representations via Dense Trajectory Clustering* (2020).

```python
import vcjax

network = vcjax.load("THIS_FOLDER")
embedding, pooled = network.videos("FOLDER_OF_VIDEOS")
```

## Source

{source or "not recorded"}

## Limits

The features reflect the contents of the training videos, including faces and scenes. Evaluate them
on your own data before you rely on them.
"""
