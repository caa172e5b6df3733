"""Files that the authors' code writes: checkpoints, clusters, Fisher vectors, annotations."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher.vectors import FisherVectors
from vcjax.data.manifest import VIDEO_SUFFIXES
from vcjax.interop import torch_files
from vcjax.models import state_dict as weights


class Checkpoint(NamedTuple):
    """What is read of a checkpoint. `bank` and `labels` are None where there are none."""

    arrays: weights.Arrays  # named as here
    bank: Float[np.ndarray, "n d"] | None
    labels: Int[np.ndarray, "runs n"] | None
    facts: dict[str, Any]  # such as the epoch


def checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of the released code, of 3D-ResNets, or a bare state dict. Raises ValueError."""
    found = torch_files.read(path)
    state_dict = found
    for key in ("model_state_dict", "state_dict"):
        state_dict = found.get(key, state_dict) if isinstance(found, dict) else None
    if not isinstance(state_dict, dict):
        raise weights.WeightsError(f"{path}: no state dict")
    tensors = {k: v for k, v in state_dict.items() if isinstance(v, np.ndarray)}
    try:
        arrays = weights.from_torch(tensors)
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{path}: {error}") from error
    facts = {
        k: v for k in ("epoch", "iteration", "arch") if isinstance(v := found.get(k), int | str)
    }
    return Checkpoint(arrays, _bank(found.get("memory_bank")), _labels(found), facts)


def clusters(path: Path) -> Int[np.ndarray, "runs n"]:
    """The `cluster_labels` of a checkpoint, also of one with nothing else. Raises ValueError."""
    found = torch_files.read(path)
    labels = _labels(found) if isinstance(found, dict) else None
    if labels is None:
        raise ValueError(f"{path}: no cluster_labels")
    return labels


def _bank(found: Any) -> np.ndarray | None:
    """The bank that `MemoryBank` keeps on each GPU, or in its first form once."""
    if isinstance(found, torch_files.Inert) and isinstance(found.state, dict):
        copies = found.state.get("bank_broadcast") or [found.state.get("_bank")]
        return copies[0]
    return found if isinstance(found, np.ndarray) else None


def _labels(found: dict[str, Any]) -> np.ndarray | None:
    labels = found.get("cluster_labels")
    return labels[0] if isinstance(labels, list) else labels  # a list: one copy a GPU


def fisher_vectors(folder: Path) -> FisherVectors:
    """The vectors in files NAME.dat under `folder`, by their path there. Raises ValueError."""
    paths = sorted(folder.rglob("*.dat"))
    if not paths:
        raise ValueError(f"{folder}: no .dat files")
    vectors = np.stack([_vector(path) for path in paths])
    video_ids = tuple(str(path.relative_to(folder).with_suffix("")) for path in paths)
    return FisherVectors(video_ids, vectors, np.ones(len(paths), bool))


def _vector(path: Path) -> np.ndarray:
    vector = torch_files.read(path)
    if not isinstance(vector, np.ndarray):
        raise ValueError(f"{path}: not one Fisher vector")
    return vector.squeeze().astype(np.float32)


class Video(NamedTuple):
    """A video of an annotation file."""

    video_id: str  # SUBSET/LABEL/KEY, as the released code names folders and files
    split: str  # train, or test for what the file calls validation
    label: str


def annotations(path: Path) -> list[Video]:
    """The labelled videos of an annotation JSON in its order. Raises ValueError."""
    try:
        database = json.loads(path.read_text("utf-8"))["database"]
        known = [(k, v["subset"], v["annotations"]["label"]) for k, v in database.items()
                 if v["subset"] in ("training", "validation")]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an annotation file: {error!r}") from error
    split = {"training": "train", "validation": "test"}
    return [
        Video(f"{s}/{label.replace(' ', '_')}/{key}", split[s], label) for key, s, label in known
    ]


def manifest(videos: list[Video], folder: Path) -> tuple[str, list[str]]:
    """A manifest (TSV) of those of `videos` that are files in `folder`, and the ids of the others.

    Files may lie as the released code has them, or in folders of labels; any suffix.
    """
    files = {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES}
    table, missing = io.StringIO(), []
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["video_id", "path", "split", "class"])
    for video_id, split, label in videos:
        path = files.get(video_id.rpartition("/")[2])
        if path is None:
            missing.append(video_id)
        else:
            writer.writerow([video_id, path.absolute(), split, label])
    return table.getvalue(), missing
