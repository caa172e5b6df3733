"""A tiny builder, prepared by tensorflow-datasets itself; TensorFlow is not installed."""

import importlib.util
import json

import cv2
import numpy as np
import pytest

from vcjax.data import clips, manifest, prepare, verify, video

NUM_FRAMES = (6, 9, 4, 7)


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (n, 24, 32, 3), np.uint8) for n in NUM_FRAMES]


def _prepare(folder, pictures):
    """As ucf101, of which a Video is written as a list of encoded pictures."""
    import tensorflow_datasets as tfds
    from etils import epath

    class TinyVideos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = epath.Path(folder)

        def _info(self):
            features = {
                "label": tfds.features.ClassLabel(names=["jump", "run"]),
                # what a Video is to the records; itself it wants TensorFlow to be written
                "video": tfds.features.Sequence(tfds.features.Text()),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download):
            rows = {"train": range(3), "test": [3]}
            return {split: self._generate_examples(of_it) for split, of_it in rows.items()}

        def _generate_examples(self, rows):
            for row in rows:
                frames = [cv2.imencode(".png", x[:, :, ::-1])[1].tobytes() for x in pictures[row]]
                yield row, {"label": row % 2, "video": frames}

    builder = TinyVideos(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    written = builder.data_path / "features.json"
    features = json.loads(written.read_text())
    features["featuresDict"]["features"]["video"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {"shape": {"dimensions": ["-1", "24", "32", "3"]}, "encodingFormat": "png"},
    }
    written.write_text(json.dumps(features))
    return builder.data_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield _prepare(tmp_path_factory.mktemp("builder"), pictures)


def _of(path, pictures):
    """The pictures that were written: records are shuffled, and these differ in length."""
    return pictures[NUM_FRAMES.index(len(list(video.frames(path))))]


def test_its_videos_are_those_that_were_written(folder, pictures):
    assert importlib.util.find_spec("tensorflow") is None
    read = manifest.read(str(folder))
    assert read.video_ids == ("test/000000", "train/000000", "train/000001", "train/000002")
    assert read.split == ("test", "train", "train", "train")
    assert sorted(read.num_frames) == sorted(NUM_FRAMES)
    for path, label, num_frames in zip(
        read.paths, read.labels["label"], read.num_frames, strict=True
    ):
        expected = _of(path, pictures)
        assert label == ("jump", "run")[NUM_FRAMES.index(num_frames) % 2]
        np.testing.assert_array_equal(np.stack(list(video.frames(path))), expected)
        np.testing.assert_array_equal(
            video.clip(path, 2, 3), np.take(expected, [2, 3, 4], 0, mode="wrap")
        )
        assert video.probe(path, decode=True)[:3] == (len(expected), 24, 32)


def test_it_is_trained_on_and_prepared(folder, tmp_path):
    read = verify.verify(manifest.read(folder), on_error="error", decode=True, num_workers=1)[0]
    how = dict(num_frames=4, side=16, scales=(1.0,), batch_size=4, num_epochs=1, seed=0)
    (batch,) = clips.iterate(clips.training_clips(read, **how), num_workers=0, num_threads=1)
    assert sorted(batch["index"]) == [0, 1, 2, 3] and (batch["bad"] == -1).all()
    settings = dict(side=24, codec="jpeg", num_workers=1, on_error="error")
    prepared, _ = prepare.prepare(read, tmp_path, **settings)
    assert (prepared.video_ids, prepared.labels) == (read.video_ids, read.labels)
    assert prepared.num_frames == read.num_frames


def test_another_format_says_how_to_prepare_it(folder, tmp_path):
    for name in ("dataset_info.json", "features.json"):
        text = (folder / name).read_text().replace("array_record", "tfrecord")
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="file_format='array_record'"):
        manifest.read(tmp_path)
    (tmp_path / "dataset_info.json").write_text((folder / "dataset_info.json").read_text())


def test_a_record_that_is_damaged_is_a_decode_error(folder):
    path = manifest.read(folder).paths[0]
    with pytest.raises(video.DecodeError, match="no feature 'film'"):
        video.probe(path.replace("@video", "@film"), decode=False)
    with pytest.raises(video.DecodeError):
        video.clip(path.replace("#0@", "#9@"), 0, 2)
