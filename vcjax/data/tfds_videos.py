"""Videos that tensorflow-datasets has prepared as ArrayRecord, read without TensorFlow.

The folder of a data set version, such as `ucf101/ucf101_1/2.0.0`, contains `dataset_info.json`,
`features.json` and files of tf.train.Example records. A feature of type Video is a list of encoded
pictures. The path of a video is `FILE#RECORD@FEATURE`. Requires the extra `tfds`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vcjax.data import shards
from vcjax.runtime import atomic, extras, filesystem, progress

_INFO, _FEATURES = "dataset_info.json", "features.json"
_SPLITS = {"train": "train", "validation": "test", "val": "test", "test": "test"}
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_NAMES = ("video_id", "id", "filename", "name")  # text features that serve as video_id, first match


class Reference(NamedTuple):
    """Location of a video: a file, a record in it, and the video feature of the record."""

    file: str
    record: int
    feature: str

    def __str__(self) -> str:
        return f"{self.file}#{self.record}@{self.feature}"


def parse(path: str) -> Reference | None:
    """Return the record that `path` refers to, or None if it is another kind of path."""
    match = re.fullmatch(r"(.+\.array_record-\d+-of-\d+)#(\d+)@(.+)", path)
    return Reference(match[1], int(match[2]), match[3]) if match else None


def pictures(place: Reference) -> Sequence[bytes]:
    """Return the encoded pictures of the video, one per frame.

    Raises:
      ValueError: if the record is damaged or has no such feature, or `tfds` is not installed.
      RuntimeError: if the file cannot be read.
    """
    encoded = _values(_example(shards.record(place.file, place.record)), place.feature)
    if not encoded:
        raise ValueError(f"the record has no feature {place.feature!r}")
    return encoded


def is_builder(folder: Any) -> bool:
    """Return True if `folder` is a data set version prepared by tensorflow-datasets."""
    return (folder / _INFO).is_file() and (folder / _FEATURES).is_file()


def rows(folder: Any) -> list[dict[str, str]]:
    """Return a row for each video: path, video_id, split, num_frames, class and text features.

    The id is the first existing text feature of `video_id`, `id`, `filename` and `name`, or else
    SPLIT/NUMBER. Reading all records takes a while, so the rows are cached in the folder of
    `remote.cache_folder` until a file changes.

    Raises:
      ValueError: if the format is not ArrayRecord, or there is not exactly one video feature.
    """
    information = json.loads((folder / _INFO).read_text("utf-8"))
    if information.get("fileFormat") != "array_record":
        raise ValueError(
            f"{folder}: the file format is {information.get('fileFormat')!r}; prepare the data set "
            "again with file_format='array_record'"
        )
    files = _files(folder, information)
    stamps = [(str(file), filesystem.file_version(str(file))) for _, file in files]
    digest = hashlib.sha256(repr((str(folder), stamps)).encode()).hexdigest()[:32]
    kept = filesystem.cache_folder() / f"{digest}.json"
    if not kept.exists():
        atomic.write_text(kept, json.dumps(list(_read(folder, files))))
    return json.loads(kept.read_text("utf-8"))


def _files(folder: Any, information: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the split and path of each record file, in order."""
    files = []
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
            files.append((split["name"], folder / name))
    return files


def _read(folder: Any, files: Sequence[tuple[str, Any]]) -> Iterator[dict[str, str]]:
    kinds = _kinds(json.loads((folder / _FEATURES).read_text("utf-8")))
    videos = [name for name, kind in kinds.items() if kind == "Video"]
    if len(videos) != 1:
        raise ValueError(
            f"{folder}: {len(videos)} of the features {', '.join(sorted(kinds))} are videos; 1 is "
            "required"
        )
    classes = {
        name: (folder / f"{name.replace('/', '-')}.labels.txt").read_text("utf-8").split("\n")
        for name, kind in kinds.items()
        if kind == "ClassLabel"
    }
    texts = [name for name, kind in kinds.items() if kind == "Text"]
    id_feature = next((name for name in _NAMES if name in texts), "")
    counts: dict[str, int] = {}
    for split, file in progress.bar(files, desc="read records", unit="file"):
        for record in range(shards.num_records(str(file))):
            example = _example(shards.record(str(file), record))
            index = counts[split] = counts.get(split, -1) + 1
            row = {name: names[_values(example, name)[0]] for name, names in classes.items()}
            row |= {name: _values(example, name)[0].decode(errors="replace") for name in texts}
            yield row | {
                "path": str(Reference(str(file), record, videos[0])),
                "video_id": row.get(id_feature) or f"{split}/{index:06d}",
                "split": _SPLITS.get(split, ""),
                "num_frames": str(len(_values(example, videos[0]))),
            }


def _kinds(feature: dict[str, Any], name: str = "") -> dict[str, str]:
    """Return the type of each feature by name; a nested feature is named OUTER/INNER."""
    if "featuresDict" not in feature:
        return {name: feature["pythonClassName"].rpartition(".")[2]}
    kinds: dict[str, str] = {}
    for inner, value in feature["featuresDict"]["features"].items():
        kinds |= _kinds(value, f"{name}/{inner}" if name else inner)
    return kinds


def _example(record: bytes) -> Any:
    try:
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as error:
        raise extras.MissingExtraError(
            "data sets of tensorflow-datasets need the extra tfds: pip install 'vcjax[tfds]'"
        ) from error
    from google.protobuf.message import DecodeError

    try:
        return tf_example_pb2.Example.FromString(record)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error


def _values(example: Any, name: str) -> Sequence[Any]:
    feature = example.features.feature[name]
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()
