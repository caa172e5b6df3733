import json

import numpy as np
import pytest
from flax import nnx

from vcjax import inference, pretrained
from vcjax.commands import label_efficiency
from vcjax.data import verify
from vcjax.models.resnet3d import ResNet3D


@pytest.fixture
def table(tmp_path):
    rows = [
        f"v{i:02}\tv{i:02}.mp4\t{'ab'[i % 2]}\t{'train' if i < 30 else 'test'}" for i in range(40)
    ]
    (tmp_path / "videos.tsv").write_text("\n".join(["video_id\tpath\taction\tsplit", *rows]) + "\n")
    vectors = np.eye(2)[np.arange(40) % 2] + 0.1 * np.random.default_rng(0).normal(size=(40, 2))
    ids = np.array([f"v{i:02}" for i in range(40)])
    np.savez(tmp_path / "e.npz", video_id=ids, embedding=vectors)
    (tmp_path / "run" / "explore").mkdir(parents=True)
    np.savez(tmp_path / "run" / "explore" / "vectors.npz", video_id=ids,
             **dict.fromkeys(("looks", "motion", "idt"), vectors))  # fmt: skip
    return tmp_path


def _main(table, *more):
    label_efficiency.main(
        ["--manifest", str(table / "videos.tsv"), "--label", "action", "--out", str(table / "out"),
         "--shots", "1", "5", *map(str, more)]
    )  # fmt: skip


def test_vectors_of_a_run_and_other_embeddings_are_compared(table, capsys):
    _main(table, "--run", table / "run", "--embeddings", f"mine={table / 'e.npz'}")
    result = json.loads((table / "out" / "label_efficiency.json").read_text())
    assert list(result["accuracy"]) == ["looks", "motion", "idt", "mine"]
    assert result["accuracy"]["mine"]["5"]["mean"] == 1
    assert "Motion (HOF, MBH)" in capsys.readouterr().out


def test_a_table_without_held_out_videos_is_split(table, capsys):
    path = table / "videos.tsv"
    path.write_text(path.read_text().replace("\ttest", "\ttrain"))
    _main(table, "--embeddings", f"mine={table / 'e.npz'}")
    result = json.loads((table / "out" / "label_efficiency.json").read_text())
    assert (result["num_train"], result["num_test"]) == (30, 10)


def test_other_shots_embed_no_video_again(table, monkeypatch):
    network = pretrained.Pretrained(ResNet3D(width=1, rngs=nnx.Rngs(0)), {"width": 1}, {"side": 16})
    embedded = []

    def videos(models, manifest, config, *, clips_per_video):
        embedded.append((*models, config.clip.side, clips_per_video))
        rows = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
        return {name: inference.Features(rows, rows) for name in models}

    monkeypatch.setattr(pretrained, "load", lambda folder: network)
    monkeypatch.setattr(verify, "verify", lambda manifest, **how: (manifest, []))
    monkeypatch.setattr(inference, "videos", videos)
    for shots in ("2", "3"):
        _main(table, "--checkpoint", "my/net=folder", "--shots", shots)
        result = json.loads((table / "out" / "label_efficiency.json").read_text())
        assert result["accuracy"]["my/net"][shots]["mean"] == 1
    assert embedded == [("my_net", 16, 5)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "no features: add --run"),
        (("--run", "nothing"), "run `vcjax explore` with --out nothing"),
        (("--checkpoint", "la"), "--checkpoint needs NAME=FOLDER"),
        (("--embeddings", "x=a.npz", "--checkpoint", "x=b"), "the name 'x' is given twice"),
        (("--label", "verb", "--embeddings", "x=a.npz"), "--label is 'verb'; use one of"),
    ],
)
def test_what_cannot_be_measured_is_refused(table, arguments, message):
    with pytest.raises(SystemExit, match=message):
        _main(table, *arguments)
