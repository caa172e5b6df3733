"""A small collection of videos in which something moves."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.ingest import collection
from vcjax.ingest.collection import Pictures
from vcjax.ingest.ingest import ingest
from vcjax.ingest.plan import Options
from vcjax.ingest.variant import variant_of

PICTURES = Pictures(48, "jpeg")


def _texture(generator, shape):
    smooth = cv2.GaussianBlur(generator.normal(0, 1, shape).astype(np.float32), (0, 0), 2.5)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def write_moving():
    """Writes frames of 96 x 128 of a camera that pans over a wall, before which a square moves."""

    def write(path, seed, num_frames=18):
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        wall, square = _texture(generator, (128, 220)), _texture(generator, (32, 32))
        with av.open(path, "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(25))
            stream.height, stream.width, stream.pix_fmt = 96, 128, "gray"
            for t in range(num_frames):
                frame = wall[16:112, 2 * t : 2 * t + 128].copy()
                top = round(30 + 20 * np.sin(t / (2 + seed % 3)))
                frame[top : top + 32, 40:72] = square
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def _originals(tmp_path_factory, write_moving):
    folder = tmp_path_factory.mktemp("originals")
    for i in range(7):
        write_moving(folder / f"class{i % 2}" / f"v{i}.avi", seed=i)
    return folder


@pytest.fixture
def videos(_originals, tmp_path):
    """Copy seven videos to a folder of the test."""
    for path in _originals.rglob("*.avi"):
        target = tmp_path / "videos" / path.relative_to(_originals)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return manifests.read(tmp_path / "videos")


@pytest.fixture(autouse=True)
def three_videos_a_part(monkeypatch):
    monkeypatch.setattr(collection, "VIDEOS_PER_PART", 3)


@pytest.fixture(scope="session")
def variant():
    """Return a function from changed settings to their variant of Fisher vectors."""

    def variant(**changed):
        config = settings.apply_variants(settings.paper(), "smoke")
        config.fisher.num_components, config.fisher.fit_split = 2, "all"
        config.fisher.num_videos, config.fisher.descriptors_per_video = 4, 50
        config.update_from_flattened_dict(changed)
        return variant_of(config, seed=0)

    return variant


@pytest.fixture(scope="session")
def run():
    """Return a function that ingests as `vcjax ingest` does and returns the collection."""

    def run(videos, root, variants, *, pictures=PICTURES, max_changed_share=None, **options):
        return ingest(
            videos,
            root,
            pictures,
            variants,
            Options(**({"num_workers": 1} | options)),
            training=videos.video_ids,
            max_changed_share=max_changed_share,
        )

    return run


@pytest.fixture
def read(monkeypatch):
    """Return the paths of the decoded originals, one entry per decode."""
    from vcjax.data import readers

    paths = []
    whole = readers._VideoFile.frames
    some = readers._VideoFile.read

    def frames(self):
        paths.append(self._path)
        return whole(self)

    def clip(self, indices):
        paths.append(self._path)
        return some(self, indices)

    monkeypatch.setattr(readers._VideoFile, "frames", frames)
    monkeypatch.setattr(readers._VideoFile, "read", clip)
    return paths
