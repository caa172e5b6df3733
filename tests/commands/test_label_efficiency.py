import json

import numpy as np
import pytest

from vcjax.commands import label_efficiency


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
