"""Every row of the paper's tables is a config that builds, has its sizes, and trains."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax import settings
from vcjax.evaluation import paper_tables
from vcjax.evaluation.__main__ import main
from vcjax.models import resnet3d
from vcjax.pipeline import build
from vcjax.runtime import sharding
from vcjax.training import finetune, networks
from vcjax.training import step as steps

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = [run for run in paper_tables.all_runs() if run.config != "idt_baseline"]
NUM_VIDEOS = 240_000


def _config(run):
    spec = importlib.util.spec_from_file_location(run.config, CONFIGS / f"{run.config}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(run.argument.split(":")[1])


def _stage(config):
    """The last stage that is trained."""
    trainable = (*settings.TRAINING_STAGES, *settings.FINETUNING_STAGES)
    pretraining = [s for s in config.stages if s in (*settings.TRAINING_STAGES, "supervised")]
    return pretraining[-1] if pretraining else [s for s in config.stages if s in trainable][-1]


def _step(config, num_videos):
    """() -> the state at first, and the step, both of the last trained stage."""
    name, devices = _stage(config), sharding.make(1)
    stage = config[name]
    if name in settings.FINETUNING_STAGES:
        model = networks.new_classifier(config, 101)
        graphdef, params, statistics = resnet3d.split(
            finetune.prepare(model, frozen_stages=stage.frozen_stages, freeze_statistics=True)
        )
        first, step = finetune.make(graphdef, stage, 0.5)
        return lambda: first(params, statistics), step
    optimizer, _ = steps.optimizer(stage, 1.0, 10)
    graphdef = None

    def initial():
        nonlocal graphdef
        graphdef, state = steps.initial_state(config, optimizer, num_videos, devices)
        return state

    jax.eval_shape(initial)
    num_background = settings.num_background(stage.get("num_background", 0), num_videos)
    return initial, steps.make(
        graphdef, optimizer, config, stage, num_videos, devices, num_background=num_background
    )


def _batch(config, batch_size):
    clip = (batch_size, config.clip.num_frames, config.clip.side, config.clip.side, 3)
    generator = np.random.default_rng(0)
    return {
        "clip": generator.integers(0, 256, clip).astype(np.uint8),
        "index": np.arange(batch_size, dtype=np.int32),
        "key": np.arange(batch_size, dtype=np.uint32),
        "class": np.arange(batch_size, dtype=np.int32),
    }


def test_the_runs_differ_as_the_tables_say():
    assert len(paper_tables.all_runs()) == len({run.name for run in paper_tables.all_runs()}) == 31
    configs = {run.name: _config(run) for run in RUNS}
    sizes = {name: (c.clip.num_frames, c.clip.side, c.model.depth) for name, c in configs.items()}
    assert sizes["la_idt"] == (16, 112, 18)
    assert sizes["la-frames32"] == (32, 112, 18) and sizes["scratch-frames64"] == (64, 112, 18)
    assert sizes["la_idt-depth34-side224"] == (16, 224, 34)
    clusters = configs["la_idt-clusters12000x6"].clusters
    assert (clusters.num_clusters, clusters.num_runs) == (12000, 6)
    assert configs["la_idt-videos135k"].data.num_videos == 135_000
    assert "tune" not in configs["la_idt-no_tune"].stages and "tune" in configs["la_idt"].stages
    starts = {name: c.ucf101.init_from for name, c in configs.items()}
    assert starts["la_idt-no_tune"] == starts["la"] == "la" and starts["la_idt"] == "tune"
    assert starts["scratch"] == "" and configs["scratch"].ucf101.frozen_stages == 0
    assert (configs["la"].ucf101.frozen_stages, configs["la"].hmdb51.frozen_stages) == (1, 2)
    assert (configs["la"].ucf101.epochs, configs["la"].hmdb51.epochs) == (40, 30)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_row_builds_its_stages(run, tmp_path):
    config = _config(run)
    (tmp_path / "videos.tsv").write_text("path\na.mp4\n")
    for section in ("data", "few_shot", "ucf101", "hmdb51"):
        config[section].manifest = str(tmp_path / "videos.tsv")
    built = [stage.name for stage in build.build(config, tmp_path)]
    assert built == list(config.stages) and built[-3:] == ["few_shot", "ucf101", "hmdb51"]


_PAPER_SIZES = {
    (c.clip.num_frames, c.clip.side, c.model.depth): run
    for run, c in ((run, _config(run)) for run in reversed(RUNS))
    if run.config == "la_idt"
}


@pytest.mark.parametrize("size", _PAPER_SIZES, ids=str)
def test_a_step_at_the_papers_size_by_shape(size):
    config = _config(_PAPER_SIZES[size])
    initial, step = _step(config, NUM_VIDEOS)
    state = jax.eval_shape(initial)
    after, scalars = jax.eval_shape(step, state, _batch(config, 4), jnp.int32(0))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert after.bank.shape == (NUM_VIDEOS, 128) and scalars["loss"].shape == ()
    num_parameters = sum(x.size for x in jax.tree.leaves(after.params))
    assert num_parameters == pytest.approx(33.27e6 if size[2] == 18 else 63.6e6, rel=5e-3)


# The step of la is that of la_idt, and scratch's that of supervised; what differs is the start.
@pytest.mark.parametrize("name", ["ir", "la_idt", "supervised"])
def test_two_steps_at_a_reduced_size_move_every_parameter(name):
    config = _config(paper_tables.Run(name))
    config.clip.num_frames, config.clip.side, config.model.width = 4, 16, 4
    config.clip.grayscale, config.clip.jitter, config.clip.flip = 0.0, (0.0,) * 4, 0.0
    config.ir.estimator, config.tune.num_background = "full_softmax", 16
    initial, step = _step(config, 16)
    state = initial()
    if name == "la_idt":
        labels = np.tile(np.arange(16, dtype=np.int32) % 4, (config.clusters.num_runs, 1))
        state = state._replace(labels=jnp.array(labels))
    before = jax.device_get(state)  # the step takes its memory
    for count in range(2):
        state, scalars = step(state, _batch(config, 8), count)
    assert np.isfinite(scalars["loss"])
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params), strict=True):
        assert np.isfinite(new).all() and (old != new).any()
    if name != "supervised":
        moved = (before.bank != state.bank).any(axis=1)
        assert moved.tolist() == [True] * 8 + [False] * 8  # the rows of the batch


def _complete(folder, stage, result):
    (folder / stage).mkdir(parents=True)
    (folder / stage / "stage.json").write_text(json.dumps({"complete": True}))
    (folder / stage / "result.json").write_text(json.dumps(result))


def test_ours_stand_beside_the_papers_and_missing_rows_say_their_command(tmp_path, capsys):
    splits = {f"split{i}": {"accuracy": a} for i, a in ((1, 0.7), (2, 0.6), (3, 0.5))}
    few = {"split1": {"few_shot": {"1": {"mean": 0.125}}, "accuracy": 0.5}}
    _complete(tmp_path / "la_idt", "ucf101", {"accuracy": 0.6, "splits": splits})
    _complete(tmp_path / "la_idt", "few_shot", {"accuracy": 0.5, "splits": few})
    supervised = {"split1": {"accuracy": 0.875}}
    _complete(tmp_path / "supervised", "ucf101", {"accuracy": 0.875, "splits": supervised})
    main(["tables", "--runs", str(tmp_path)])
    text = capsys.readouterr().out
    rows = {line[:30].strip(): line[30:].split() for line in text.splitlines()[:9]}
    assert "".join(rows["Video LA + IDT prior"]) == "72.8|70.086.3|80.044.0|-78.0|-"
    assert "17.8 | 12.5" in text and "73.0 | 60.0" in text  # Tables 2 and 4
    assert f"--config=configs/la.py:transfer --workdir={tmp_path / 'la'} " in text
    assert "la_idt.py:transfer,clusters3000x2" in text
    main(["tables", "--runs", str(tmp_path), "--only", "7"])
    assert "Table 1" not in capsys.readouterr().out
