import json

import numpy as np
import pytest
from PIL import Image

from vcjax.data import manifest as manifests
from vcjax.data import synthetic
from vcjax.evaluation import claim
from vcjax.evaluation.__main__ import main
from vcjax.evaluation.claim import Claim


def _report(five, linear, ami_motion, ami_scene):
    entry = {
        "few_shot": {"motion": {"5": {"mean": five}}},
        "linear": {"motion": linear},
        "clusters": {"ami": {"motion": ami_motion, "scene": ami_scene}},
    }
    idt = {"linear": {"motion": 1.0}, "clusters": {"ami": {"motion": 0.6, "scene": 0.0}}}
    return {"models": {"la": entry}, "idt": idt}


def test_seeds_become_a_mean_and_an_interval_a_table_and_a_figure(tmp_path):
    folders = []
    for seed, five in enumerate((0.2, 0.4, 0.6)):
        folders.append(tmp_path / f"seed{seed}")
        folders[-1].mkdir()
        report = _report(five, 0.5, 0.1, 0.3)
        (folders[-1] / "report.json").write_text(json.dumps(report))
    text = claim.report(folders, [Claim("motion", "scene")], tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("Video LA "))
    # Student's t, two degrees: 4.303 * 20 / sqrt(3)
    assert row.split()[2:] == "40.0 +- 49.7 50.0 +- 0.0 0.100 +- 0.000 0.300 +- 0.000".split()
    row = next(line for line in text.splitlines() if line.startswith("IDT Fisher vectors"))
    assert row.split()[3:5] == ["-", "100.0"]
    with Image.open(tmp_path / "claim.png") as picture:
        assert picture.width > 1000 and len(set(np.asarray(picture.convert("L")).ravel())) > 50
    kept = json.loads((tmp_path / "claim.json").read_text())
    assert kept["motion"]["la"]["AMI scene"]["mean"] == pytest.approx(0.3)


def test_accuracies_of_finetuning_are_a_column_whose_gains_are_paired_by_fold(tmp_path):
    folders = [tmp_path / f"seed{seed}" for seed in range(2)]
    for folder, gain in zip(folders, (0.1, 0.2), strict=True):
        (folder / "finetune").mkdir(parents=True)
        report = _report(0.2, 0.5, 0.1, 0.3)
        report["models"]["scratch"] = report["models"]["la"]
        (folder / "report.json").write_text(json.dumps(report))
        splits = {}
        for fold, scratch in enumerate((0.2, 0.4)):
            for network, accuracy in (("scratch", scratch), ("la", scratch + gain)):
                splits[f"{network}-fold{fold}"] = {"network": network, "accuracy": accuracy}
        result = {"splits": splits, "label": "motion"}
        (folder / "finetune" / "result.json").write_text(json.dumps(result))
        (folder / "finetune" / "stage.json").write_text('{"complete": true}')
    claim.report(folders, [Claim("motion", "scene")], tmp_path)
    kept = json.loads((tmp_path / "claim.json").read_text())["motion"]
    assert kept["scratch"]["finetuned"]["mean"] == pytest.approx(0.3)
    assert kept["la"]["finetuned"]["mean"] == pytest.approx(0.45)
    reports = [claim._report(folder) for folder in folders]
    gain = claim.gains(reports, Claim("motion", "scene"))["la", "scratch"]["finetuned"]
    assert gain.mean == pytest.approx(0.15) and gain.num_draws == 4


def test_columns_have_the_names_of_the_labels_and_their_numbers_below():
    entry = _report(0.2, 0.5, 0.1, 0.3)["models"]["la"]
    entry["clusters"]["ami"] = {"tennis stroke": 0.125, "tennis tournament": 0.375}
    labels = Claim("tennis stroke", "tennis tournament")
    collected = claim.collect([{"models": {"la": entry}}], labels)
    _, heading, row = claim.table(collected, {}, labels, 1).splitlines()
    assert heading.split("  ")[-2:] == ["AMI tennis stroke", "AMI tennis tournament"]
    for column, value in (("AMI tennis stroke", "0.125"), ("AMI tennis tournament", "0.375")):
        end = heading.index(column) + len(column)
        assert row[:end].endswith(f" {value}")


def test_gains_are_of_the_same_seed():
    reports = [_report(five, 0.5, 0.1, 0.3) for five in (0.1, 0.5, 0.9)]
    for report, ahead in zip(reports, (0.1, 0.2, 0.3), strict=True):
        of_la = report["models"]["la"]["few_shot"]["motion"]["5"]["mean"]
        report["models"]["la_idt"] = _report(of_la + ahead, 0.5, 0.4, 0.3)["models"]["la"]
    gains = claim.gains(reports, Claim("motion", "scene"))
    assert list(gains) == [("la_idt", "la")]
    assert gains["la_idt", "la"]["5-shot"].mean == pytest.approx(0.2)
    assert gains["la_idt", "la"]["5-shot"].interval == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert gains["la_idt", "la"]["AMI motion"].mean == pytest.approx(0.3)


