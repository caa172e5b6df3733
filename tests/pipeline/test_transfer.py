import json

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.pipeline import build
from vcjax.training import transfer


def test_each_network_is_finetuned_on_each_fold_and_scratch_as_a_whole(tmp_path, monkeypatch):
    labels = {"action": ("kick", "wave") * 6, "fold": ("0", "1", "2") * 4}
    ids = tuple(f"v{i:02}" for i in range(12))
    (tmp_path / "manifest").mkdir()
    manifests.save(
        Manifest(ids, ids, labels, ("train",) * 12, (9,) * 12), tmp_path / "manifest/manifest.tsv"
    )
    config = settings.apply_variants(settings.paper(), "jhmdb")
    config.data.manifest = str(tmp_path / "manifest" / "manifest.tsv")
    config.stages = ("manifest", "ir", "la_own", "tune", "finetune")
    config.finetune.label, config.finetune.frozen_stages = "action", 2
    config.finetune.starts = ("scratch", "la_own", "tune")
    calls = {}

    def finetune(name, config, manifest, rows, label, *, group, start, workdir):
        calls[name] = (start and start.name, config.finetune.frozen_stages, len(rows.test))
        return {"accuracy": 0.25 if start else 0.5, "classes": ["kick", "wave"]}

    monkeypatch.setattr(transfer, "finetune_split", finetune)
    stage = build.build(config, tmp_path)[-1]
    assert set(stage.inputs) == {"manifest", "la_own", "tune"} and "scratch" not in stage.networks
    (tmp_path / "finetune").mkdir()
    stage.run(tmp_path / "finetune")
    assert len(calls) == 9
    assert calls["finetune/scratch-fold1"] == (None, 0, 4)
    assert calls["finetune/la-fold0"] == ("la_own", 2, 4)
    assert calls["finetune/la_idt_tune-fold2"] == ("tune", 2, 4)
    splits = json.loads((tmp_path / "finetune" / "result.json").read_text())["splits"]
    assert (splits["la-fold2"]["network"], splits["la-fold2"]["split"]) == ("la", "fold2")
