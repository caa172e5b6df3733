"""Finetuning by two processes ends as by one; then the first alone probes features."""

import json

import jax
import numpy as np

FLAGS = [
    "--config.stages=('manifest','ingest','ir','finetune','few_shot')",
    "--config.ir.epochs=1",
    "--config.finetune.init_from=ir",
    "--config.finetune.frozen_stages=0",
    "--config.finetune.epochs=2",
    "--config.few_shot.init_from=finetune",
    # of rounding, which grows fast at first at the rates that one trains with
    *(f"--config.{stage}.learning_rate=1e-6" for stage in ("ir", "finetune")),
]


def _largest_difference(a, b):
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), a, b)
    return max(jax.tree.leaves(differences))


def test_two_processes_finetune_as_one(start, last_state, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert start(one, *FLAGS).ends() == 0
    videos = one / "manifest" / "manifest.tsv"
    flags = [*FLAGS, *(f"--config.{s}.manifest={videos}" for s in ("finetune", "few_shot"))]
    runs = start(two, *flags, count=2)
    assert [run.ends() for run in runs] == [0, 0], runs[0].log[-3000:]

    wanted, found = (last_state(run / "finetune" / "split")[0] for run in (one, two))
    first, last = last_state(one / "ir")[0]["params"], dict(wanted["params"])
    del first["head"], last["head"]  # which is another one
    moved = _largest_difference(first, last)
    assert _largest_difference(found["params"], wanted["params"]) < min(1e-4, 1e-2 * moved)
    assert _largest_difference(found["statistics"], wanted["statistics"]) < 1e-4
    assert _largest_difference(found["plateau"]["best"], wanted["plateau"]["best"]) < 1e-4

    for stage in ("finetune", "few_shot"):
        results = [json.loads((run / stage / "result.json").read_text()) for run in (one, two)]
        assert results[0]["accuracy"] == results[1]["accuracy"]
        assert results[0]["splits"].keys() == results[1]["splits"].keys()
