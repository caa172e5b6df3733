"""Videos that tensorflow-datasets has prepared as ArrayRecord, read without TensorFlow.

The folder of a builder's version, such as `ucf101/ucf101_1/2.0.0`, has `dataset_info.json`,
`features.json`, and records that are tf.train.Example messages, in which a Video is a list of
encoded pictures. A video is named `FILE#RECORD@FEATURE`. Needs the extra `tfds`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vcjax.data import shards
from vcjax.runtime import atomic, filesystem, progress

_INFO, _FEATURES = "dataset_info.json", "features.json"
_SPLITS = {"train": "train", "validation": "test", "val": "test", "test": "test"}
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_NAMES = ("video_id", "id", "filename", "name")  # texts taken for the id of a video


class Reference(NamedTuple):
    """Where a video is."""

    file: str
    record: int
    feature: str

    def __str__(self) -> str:
        return f"{self.file}#{self.record}@{self.feature}"


def parse(path: str) -> Reference | None:
    """The record that `path` names, None for anything else."""
    match = re.fullmatch(r"(.+\.array_record-\d+-of-\d+)#(\d+)@(.+)", path)
    return Reference(match[1], int(match[2]), match[3]) if match else None


def pictures(place: Reference) -> Sequence[bytes]:
    """The encoded pictures of the video. Raises ValueError, RuntimeError."""
    found = _values(_example(shards.record(place.file, place.record)), place.feature)
    if not found:
        raise ValueError(f"the record has no {place.feature}")
    return found


def is_builder(folder: Any) -> bool:
    """Whether `folder` is that of a builder's version."""
    return (folder / _INFO).is_file() and (folder / _FEATURES).is_file()


def rows(folder: Any) -> list[dict[str, str]]:
    """A row for each video: path, video_id, split, num_frames, and its classes and texts.

    Ids are the text `video_id`, `id`, `filename` or `name`, else SPLIT/NUMBER. All records are read
    once; what is found is kept beside the copies of remote files. Raises ValueError.
    """
    information = json.loads((folder / _INFO).read_text())
    if information.get("fileFormat") != "array_record":
        raise ValueError(f"{folder}: prepare it with file_format='array_record' to be read here")
    files = _files(folder, information)
    stamps = [(str(file), filesystem.stamp(str(file))) for _, file in files]
    digest = hashlib.sha256(repr((str(folder), stamps)).encode()).hexdigest()[:32]
    kept = filesystem.cache_folder() / f"{digest}.json"
    if not kept.exists():
        atomic.write_text(kept, json.dumps(list(_read(folder, files))))
    return json.loads(kept.read_text())


def _files(folder: Any, information: dict[str, Any]) -> list[tuple[str, Any]]:
    """Split and place of each file, in order."""
    found = []
    for split in information["splits"]:
        count = len(split["shardLengths"])
        for index in range(count):
            name = split.get("filepathTemplate") or _TEMPLATE
            for key, value in {
                "DATASET": information["name"],
                "SPLIT": split["name"],
                "FILEFORMAT": "array_record",
                "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
            }.items():
                name = name.replace(f"{{{key}}}", value)
            found.append((split["name"], folder / name))
    return found


def _read(folder: Any, files: Sequence[tuple[str, Any]]) -> Iterator[dict[str, str]]:
    kinds = _kinds(json.loads((folder / _FEATURES).read_text()))
    videos = [name for name, kind in kinds.items() if kind == "Video"]
    if len(videos) != 1:
        raise ValueError(f"{folder}: {len(videos)} features are videos among {sorted(kinds)}")
    classes = {
        name: (folder / f"{name.replace('/', '-')}.labels.txt").read_text().split("\n")
        for name, kind in kinds.items()
        if kind == "ClassLabel"
    }
    texts = [name for name, kind in kinds.items() if kind == "Text"]
    named = next((name for name in _NAMES if name in texts), "")
    counts: dict[str, int] = {}
    for split, file in progress.bar(files, desc="read records", unit="file"):
        for record in range(shards.num_records(str(file))):
            example = _example(shards.record(str(file), record))
            index = counts[split] = counts.get(split, -1) + 1
            row = {name: names[_values(example, name)[0]] for name, names in classes.items()}
            row |= {name: _values(example, name)[0].decode(errors="replace") for name in texts}
            yield row | {
                "path": str(Reference(str(file), record, videos[0])),
                "video_id": row.get(named) or f"{split}/{index:06d}",
                "split": _SPLITS.get(split, ""),
                "num_frames": str(len(_values(example, videos[0]))),
            }


def _kinds(feature: dict[str, Any], name: str = "") -> dict[str, str]:
    """Kind of each feature by name, those within others as OUTER/INNER."""
    if "featuresDict" not in feature:
        return {name: feature["pythonClassName"].rpartition(".")[2]}
    found: dict[str, str] = {}
    for inner, value in feature["featuresDict"]["features"].items():
        found |= _kinds(value, f"{name}/{inner}" if name else inner)
    return found


def _example(record: bytes) -> Any:
    try:
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as error:
        raise ValueError("install vcjax[tfds] to read what it has prepared") from error
    from google.protobuf.message import DecodeError

    try:
        return tf_example_pb2.Example.FromString(record)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error


def _values(example: Any, name: str) -> Sequence[Any]:
    feature = example.features.feature[name]
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()
