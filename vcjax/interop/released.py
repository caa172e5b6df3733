"""Readers of the released code's files: checkpoints, clusters, Fisher vectors, annotations."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher.vectors import FisherVectors
from vcjax.data import folders
from vcjax.interop import torch_files
from vcjax.models import state_dict as weights
from vcjax.runtime import checks


class Checkpoint(NamedTuple):
    """The contents of a checkpoint; `bank` and `labels` are None if it has none."""

    arrays: weights.Arrays  # named as by `weights.arrays`
    bank: Float[np.ndarray, "n d"] | None
    labels: Int[np.ndarray, "runs n"] | None
    facts: dict[str, Any]  # epoch, iteration and arch, if present


@checks.arguments
def checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of the released code or of 3D-ResNets, or a bare state dict.

    Raises:
      ValueError: if the file is not a checkpoint of a supported network.
    """
    content = torch_files.read(path)
    state_dict = content
    for key in ("model_state_dict", "state_dict"):
        state_dict = content.get(key, state_dict) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict):
        raise weights.WeightsError(f"{path}: the file contains no state dict")
    tensors = {k: v for k, v in state_dict.items() if isinstance(v, np.ndarray)}
    try:
        arrays = weights.from_torch(tensors)
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{path}: {error}") from error
    facts = {
        k: v for k in ("epoch", "iteration", "arch") if isinstance(v := content.get(k), int | str)
    }
    return Checkpoint(arrays, _bank(content.get("memory_bank")), _labels(content), facts)


@checks.arguments
def clusters(path: str | Path) -> Int[np.ndarray, "runs n"]:
    """Return the `cluster_labels` of a checkpoint, which needs no other entries.

    Raises:
      ValueError: if there are none.
    """
    content = torch_files.read(path)
    labels = _labels(content) if isinstance(content, dict) else None
    if labels is None:
        raise ValueError(f"{path}: the file contains no cluster_labels")
    return labels


def _bank(entry: Any) -> np.ndarray | None:
    """Return the array of a `MemoryBank`: one of its copies per GPU, or the single old `_bank`."""
    if isinstance(entry, torch_files.Inert) and isinstance(entry.state, dict):
        copies = entry.state.get("bank_broadcast") or [entry.state.get("_bank")]
        return copies[0]
    return entry if isinstance(entry, np.ndarray) else None


def _labels(content: dict[str, Any]) -> np.ndarray | None:
    labels = content.get("cluster_labels")
    return labels[0] if isinstance(labels, list) else labels  # a list has one copy per GPU


@checks.arguments
def fisher_vectors(folder: Path) -> FisherVectors:
    """Read all files NAME.dat below `folder`; video ids are relative paths without the suffix.

    Raises:
      ValueError: if there are no such files, or one does not contain a single array.
    """
    paths = sorted(folder.rglob("*.dat"))
    if not paths:
        raise ValueError(f"{folder}: no .dat files in this folder or below")
    vectors = np.stack([_vector(path) for path in paths])
    video_ids = tuple(str(path.relative_to(folder).with_suffix("")) for path in paths)
    return FisherVectors(video_ids, vectors, np.ones(len(paths), bool))


def _vector(path: Path) -> np.ndarray:
    vector = torch_files.read(path)
    if not isinstance(vector, np.ndarray):
        raise ValueError(f"{path}: expected a single Fisher vector")
    return vector.squeeze().astype(np.float32)


class Video(NamedTuple):
    """A labeled video of an annotation file."""

    video_id: str  # SUBSET/LABEL/KEY, as the released code names folders and files
    split: str  # "train", or "test" for the subset "validation"
    label: str


@checks.arguments
def annotations(path: Path) -> list[Video]:
    """Return the labeled videos of an annotation JSON in file order.

    Raises:
      ValueError: if the file is not in the format of ActivityNet and Kinetics.
    """
    try:
        database = json.loads(path.read_text("utf-8"))["database"]
        labeled = [(k, v["subset"], v["annotations"]["label"]) for k, v in database.items()
                   if v["subset"] in ("training", "validation")]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an annotation file: {error!r}") from error
    split = {"training": "train", "validation": "test"}
    return [
        Video(f"{s}/{label.replace(' ', '_')}/{key}", split[s], label) for key, s, label in labeled
    ]


@checks.arguments
def manifest(videos: list[Video], folder: Path) -> tuple[str, list[str]]:
    """Return a manifest (TSV) of the videos with a file below `folder`, and the missing ids.

    A file is matched by its name without suffix, in any subfolder.
    """
    files = {path.stem: path for path in folders.walk(folder).files}
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
