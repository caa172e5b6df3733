import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from flax import nnx

import vcjax
from vcjax import embed, inference, pretrained, settings
from vcjax.data import augment, synthetic, verify, video
from vcjax.data import manifest as manifests
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checkpoint, checksums

_SHAPE = {"depth": 18, "width": 4, "embedding_dim": 8}
_CLIP = {"num_frames": 4, "stride": 2, "side": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported network."""
    folder = tmp_path_factory.mktemp("network")
    model = ResNet3D(**_SHAPE, rngs=nnx.Rngs(3))
    pretrained.save(pretrained.Pretrained(model, _SHAPE, _CLIP, {"stage": "la"}), folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    source = synthetic.render(tmp_path_factory.mktemp("v"), num_videos=5, seed=0, num_workers=1)
    return manifests.read(source)


def _table(videos, path):
    rows = [f"{i}\t{p}" for i, p in zip(videos.video_ids, videos.paths, strict=True)]
    path.write_text("\n".join(["video_id\tpath", *rows]) + "\n")
    return path


def _run(folder, table, out, *more):
    arguments = ["--checkpoint", folder, "--manifest", table, "--out", out]
    embed.main([*map(str, arguments), "--batch_size", "4", *more])


def test_a_video_s_embedding_is_the_mean_over_its_clips(folder, videos, tmp_path):
    _run(folder, _table(videos, tmp_path / "v.tsv"), tmp_path / "f.npz", "--clips_per_video", "1")
    found = np.load(tmp_path / "f.npz")
    assert found["video_id"].tolist() == list(videos.video_ids)
    assert found["embedding"].shape == (5, 8) and found["pooled"].shape == (5, 32)
    network = vcjax.load(folder)
    counted, _ = verify.verify(videos, on_error="error", decode=True, num_workers=1)
    middle = (counted.num_frames[2] - 7) // 2
    frames = video.clip(videos.paths[2], middle, 4, stride=2)
    assert frames.shape[1:3] == (120, 160)
    small = [cv2.resize(f, (32, 24), interpolation=cv2.INTER_AREA)[:, 4:28] for f in frames]
    alone = network(np.stack(small)[None])
    np.testing.assert_allclose(found["embedding"][2], alone.embedding[0], atol=1e-5)
    np.testing.assert_allclose(found["pooled"][2], alone.pooled[0], atol=1e-5)


def test_an_interrupted_run_goes_on_and_parquet_holds_the_same(
    folder, videos, tmp_path, monkeypatch
):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = _table(videos, tmp_path / "v.tsv")
    monkeypatch.setattr(embed, "_PART", 2)
    _run(folder, table, tmp_path / "whole.npz")
    reading, read = inference.layer_means, []

    def interrupted(models, layers, manifest, *arguments, **options):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(manifest.video_ids)
        return reading(models, layers, manifest, *arguments, **options)

    monkeypatch.setattr(inference, "layer_means", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(folder, table, tmp_path / "f.parquet")
    assert not (tmp_path / "f.parquet").exists()
    read.clear()
    _run(folder, table, tmp_path / "f.parquet")
    assert read == [videos.video_ids[4:]]
    found, whole = parquet.read_table(tmp_path / "f.parquet"), np.load(tmp_path / "whole.npz")
    assert found["video_id"].to_pylist() == list(videos.video_ids)
    np.testing.assert_array_equal(found["pooled"].to_pylist(), whole["pooled"])
    assert not list(tmp_path.glob("*.parts"))


def test_bad_videos_stop_the_run_or_are_left_out(folder, videos, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    table = _table(videos.take([0]), tmp_path / "v.tsv")
    table.write_text(table.read_text() + "bad\tbad.mp4\n")
    with pytest.raises(SystemExit, match="1 of 2 videos cannot be used"):
        _run(folder, table, tmp_path / "f.npz")
    _run(folder, table, tmp_path / "f.npz", "--on_error", "skip")
    assert np.load(tmp_path / "f.npz")["video_id"].tolist() == [videos.video_ids[0]]
    assert f"left out 1 videos:\n    {tmp_path}/bad.mp4: " in capsys.readouterr().err


def test_the_card_tells_what_the_network_is(folder):
    card = (folder / "README.md").read_text()
    assert "clips of 4 frames (stride 2, 24 x" in card
    assert "# 3D ResNet-18, 0.13 million parameters" in card
    assert json.loads((folder / "config.json").read_text())["clip"] == _CLIP


def test_layers_are_the_averages_of_their_outputs(folder, videos, tmp_path):
    table = _table(videos, tmp_path / "v.tsv")
    _run(folder, table, tmp_path / "f.npz", "--clips_per_video", "1", "--layer", "stem", "stage1",
         "stage4", "pooled")  # fmt: skip
    found = np.load(tmp_path / "f.npz")
    assert found.files == ["video_id", "stem", "stage1", "stage4", "pooled"]
    assert found["stem"].shape == found["stage1"].shape == (5, 4)  # the width
    np.testing.assert_array_equal(found["stage4"], found["pooled"])
    network = vcjax.load(folder)
    clip = np.random.default_rng(0).integers(0, 256, (2, 4, 24, 24, 3), np.uint8)
    model = network.model
    model.eval()
    hidden = nnx.relu(model.stem_norm(model.stem(augment.normalize(clip))))
    np.testing.assert_allclose(
        model.layer(augment.normalize(clip), "stem"), hidden.mean(axis=(1, 2, 3)), rtol=1e-5
    )


def _write_long_video(path, event):
    """Write 12 s of a still picture at 10 frames per second, with noise in the seconds `event`."""
    generator = np.random.default_rng(0)
    still = generator.integers(0, 256, (48, 64, 3), np.uint8)
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for t in range(120):
            noise = generator.integers(0, 256, (48, 64, 3), np.uint8)
            picture = noise if event[0] <= t / 10 < event[1] else still
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_an_event_is_found_by_its_window(folder, tmp_path):
    _write_long_video(tmp_path / "long.mp4", (7.0, 8.0))
    (tmp_path / "v.tsv").write_text("path\nlong.mp4\n")
    _run(folder, tmp_path / "v.tsv", tmp_path / "w.npz", "--window", "1", "--stride", "0.5")
    found = np.load(tmp_path / "w.npz")
    np.testing.assert_allclose(found["start"], 0.5 * np.arange(23))
    np.testing.assert_allclose(found["end"], found["start"] + 1)
    pooled = found["pooled"]
    distance = np.linalg.norm(pooled - np.median(pooled, axis=0), axis=1)
    assert found["start"][distance.argmax()] == 7.0
    assert set(found["start"][distance > 0.3 * distance.max()]) <= {6.5, 7.0, 7.5}


def test_windows_need_a_length_and_no_number_of_clips(folder, videos, tmp_path):
    table = _table(videos, tmp_path / "v.tsv")
    for arguments, message in (
        (["--stride", "1"], "add --window SECONDS"),
        (["--window", "0"], "--window is 0"),
        (["--window", "1", "--clips_per_video", "2"], "as many clips as fit"),
    ):
        with pytest.raises(SystemExit, match=message):
            _run(folder, table, tmp_path / "w.npz", *arguments)


def test_a_missing_network_is_named_with_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/runs/mine/la: no such folder"):
        vcjax.load("runs/mine/la")
    for split in ("split1", "split2"):
        (tmp_path / "finetune" / split / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="contains 2 networks; use one of split1, split2"):
        vcjax.load(str(tmp_path / "finetune"))


def test_what_is_no_network_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder with config.json"):
        vcjax.load(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json: not written by vcjax"):
        vcjax.load(str(tmp_path))


def test_a_stage_s_best_network_is_that_of_its_best_validation(tmp_path):
    stage = tmp_path / "la"
    networks = [ResNet3D(**_SHAPE, rngs=nnx.Rngs(seed)) for seed in (1, 2)]
    checkpoints = checkpoint.Checkpoints(stage / "checkpoints")
    for step, network in enumerate(networks, 1):
        _, params, statistics = resnet3d.split(network)
        checkpoints.save(step, {"params": params, "statistics": statistics})
    config = settings.paper().to_dict()
    recorded = {"model": config["model"] | _SHAPE, "clip": _CLIP, "seed": 0, "la": {}}
    checksums.write_json(stage / "stage.json", {"settings": recorded})
    checkpoints.close()
    with pytest.raises(FileNotFoundError, match="no best checkpoint in"):
        vcjax.load(stage / "best")
    checkpoints = checkpoint.Checkpoints(stage / "checkpoints")
    checkpoints.keep_best(1, 0.5)
    checkpoints.close()
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 24, 24, 3), np.uint8)
    for source, network in ((stage / "best", networks[0]), (stage, networks[1])):
        found, expected = vcjax.load(source)(clips), inference.clips_of(network, clips)
        np.testing.assert_array_equal(found.embedding, expected.embedding)
