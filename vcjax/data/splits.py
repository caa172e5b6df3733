"""Which videos are held out, and which of the others are trained on."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vcjax.data.manifest import Manifest, ManifestError


def assign_split(
    manifest: Manifest,
    *,
    group: str,
    holdout: float,
    seed: int,
    assigned: Mapping[str, str] | None = None,
) -> Manifest:
    """`manifest` with every video in train or test.

    A `split` column that is there stays. Else the values of the label column `group` are taken in
    an order that depends on them and the seed alone, and whole groups are held out until about the
    share `holdout` of the videos is; without a group, single videos. A group of which there are
    videos in `assigned` (id -> train or test) stays on their side. Raises ManifestError.
    """
    if any(manifest.split):
        if not all(manifest.split):
            first = manifest.video_ids[manifest.split.index("")]
            raise ManifestError(f"some videos have a split and others none, first {first}")
        return manifest
    keys = manifest.labels[group] if group else manifest.video_ids
    if group and "" in keys:
        first = manifest.video_ids[keys.index("")]
        raise ManifestError(f"videos without a value of the group {group!r}, first {first}")
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise ManifestError(
            f"all videos are of one {group or 'kind'}: nothing can be held out; give a `split` "
            "column, or another --config.data.group"
        )
    target = holdout * len(manifest)
    ids = zip(keys, manifest.video_ids, strict=True)
    sides = {key: assigned[id_] for key, id_ in ids if assigned and id_ in assigned}
    held = {key for key, side in sides.items() if side == "test"}
    for key in sorted(sizes.keys() - sides.keys(), key=lambda key: _hash(key, seed)):
        now = sum(sizes[k] for k in held)
        # a group is held out when that brings the share nearer to the target
        if len(held) < len(sizes) - 1 and abs(now + sizes[key] - target) <= abs(now - target):
            held.add(key)
    if not held:
        held.add(min(sizes, key=lambda key: (sizes[key], _hash(key, seed))))
    return replace(manifest, split=tuple("test" if key in held else "train" for key in keys))


def mostly_unchanged(old_ids: Sequence[str], new_ids: Sequence[str], *, max_share: float) -> bool:
    """Return whether the ids added and removed are at most `max_share` of the number of old ids."""
    return len(set(old_ids) ^ set(new_ids)) <= max_share * len(old_ids)


def subsample(manifest: Manifest, num_videos: int, *, seed: int) -> Manifest:
    """`manifest` with `num_videos` of its training videos alone, all of them for 0 (Fig. 4).

    They are drawn by the seed and each one's id: fewer videos are among more. Raises ManifestError.
    """
    training = manifest.rows("train").tolist()
    if not 0 <= num_videos <= len(training):
        raise ManifestError(
            f"data.num_videos is {num_videos}, and there are {len(training)} videos to train on"
        )
    if not num_videos:
        return manifest
    drawn = sorted(training, key=lambda row: _hash(f"subset/{manifest.video_ids[row]}", seed))
    left_out = set(drawn[num_videos:])
    return manifest.take(row for row in range(len(manifest)) if row not in left_out)


def _hash(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()
