import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vcjax import checkpoint, memory_bank
from vcjax import mesh as meshes


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
        count: memory_bank.init(jax.random.key(0), 13, 4, mesh=meshes.make(count))
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