def test_a_model_that_one_seed_lacks_is_left_out():
    whole, part = _report(0.2, 0.5, 0, 0), _report(0.2, 0.5, 0, 0)
    del part["models"]["la"]
    assert list(claim.collect([whole, part], Claim("motion", "scene"))) == ["idt"]
    with pytest.raises(ValueError, match="no model in common"):
        claim.collect([whole, {"models": {}}], Claim("motion", "scene"))


def test_joined_manifests_keep_labels_and_groups_apart(tmp_path):
    (tmp_path / "fight.tsv").write_text("path\tmotion\tscene\na.mp4\tfight\ts1\nb.mp4\tcalm\ts2\n")
    (tmp_path / "tennis.tsv").write_text("path\tstroke\tscene\na.mp4\tserve\ts1\n")
    claim.join([tmp_path / "fight.tsv", tmp_path / "tennis.tsv"], tmp_path / "all.tsv")
    joined = manifests.read(tmp_path / "all.tsv")
    assert joined.video_ids == ("fight/a", "fight/b", "tennis/a")
    assert joined.labels["group"] == ("fight s1", "fight s2", "tennis s1")
    assert joined.labels["fight motion"] == ("fight", "calm", "")
    assert joined.labels["tennis stroke"] == ("", "", "serve")
    assert joined.paths[2] == str(tmp_path / "a.mp4")


def test_seeds_after_the_first_share_the_videos_and_their_trajectories(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    commands = []

    def run(command, environment):
        commands.append(command)
        assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
        for name in ("manifest", "ingest"):
            (tmp_path / command[4].split("=")[1] / name).mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(claim.preemption, "run", run)
    folders = claim.train("c.py", [3, 5], tmp_path, overrides=["--config.epochs_scale=0.5"])
    assert [folder.name for folder in folders] == ["seed3", "seed5"]
    assert (folders[1] / "ingest").resolve() == folders[0] / "ingest"
    assert commands[1][5:] == ["--config.seed=5", "--config.epochs_scale=0.5"]


def test_runs_evaluate_the_labels_of_the_claims_unless_others_are_set(tmp_path, monkeypatch):
    monkeypatch.setattr(claim.preemption, "listen", lambda: None)
    monkeypatch.setattr(claim, "train", lambda *_, overrides: given.append(overrides))
    monkeypatch.setattr(claim, "report", lambda *_: "")
    given, command = [], ["claim", "--config=c.py", f"--workdir={tmp_path}"]
    claims = ["--claims", "action", "scene", "--claims", "action", "a view"]
    main([*command, *claims, "--", "--config.seed=1"])
    main([*command, "--", "--config.evaluation.labels=()"])
    labels = "--config.evaluation.labels=('action', 'scene', 'a view')"
    assert given == [["--config.seed=1", labels], ["--config.evaluation.labels=()"]]


def test_scenes_in_full_contrast_vary_more_and_the_usual_ones_as_before():
    def frame(**look):
        return next(synthetic.pictures("walking", 1, seed=0, row=0, **look)).astype(float)

    usual = frame()
    np.testing.assert_array_equal(usual, frame(look=synthetic.Look(0.35, 185.0)))
    scenes = [synthetic._scene(1, 0, synthetic.Look(*look)) for look in ((), (1.0, 140.0))]
    assert scenes[1].std() > 1.5 * scenes[0].std()


def test_gains_of_the_linear_probe_are_paired_by_seed_and_fold():
    reports = [_report(0.2, 0.5, 0.1, 0.3) for _ in range(2)]
    of_scratch, of_la = np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]]), np.array([0.05, 0.1, 0.15])
    for report, scratch in zip(reports, of_scratch, strict=True):
        for name, by_fold in (("scratch", scratch), ("la", scratch + of_la)):
            entry = _report(0.2, by_fold.mean(), 0.1, 0.3)["models"]["la"]
            entry |= {"linear_by_fold": {"motion": by_fold.tolist()}, "neighbor": {"motion": 0.4}}
            report["models"][name] = entry
    gain = claim.gains(reports, Claim("motion", "scene"))["la", "scratch"]["linear"]
    assert gain.mean == pytest.approx(0.1) and gain.num_draws == 6
    differences = np.tile(of_la, 2)  # Student's t, five degrees: 2.571
    assert gain.interval == pytest.approx(2.571 * differences.std(ddof=1) / 6**0.5, rel=1e-3)
    labels = Claim("motion", "scene")
    assert "neighbor" in claim.table(claim.collect(reports, labels), {}, labels, 2).splitlines()[1]
