"""Videos go from a run and come to it: what is known of the others stays."""

import shutil

import numpy as np
import pytest

from vcjax import settings
from vcjax.data import synthetic
from vcjax.idt import storage
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
    config.data.manifest, config.data.verify = str(source), "header"
    config.data.update(changed)
    config.stages = ("manifest", "idt", "fisher")
    built = {stage.name: stage for stage in build.build(config, workdir)}
    built["idt"] = built["idt"]._replace(run=_extract)
    stage_cache.run(list(built.values()), workdir)
    manifest = workdirs.manifest(workdir)
    vectors = workdirs.fisher_vectors(workdir, manifest).vectors
    return dict(zip(manifest.video_ids, zip(manifest.split, vectors, strict=True), strict=True))


def _extract(directory):
    """Random trajectories of each video, once."""
    for video_id in workdirs.manifest(directory.parent).video_ids:
        if not storage.path_of(directory, video_id).exists():
            _write(directory, video_id, seed=len(video_id) + int(video_id[-4:], 36))


def _write(directory, video_id, seed):
    generator = np.random.default_rng(seed)
    parts = (generator.random((20, width)) for width in COLUMNS.values())
    storage.write(storage.path_of(directory, video_id), Trajectories(*parts))


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
    model = (workdir / "fisher" / "model.npz").read_bytes()
    after = _run(videos, workdir, videos[0])
    (new,) = after.keys() - before.keys()
    assert all(_same(after[v], before[v]) for v in before)
    assert (workdir / "fisher" / "model.npz").read_bytes() == model
    assert np.linalg.norm(after[new][1]) > 0.9


def test_new_trajectories_of_a_video_are_a_new_vector_of_it_alone(videos, finished, tmp_path):
    before, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    gone, changed, *_ = sorted(before)
    _write(workdir / "idt", changed, seed=99)
    after = _run(videos, workdir, _without(videos[0][:-1], gone))
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
