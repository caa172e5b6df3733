"""Split into training and held-out videos, and subsets of the training videos."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vcjax.data import folders
from vcjax.data.manifest import Manifest, ManifestError
from vcjax.runtime import checks


@checks.arguments
def assign_split(
    manifest: Manifest,
    *,
    group: str,
    holdout: float,
    seed: int,
    previous: Mapping[str, str] | None = None,
) -> Manifest:
    """Return `manifest` with every video assigned to train or test.

    An existing split is kept. Otherwise whole groups are visited in the order of a hash of the seed
    and the group's value, and a group is held out if this brings the held-out fraction closer to
    `holdout`. Both splits are non-empty.

    Args:
        manifest: Videos to split.
        group: Label column whose values are not divided; "": every video is its own group.
        holdout: Fraction of videos to hold out, in [0, 1].
        seed: Seed of the order.
        previous: Earlier split, id -> train or test; a group with such a video keeps its split.

    Raises:
        ManifestError: If only some videos have a split, all videos are held out, a video has no
            group, or there is only one group.
    """
    checks.share("holdout", holdout)
    if group and group not in manifest.labels:
        raise ManifestError(
            f"group is {group!r}; use one of the columns {folders.some(sorted(manifest.labels))}"
        )
    if any(manifest.split):
        if "" in manifest.split:
            first = manifest.paths[manifest.split.index("")]
            raise ManifestError(
                f"{len(manifest.rows(''))} of {len(manifest)} videos have no split, unlike the "
                f"others, first {first}; move them to a folder train or test, or write a table "
                "(`vcjax data scan`) and fill its whole column `split`"
            )
        if "train" not in manifest.split:
            raise ManifestError(
                f"all {len(manifest)} videos are held out, first {manifest.paths[0]}, and none is "
                "for training; choose a folder inside of the held-out folder, or write a table "
                "(`vcjax data scan`) and change its column `split`"
            )
        return manifest
    keys = manifest.labels[group] if group else manifest.video_ids
    if group and "" in keys:
        first = manifest.paths[keys.index("")]
        raise ManifestError(
            f"videos without a value of the group {group!r}, first {first}; fill that column, or "
            "set another --config.data.group"
        )
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise ManifestError(
            f"all videos are of one {group or 'kind'}, so no video can be held out; add a `split` "
            "column, or set another --config.data.group"
        )
    target = holdout * len(manifest)
    ids = zip(keys, manifest.video_ids, strict=True)
    sides = {key: previous[i] for key, i in ids if previous and i in previous}
    held = {key for key, side in sides.items() if side == "test"}
    count = sum(sizes[key] for key in held)  # held-out videos
    for key in sorted(sizes.keys() - sides.keys(), key=lambda key: _hash(key, seed)):
        if len(held) < len(sizes) - 1 and abs(count + sizes[key] - target) <= abs(count - target):
            held.add(key)
            count += sizes[key]
    if not held:
        held.add(min(sizes, key=lambda key: (sizes[key], _hash(key, seed))))
    return replace(manifest, split=tuple("test" if key in held else "train" for key in keys))


def mostly_unchanged(before: Sequence[str], after: Sequence[str], *, max_share: float) -> bool:
    """Return True if at most the fraction `max_share` of the ids before was added or removed."""
    return len(set(before) ^ set(after)) <= max_share * len(before)


def subsample(manifest: Manifest, num_videos: int, *, seed: int) -> Manifest:
    """Return `manifest` with only `num_videos` of its training videos, or all for 0 (Fig. 4).

    Videos are drawn in the order of a hash of seed and id, so smaller subsets are nested in larger
    ones. Held-out videos are kept.

    Raises:
        ManifestError: If there are fewer than `num_videos` training videos.
    """
    training = manifest.rows("train").tolist()
    if not 0 <= num_videos <= len(training):
        raise ManifestError(
            f"data.num_videos is {num_videos}, and there are {len(training)} training videos"
        )
    if not num_videos:
        return manifest
    drawn = sorted(training, key=lambda row: _hash(f"subset/{manifest.video_ids[row]}", seed))
    left_out = set(drawn[num_videos:])
    return manifest.take(row for row in range(len(manifest)) if row not in left_out)


def _hash(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()
