"""Features of frozen networks, kept on disk so that other probes of them decode no clip.

`FOLDER/OWNER-NETWORK-DIGEST.npz` has the features of one network. The digest hashes all that they
depend on: the content of the weights, the precision of the activations, the videos with the
versions of their files, and the clips. The file repeats this description in full.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vcjax import inference
from vcjax.data.manifest import Manifest, versions
from vcjax.inference import Features
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import npz

log = logging.getLogger(__name__)


def features(
    folder: Path,
    owner: str,
    models: Mapping[str, ResNet3D],
    manifest: Manifest,
    config: ConfigDict,
    *,
    clips_per_video: int,
) -> dict[str, Features]:
    """Return `inference.videos`, reading clips only for networks without kept features.

    Features are kept as soon as they are computed, and earlier ones of the same owner and network
    are removed. A damaged file is replaced. Only one process of a run may call this function.

    Args:
        folder: Folder of the kept features, of any number of owners, which share them.
        owner: Name of the stage or command that needs the features, without hyphens.
        models: Networks by name.
        manifest: Videos to embed.
        config: Settings of a run.
        clips_per_video: Number of random clips of each video.
    """
    videos = _videos(manifest)
    keys = {
        name: json.dumps(_description(model, videos, config, clips_per_video))
        for name, model in models.items()
    }
    kept = {name: stored for name, key in keys.items() if (stored := _read(folder, key))}
    computed = {name: model for name, model in models.items() if name not in kept}
    if kept:
        log.info("%s: using the kept features of %s", owner, ", ".join(kept))
    if computed:
        kept |= inference.videos(computed, manifest, config, clips_per_video=clips_per_video)
    for name, key in keys.items():
        path = folder / f"{owner}-{name}-{_digest(key)}.npz"
        if name in computed:
            npz.write(path, {"key": np.array(key), **kept[name]._asdict()})
        for earlier in set(folder.glob(f"{owner}-{name}-*.npz")) - {path}:
            earlier.unlink(missing_ok=True)
    return {name: kept[name] for name in models}


def _description(
    model: ResNet3D, videos: str, config: ConfigDict, clips_per_video: int
) -> dict[str, Any]:
    """Return all that the features of a network depend on."""
    return {
        "weights": resnet3d.digest(model),
        "videos": videos,
        "num_frames": config.clip.num_frames,
        "stride": config.clip.stride,
        "side": config.clip.side,
        "clips_per_video": clips_per_video,
        "seed": config.seed,
    }


def _videos(manifest: Manifest) -> str:
    """Return a hash of the videos in their order, which does not depend on their folder."""
    digest = hashlib.sha256()
    columns = (manifest.video_ids, manifest.num_frames, manifest.paths, versions(manifest))
    for video_id, num_frames, path, version in zip(*columns, strict=True):
        digest.update(repr((video_id, num_frames, path.rpartition("/")[2], version)).encode())
    return digest.hexdigest()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _read(folder: Path, key: str) -> Features | None:
    """Return the intact features of `key`, or None."""
    for path in sorted(folder.glob(f"*-{_digest(key)}.npz")):
        stored = npz.read(path)
        if stored is None:
            continue
        if stored.keys() == {"key", *Features._fields} and str(stored.pop("key")) == key:
            return Features(**stored)
        log.warning("%s: not the features of its name, and not used", path)
    return None
