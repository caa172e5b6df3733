"""Finetuning: what stays frozen, when the rate falls, and the same end after an interruption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import synthetic, verify
from vcjax.models import resnet3d
from vcjax.runtime import checkpoint, sharding
from vcjax.training import batches, finetune, networks

NUM_CLASSES = 3


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        make = sharding.make
        patch.setattr(sharding, "make", lambda num_devices=1: make(num_devices))
        patch.setattr(jax, "device_count", lambda: 1)
        yield


def _config(**changes):
    config = settings.apply_variants(settings.paper(), "smoke")
    config.clip.num_frames, config.clip.side, config.model.width = 4, 16, 4
    stage = config.finetune
    stage.batch_size, stage.epochs, stage.frozen_stages = 4, 20, 2
    for key, value in changes.items():
        stage[key] = value
    return config


def _network(config):
    """With statistics that are not quite those of a new one."""
    model = networks.new_classifier(config, NUM_CLASSES)
    graphdef, params, statistics = resnet3d.split(model)
    statistics = jax.tree.map(lambda x: x + 0.01, statistics)
    return nnx.merge(graphdef, params, statistics)


def _flat(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {tuple(str(getattr(k, "key", k)) for k in path): np.asarray(x) for path, x in leaves}


def _frozen(path):
    return path[0].startswith("stem") or path[:2] in {("stages", "0"), ("stages", "1")}


def _steps(config, count=2):
    """Parameters and statistics before and after some steps."""
    model = finetune.prepare(
        _network(config), frozen_stages=2, freeze_statistics=config.finetune.freeze_statistics
    )
    graphdef, params, statistics = resnet3d.split(model)
    first, step = finetune.make(graphdef, config.finetune, 0.5)
    before = _flat(params), _flat(statistics)
    state = first(params, statistics)
    generator = np.random.default_rng(0)
    for number in range(count):
        batch = {
            "clip": generator.integers(0, 256, (4, 4, 16, 16, 3)).astype(np.uint8),
            "key": generator.integers(0, 2**32, 4, np.uint32),
            "class": np.array([0, 1, 2, 0], np.int32),
        }
        state, _ = step(state, batch, number)
    return before, (_flat(state.params), _flat(state.statistics))


def _changed(before, after):
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


def test_frozen_parameters_and_statistics_stay_bit_by_bit():
    before, after = _steps(_config())
    for old, new in zip(before, after, strict=True):
        assert _changed(old, new) == {path for path in old if not _frozen(path)}


def test_statistics_may_live_where_parameters_are_frozen():
    before, after = _steps(_config(freeze_statistics=False))
    params, statistics = (_changed(*pair) for pair in zip(before, after, strict=True))
    assert params == {path for path in before[0] if not _frozen(path)}
    assert statistics == set(before[1])


def test_without_frozen_stages_the_stem_is_trained():
    assert not finetune.is_frozen(("stem", "kernel"), 0)
    assert finetune.is_frozen(("stem_norm", "scale"), 1)
    assert finetune.is_frozen(("stages", 0, 1, "first"), 1)
    assert not finetune.is_frozen(("stages", 1, 0, "first"), 1)
    assert not finetune.is_frozen(("head", "kernel"), 4)


def test_momentum_is_dampened_but_for_the_first_gradient():
    transform = finetune.dampened_momentum(0.9, 0.8)
    state = transform.init({"w": jnp.zeros(1)})
    found = []
    for gradient in (1.0, 2.0, -1.0):
        update, state = transform.update({"w": jnp.full(1, gradient)}, state)
        found.append(float(update["w"][0]))
    np.testing.assert_allclose(found, [1.0, 0.9 + 0.4, 0.9 * 1.3 - 0.2], rtol=1e-6)


def test_the_learning_rate_falls_when_patience_is_over():
    plateau = finetune.Plateau(jnp.float32(0.1), jnp.float32(jnp.inf), jnp.int32(0))
    rates = []
    for loss in (2.0, 1.0, 1.0, 0.99995, 1.5, 0.9, 1.0, 1.0, 1.0):
        plateau = plateau.update(loss, patience=2)
        rates.append(float(plateau.learning_rate))
    # 0.99995 is no improvement; the third bad epoch drops it, and counting begins anew
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.01] * 4 + [0.001], rtol=1e-5)


def test_softmax_is_averaged_over_clips_and_logits_where_released():
    said = np.array([[[9.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]]])
    assert finetune.predict(said, average="logits") == [0]
    assert finetune.predict(said, average="softmax") == [1]
    with pytest.raises(settings.SettingsError, match="average is 'max'; use one of"):
        finetune.predict(said, average="max")


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    source = synthetic.render(tmp_path_factory.mktemp("v"), num_videos=12, seed=0, num_workers=1)
    counted, _ = verify.verify(
        manifests.read(source), on_error="error", decode=False, num_workers=1
    )
    return finetune.Labeled(counted, (np.arange(12) % NUM_CLASSES).astype(np.int32))


def _run(config, labeled, workdir):
    model = finetune.finetune(
        "finetune/split",
        config,
        train=labeled,
        validation=labeled,
        num_classes=NUM_CLASSES,
        start=workdir / "ir",
        workdir=workdir,
    )
    _, params, statistics = resnet3d.split(model)
    return _flat(params), _flat(statistics)


class _Killed(BaseException):
    pass


def test_it_takes_over_the_backbone_and_goes_on_where_it_was_killed(labeled, tmp_path, monkeypatch):
    config = _config(epochs=20, patience=0)  # a tenth of them by the variant
    _, params, statistics = resnet3d.split(_network(config))
    for workdir in (tmp_path / "whole", tmp_path / "killed"):
        saved = checkpoint.Checkpoints(workdir / "ir" / "checkpoints")
        saved.save(1, {"params": params, "statistics": statistics})
        saved.close()
    whole = _run(config, labeled, tmp_path / "whole")
    for old, new in zip((_flat(params), _flat(statistics)), whole, strict=True):
        assert _changed(old, new) == {path for path in old if not _frozen(path)}

    training_batches = batches.training_batches

    def killed(*arguments):
        for count, batch in enumerate(training_batches(*arguments)):
            if count == 4:
                raise _Killed
            yield batch

    monkeypatch.setattr(batches, "training_batches", killed)
    with pytest.raises(_Killed):
        _run(config, labeled, tmp_path / "killed")
    monkeypatch.setattr(batches, "training_batches", training_batches)
    resumed = _run(config, labeled, tmp_path / "killed")
    for a, b in zip(whole, resumed, strict=True):
        assert not _changed(a, b)
