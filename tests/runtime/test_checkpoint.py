from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vcjax.objectives import memory_bank
from vcjax.runtime import checkpoint, checkpoint_files, checksums, sharding
from vcjax.runtime.checksums import DamagedError


def _state(seed: int) -> dict:
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(seed)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    )
    _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    bank = jax.random.normal(jax.random.key(seed), (16, 2))
    return {
        "params": params,
        "statistics": statistics,
        "optimizer": optax.sgd(0.1, momentum=0.9).init(params),
        "bank": jax.device_put(bank, NamedSharding(mesh, P("data"))),
    }


def _assert_equal(actual, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_newest_state_comes_back_whole_and_sharded(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, _state(step))
    checkpoints.close()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    restored = checkpoints.restore(_state(0))
    assert checkpoints.latest == 3
    _assert_equal(restored, _state(3))
    assert restored["bank"].sharding.spec == P("data")
    checkpoints.close()


def test_part_of_a_state_comes_back_without_the_rest(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(5, _state(5))
    checkpoints.close()
    template = {k: v for k, v in _state(0).items() if k != "optimizer"}
    restored = checkpoint.restore_part(tmp_path, template)
    assert restored.keys() == template.keys()
    _assert_equal(restored["params"], _state(5)["params"])
    _assert_equal(restored["bank"], _state(5)["bank"])


def test_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.restore_part(tmp_path / "none", {"x": jnp.zeros(1)})


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 4), (1, 8), (8, 1)])
def test_a_bank_comes_back_on_another_number_of_devices(tmp_path, saved_on, restored_on):
    banks = {
        count: memory_bank.init(jax.random.key(0), 13, 4, mesh=sharding.make(count))
        for count in (saved_on, restored_on)
    }
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, {"bank": banks[saved_on]})
    checkpoints.close()
    template = {"bank": banks[restored_on] + 1}
    restored = checkpoint.Checkpoints(tmp_path).restore(template)["bank"]
    np.testing.assert_array_equal(restored, banks[restored_on])  # padding is zero again
    assert restored.sharding == template["bank"].sharding


def test_another_shape_of_anything_else_is_an_error(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, {"params": jnp.ones((4, 2))})
    checkpoints.close()
    with pytest.raises(ValueError, match="shape"):
        checkpoint.restore_part(tmp_path, {"params": jnp.ones((3, 2))})


def _save(directory, *steps):
    checkpoints = checkpoint.Checkpoints(directory)
    for step in steps:
        checkpoints.save(step, _state(step))
    checkpoints.close()


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _files(folder):
    return [path for path in sorted(folder.glob("*/**/*")) if path.is_file()]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path, caplog, damage):
    _save(tmp_path, 3, 4)
    largest = max(_files(tmp_path / "4"), key=lambda path: path.stat().st_size)
    damage(largest)
    with pytest.raises(DamagedError, match=f"{largest}: damaged; run the stage again"):
        checkpoint.restore_part(tmp_path, {"bank": _state(0)["bank"]})
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert f"{largest}: damaged; using the previous checkpoint" in caplog.text
    assert checkpoints.latest == 3
    _assert_equal(checkpoints.restore(_state(0)), _state(3))
    checkpoints.save(4, _state(4))
    checkpoints.close()
    restored = checkpoint.restore_part(tmp_path, {"bank": _state(0)["bank"]})
    _assert_equal(restored["bank"], _state(4)["bank"])


def test_no_sound_checkpoint_is_an_error_and_none_is_removed(tmp_path):
    _save(tmp_path, 3, 4)
    for step in "34":
        _flip(tmp_path / step / "checksums.json")
    with pytest.raises(DamagedError, match=f"all checkpoints are damaged: .*remove {tmp_path}"):
        checkpoint.Checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"3", "4"}


def test_every_checkpoint_is_committed_with_checksums_of_all_its_files(tmp_path):
    _save(tmp_path, 3, 4)
    for step in checkpoint_files.committed(tmp_path):
        recorded = checksums.read_json(step / "checksums.json")
        assert {step / name for name in recorded} == set(_files(step))


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    _save(tmp_path, 3)
    (tmp_path / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    _save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_the_best_is_kept_and_found_again_until_another_one_is(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in range(1, 5):
        checkpoints.save(step, _state(step))
        if step == 1:
            checkpoints.keep_best(1, 0.5)
    checkpoints.close()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.best == (1, 0.5) and checkpoints.latest == 4
    restored = checkpoint.restore_part(tmp_path, {"bank": _state(0)["bank"]}, best=True)
    _assert_equal(restored["bank"], _state(1)["bank"])
    _assert_equal(checkpoints.restore(_state(0)), _state(4))
    checkpoints.keep_best(4, 0.6)
    for step in (5, 6):
        checkpoints.save(step, _state(step))
    checkpoints.close()
    assert [path.name for path in checkpoint_files.committed(tmp_path)] == ["6", "5", "4"]


@pytest.mark.parametrize("damaged", ["best.json", "1"])
def test_a_damaged_best_is_forgotten_and_the_last_goes_on(tmp_path, damaged):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, _state(step))
        if step == 1:
            checkpoints.keep_best(1, 0.5)
    checkpoints.close()
    path = tmp_path / damaged
    _flip(max(_files(path), key=lambda p: p.stat().st_size) if path.is_dir() else path)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.best is None and checkpoints.latest == 3
    with pytest.raises(FileNotFoundError, match="no best checkpoint"):
        checkpoint.restore_part(tmp_path, {"bank": _state(0)["bank"]}, best=True)
    checkpoints.close()
