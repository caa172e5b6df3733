import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import vcjax
from fisher.vectors import FisherVectors
from vcjax.interop import __main__ as interop
from vcjax.interop import released as files
from vcjax.interop import torch_files
from vcjax.models import state_dict as weights


@pytest.mark.parametrize("legacy", [False, True])
def test_a_released_checkpoint_goes_in_and_out_unchanged(tmp_path, released, torch_save, legacy):
    bank, labels = released["memory_bank"].bank_broadcast[0], released["cluster_labels"][0]
    state_dict = dict(released["model_state_dict"])
    torch_save(released, tmp_path / "checkpoint.pth.tar", legacy=legacy)
    ours, exported = tmp_path / "ours", tmp_path / "exported"
    interop.main(["import", str(tmp_path / "checkpoint.pth.tar"), "--out", str(ours)])
    interop.main(["export", str(ours), "--out", str(exported)])
    state_dict_read = torch_files.read(exported / "pytorch_model.pth")
    assert {f"module.{name}" for name in state_dict_read} == set(state_dict)
    for name, value in state_dict_read.items():
        np.testing.assert_array_equal(value, state_dict[f"module.{name}"])
    rows = load_file(ours / "bank.safetensors")
    np.testing.assert_array_equal(rows["bank"], bank)
    np.testing.assert_array_equal(rows["labels"], labels)
    assert vcjax.load(ours).source == {"file": "checkpoint.pth.tar", "epoch": 199}


def test_annotations_name_the_rows_of_the_bank(tmp_path, released, torch_save):
    torch_save(released, tmp_path / "checkpoint.pth.tar", legacy=True)
    entry = {"subset": "training", "annotations": {"label": "high jump"}}
    names = {f"clip{i}": entry for i in (5, 3, 4, 0, 1, 2)}
    database = names | {"held": entry | {"subset": "validation"}, "t": {"subset": "testing"}}
    (tmp_path / "kinetics.json").write_text(json.dumps({"labels": [], "database": database}))
    arguments = ["import", str(tmp_path / "checkpoint.pth.tar"), "--annotations"]
    interop.main([*arguments, str(tmp_path / "kinetics.json"), "--out", str(tmp_path / "ours")])
    named = (tmp_path / "ours" / "video_ids.txt").read_text().split()
    assert named == [f"training/high_jump/{name}" for name in names]
    del database["clip5"]
    (tmp_path / "fewer.json").write_text(json.dumps({"labels": [], "database": database}))
    with pytest.raises(
        SystemExit, match="5 training videos, but the checkpoint has 6 rows in the bank"
    ):
        interop.main([*arguments, str(tmp_path / "fewer.json"), "--out", str(tmp_path / "x")])


def test_annotations_make_a_manifest_of_the_files_that_are_there(tmp_path):
    entry = {"subset": "validation", "annotations": {"label": "high jump"}}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"x1": entry, "x2": entry}}))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "x2.mp4").touch()
    table, missing = files.manifest(files.annotations(tmp_path / "a.json"), tmp_path / "videos")
    line = f"validation/high_jump/x2\t{tmp_path}/videos/x2.mp4\ttest\thigh jump\n"
    assert table == "video_id\tpath\tsplit\tclass\n" + line
    assert missing == ["validation/high_jump/x1"]


def test_fisher_vectors_and_clusters_are_read(tmp_path, torch_save):
    vectors = np.random.default_rng(0).normal(size=(2, 1, 5)).astype(np.float32)
    folder = tmp_path / "fv" / "training" / "jump"
    folder.mkdir(parents=True)
    for name, vector in zip("ba", vectors, strict=True):
        torch_save(vector, folder / f"{name}.dat", legacy=True)
    interop.main(["fisher", str(tmp_path / "fv"), "--out", str(tmp_path / "vectors.npz")])
    read = FisherVectors.load(tmp_path / "vectors.npz")
    assert read.video_ids == ("training/jump/a", "training/jump/b")
    np.testing.assert_array_equal(read.vectors, vectors[::-1, 0])
    labels = np.arange(6).reshape(2, 3)
    torch_save({"cluster_labels": [labels]}, tmp_path / "clusters.pth.tar", legacy=True)
    np.testing.assert_array_equal(files.clusters(tmp_path / "clusters.pth.tar"), labels)


def test_other_networks_are_named(tmp_path, network, torch_save):
    state_dict = weights.to_torch(weights.arrays(network))
    for change, message in (
        (lambda d: {k: v for k, v in d.items() if "downsample" not in k}, "type A"),
        (lambda d: d | {"layer1.0.conv3.weight": d["conv1.weight"]}, "bottlenecks"),
        (lambda d: {k: v for k, v in d.items() if k != "bn1.bias"}, "no bn1.bias"),
        (lambda d: d | {"extra.weight": d["fc.bias"]}, "another network, first extra.weight"),
        (lambda d: {"fc.weight": d["fc.weight"]}, "not a 3D ResNet"),
    ):
        torch_save(change(state_dict), tmp_path / "other.pth", legacy=False)
        with pytest.raises(weights.WeightsError, match=message):
            files.checkpoint(tmp_path / "other.pth")
