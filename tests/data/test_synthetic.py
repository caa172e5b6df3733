import csv
from collections import Counter

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from vcjax.data import synthetic, video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one worker")
    synthetic.render(folder, num_videos=9, seed=0, num_workers=1)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_seed_is_the_same_bytes_for_any_number_of_workers(folder, tmp_path):
    synthetic.render(tmp_path, num_videos=9, seed=0, num_workers=2)
    assert contents(tmp_path) == contents(folder)
    assert len({path.read_bytes() for path in folder.glob("*.mp4")}) == 9


def test_videos_are_as_the_manifest_says(folder):
    lines = (folder / "manifest.tsv").read_text().splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["video_id"] for row in rows] == [f"video{i:05d}" for i in range(9)]
    assert {row["motion"] for row in rows} == set(synthetic.MOTIONS)
    for row in rows:
        info = video.probe(folder / row["path"], decode=True)
        assert info == video.VideoInfo(
            synthetic.NUM_FRAMES, synthetic.HEIGHT, synthetic.WIDTH, 25.0
        )


def test_an_interrupted_run_goes_on_and_another_seed_begins_anew(folder, tmp_path):
    before = contents(folder)
    for name in ("video00003.mp4", "video00007.mp4", "manifest.tsv"):
        (folder / name).unlink()
    (folder / "video00005.mp4").write_bytes(before["video00005.mp4"][:500])
    synthetic.render(folder, num_videos=9, seed=0, num_workers=1)
    assert contents(folder) == before
    synthetic.render(tmp_path, num_videos=1, seed=0, num_workers=1)
    synthetic.render(tmp_path, num_videos=1, seed=1, num_workers=1)
    assert contents(tmp_path)["video00000.mp4"] != before["video00000.mp4"]


def test_actors_differ_from_video_to_video():
    first, again, other = (
        next(synthetic.pictures("walking", 0, seed=0, row=row)).astype(int) for row in (0, 0, 1)
    )
    assert (first == again).all() and (np.abs(first - other).max(axis=-1) > 40).mean() > 0.02


def test_motion_and_scene_are_independent():
    plan = synthetic._plan(320, seed=0)
    assert set(Counter(motion for motion, _ in plan).values()) == {40}
    assert set(Counter(plan).values()) == {2, 3} and len(set(plan)) == 8 * synthetic.NUM_SCENES
    assert synthetic._plan(320, seed=0) == plan != synthetic._plan(320, seed=1)


@pytest.fixture(scope="module")
def poses():
    """[motion, video, frame, freedom] of many videos; angles as what is seen of them."""
    generator = np.random.default_rng(0)

    def seen(motion):
        pose = synthetic.pose(motion, generator)
        angle = (np.cos(pose.angle), np.sin(pose.angle))
        return np.stack([pose.x, pose.y, *angle, pose.size, pose.left, pose.right], axis=-1)

    return np.array([[seen(motion) for _ in range(400)] for motion in synthetic.MOTIONS])


def accuracy(features):
    """Of a classifier of the motion on the second half of the videos."""
    num_motions, num_videos = features.shape[:2]
    labels = np.repeat(np.arange(num_motions), num_videos // 2)
    train, test = np.split(features, 2, axis=1)
    forest = RandomForestClassifier(200, min_samples_leaf=5, random_state=0)
    forest.fit(train.reshape(len(labels), -1), labels)
    return forest.score(test.reshape(len(labels), -1), labels)


@pytest.mark.parametrize("frame", [0, 20, 39])
def test_one_frame_does_not_tell_the_motion(poses, frame):
    # 1600 tests at 1/8 have a standard deviation of 0.008
    assert accuracy(poses[:, :, frame]) < 1 / 8 + 4 * 0.0083


def test_all_frames_tell_the_motion(poses):
    speed = np.diff(poses, axis=2)
    together = np.sign(speed[..., 5] * speed[..., 6]).mean(axis=2, keepdims=True)  # the limbs
    moving = np.concatenate([poses.std(axis=2), np.abs(speed).mean(axis=2), together], -1)
    assert accuracy(moving) > 0.95


@pytest.mark.parametrize("motion", synthetic.MOTIONS)
def test_no_motion_prefers_a_side(poses, motion):
    x = poses[synthetic.MOTIONS.index(motion), :, :, 0]
    for values in (x[:, 0], x[:, -1], x[:, 6] - x[:, 0]):
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)) + 1e-9
