"""Writing a part of a collection: its shard of frames, vectors, boxes and description."""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vcjax.data import shards
from vcjax.ingest.collection import PartVectors
from vcjax.ingest.one_pass import Staged
from vcjax.ingest.plan import Plan
from vcjax.ingest.variant import Extraction, Variant
from vcjax.runtime import filesystem


def write(plan: Plan, part: int) -> None:
    """Write vectors, boxes, shard and description of a part from new and old results."""
    old, staged = plan.entries(part), {i: plan.staged(i) for i in plan.parts[part]}
    for variant in plan.variants:
        _vectors(plan, variant, part, staged)
    for extraction in dict.fromkeys(v.extraction for v in plan.variants):
        if extraction.detector:
            _boxes(plan, extraction, part, staged)
    plan.collection.write_record(part, _shard(plan, part, old, staged))
    for results in staged.values():
        shutil.rmtree(results.folder, ignore_errors=True)


def _shard(
    plan: Plan, part: int, old: Mapping[str, dict[str, Any]], staged: Mapping[str, Staged]
) -> dict[str, Any]:
    """Write the frames of a part to a new shard, and return the description of the part."""
    record, pictures = plan.collection.record(part), plan.collection.pictures
    sources: list[tuple[str, int, int]] = []  # file, first record, number of records
    entries, position = [], 0
    for video_id, results in staged.items():
        version, about = plan.versions[video_id], results.about
        entry: dict[str, Any] = {"video_id": video_id, "version": version, "problem": ""}
        if video_id in plan.problems:
            entry |= {"problem": plan.problems[video_id], "attempt": plan.attempt(video_id)}
        elif (about.get("version"), about.get("pictures")) == (version, [*pictures]):
            entry |= {k: about[k] for k in ("num_frames", "fps")}
            sources.append((str(results.frames), 0, shards.num_chunks(entry["num_frames"])))
        else:
            entry = dict(old[video_id])
            if not entry["problem"]:
                chunks = shards.num_chunks(entry["num_frames"])
                path = str(plan.collection.shard(record))
                sources.append((path, entry["position"], chunks))
        if not entry["problem"]:
            entry["position"] = position
            position += sources[-1][2]
        entries.append(entry)
    if record and [*old.values()] == entries == record["videos"]:
        return record  # only vectors or boxes are new
    digest = hashlib.sha256(repr((pictures, entries)).encode()).hexdigest()[:8]
    name = f"{part:05d}-{digest}.array_record"
    target = plan.collection.root / "parts" / name
    filesystem.make_folder(target.parent)
    with filesystem.writing(target) as temporary:
        with shards.Writer(temporary) as writer:
            for path, first, count in sources:
                shards.copy(path, first, count, writer)
        size = temporary.stat().st_size
    for entry in entries:
        if not entry["problem"]:
            entry["shard"] = f"parts/{name}"
    return {"pictures": list(pictures), "shard": name, "size": size, "videos": entries}


def _vectors(plan: Plan, variant: Variant, part: int, staged: Mapping[str, Staged]) -> None:
    """Write the vectors of a part from staged and stored vectors."""
    stored = plan.collection.read_vectors(variant, part)
    keys = zip(stored.video_ids, stored.versions, strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    ids, vectors, num_rows = [], [], []
    encoding = plan.encoding_key(variant)
    for video_id, results in staged.items():
        row = row_of.get((video_id, plan.source(variant, video_id)))
        if video_id in plan.problems:
            continue
        if results.vector(encoding).exists():
            vectors.append(np.load(results.vector(encoding), allow_pickle=False))
            num_rows.append(results.about["num_rows"][variant.extraction.key])
        elif row is not None:
            vectors.append(stored.vectors[row])
            num_rows.append(int(stored.num_rows[row]))
        else:
            continue  # a video with a problem of an earlier run
        ids.append(video_id)
    new = PartVectors(
        tuple(ids),
        tuple(plan.source(variant, video_id) for video_id in ids),
        np.array(vectors, np.float32).reshape(len(ids), -1),
        np.array(num_rows, np.int64),
    )
    plan.collection.write_vectors(variant, part, new)


def _boxes(plan: Plan, extraction: Extraction, part: int, staged: Mapping[str, Staged]) -> None:
    """Write the boxes of people of a part from staged and stored boxes."""
    path = plan.collection.boxes_path(extraction.key, part)
    texts: dict[str, bytes] = {}
    if path.is_file():
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            texts = {n: archive.read(n) for n in archive.namelist() if n[:-3] in staged}
    for video_id, results in staged.items():
        if results.boxes(extraction).exists():
            texts[f"{video_id}.bb"] = results.boxes(extraction).read_bytes()
    filesystem.make_folder(path.parent)
    with filesystem.writing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
