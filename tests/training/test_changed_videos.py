"""Videos go from a run and come to it: what is known of the others stays."""

import shutil
import zlib

import numpy as np
import pytest

from vcjax import settings
from vcjax.data import synthetic
from vcjax.idt import extraction
from vcjax.idt.trajectories import COLUMNS, Trajectories
from vcjax.pipeline import build
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import stage_cache

NUM_VIDEOS = 34


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    synthetic.render(folder, num_videos=NUM_VIDEOS, seed=0, num_workers=1)
    return (folder / "manifest.tsv").read_text().splitlines(), folder


@pytest.fixture(scope="module", autouse=True)
def random_trajectories():
    """Replace the extraction by random trajectories that depend on the frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "extract_frames", _extract)
        yield


def _extract(frames, **how):
    generator = np.random.default_rng(zlib.crc32(b"".join(frame.tobytes() for frame in frames)))
    yield Trajectories(*(generator.random((20, width)) for width in COLUMNS.values()))


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    return _run(videos, workdir, videos[0][:-1]), workdir


def _run(videos, workdir, lines, **changed):
    """Side and Fisher vector of each video, after the stages before training."""
    workdir.mkdir(exist_ok=True)
    source = videos[1] / "some.tsv"
    source.write_text("\n".join(lines) + "\n")
    config = settings.apply_variants(settings.paper(), "smoke")
    config.data.rendered.num_videos = 0
    config.data.manifest, config.num_workers = str(source), 1
    config.data.update(changed)
    config.stages = ("manifest", "ingest", "fisher")
    stage_cache.run(build.build(config, workdir), workdir)
    manifest = workdirs.manifest(workdir)
    vectors = workdirs.fisher_vectors(config, workdir, manifest).vectors
    return dict(zip(manifest.video_ids, zip(manifest.split, vectors, strict=True), strict=True))


def _same(a, b):
    return a[0] == b[0] and np.array_equal(a[1], b[1])


def _without(lines, *gone):
    return [line for line in lines if not set(gone) & set(line.split("\t"))]


def test_of_the_videos_that_stay_no_side_and_no_vector_changes(videos, finished, tmp_path):
    before, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    for gone in sorted(before)[3:12:4]:  # 3 percent, again and again
        after = _run(videos, workdir, _without(videos[0][:-1], gone))
        assert after.keys() == before.keys() - {gone}
        assert all(_same(after[v], before[v]) for v in after)


def test_a_video_that_comes_is_encoded_by_the_same_mixture(videos, finished, tmp_path):
    before, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    (path,) = (workdir / "ingest" / "collection" / "models").glob("*.npz")
    model = path.read_bytes()
    after = _run(videos, workdir, videos[0])
    (new,) = after.keys() - before.keys()
    assert all(_same(after[v], before[v]) for v in before)
    assert path.read_bytes() == model
    assert np.linalg.norm(after[new][1]) > 0.9


def test_a_video_that_changes_has_a_new_vector_of_it_alone(videos, finished, tmp_path):
    before, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    gone, changed, *_ = sorted(before)
    file = videos[1] / f"{changed}.mp4"
    content = file.read_bytes()
    shutil.copy(videos[1] / f"{gone}.mp4", file)
    after = _run(videos, workdir, _without(videos[0][:-1], gone))
    file.write_bytes(content)
    assert [v for v in after if not _same(after[v], before[v])] == [changed]


def test_where_many_videos_or_settings_change_all_begins_anew(videos, finished, tmp_path):
    before, workdir = finished
    for name, gone, how in (
        ("many", sorted(before)[:6], {}),
        ("none", sorted(before)[:1], {"max_changed_share": 0.0}),
        ("settings", [], {"holdout": 0.5}),
    ):
        lines = _without(videos[0][:-1], *gone)
        again = _run(videos, shutil.copytree(workdir, tmp_path / name), lines, **how)
        fresh = _run(videos, tmp_path / f"{name} fresh", lines, **how)
        assert all(_same(again[v], fresh[v]) for v in fresh), name
