"""Twenty steps of local aggregation on one device and on eight: the same training.

At a low rate: at the paper's, a relative difference of 3e-7 at the start grows to losses 0.1 apart
after ten steps on one device, too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vcjax import mesh, settings
from vcjax import step as steps

NUM_VIDEOS, NUM_STEPS, BATCH = 48, 20, 16


def _train(num_devices):
    config = settings.paper()
    config.clip.num_frames, config.clip.side = 4, 16
    config.model.width, config.la.batch_size, config.la.num_background = 4, BATCH, 12
    config.la.learning_rate = 1e-4
    devices = mesh.make(num_devices)
    optimizer, _ = steps.optimizer(config.la, 1.0, 100)
    graphdef, state = steps.initial_state(config, optimizer, NUM_VIDEOS, devices)
    generator = np.random.default_rng(0)
    labels = generator.integers(5, size=(config.clusters.num_runs, NUM_VIDEOS), dtype=np.int32)
    state = state._replace(labels=jax.device_put(labels, mesh.replicated(devices)))
    step = steps.make(graphdef, optimizer, config, config.la, NUM_VIDEOS, devices)
    losses, start = [], [np.asarray(x) for x in jax.tree.leaves(state.params)]
    for count in range(NUM_STEPS):
        batch = {
            "clip": generator.integers(256, size=(BATCH, 4, 16, 16, 3), dtype=np.uint8),
            "key": generator.integers(1 << 32, size=BATCH, dtype=np.uint32),
            "index": generator.permutation(NUM_VIDEOS)[:BATCH].astype(np.int32),
        }
        batch = {k: jax.device_put(v, mesh.rows(devices)) for k, v in batch.items()}
        state, scalars = step(state, batch, jnp.asarray(count))
        losses.append(float(scalars["loss"]))
    params = [np.asarray(x) for x in jax.tree.leaves(state.params)]
    moved = max(np.abs(a - b).max() for a, b in zip(params, start, strict=True))
    return losses, [np.asarray(state.bank)[:NUM_VIDEOS], *params], moved


def test_eight_devices_end_with_the_bank_and_weights_of_one():
    losses, arrays, moved = _train(8)
    expected_losses, expected, _ = _train(1)
    assert moved > 1e-3  # far more than the tolerance
    np.testing.assert_allclose(losses, expected_losses, atol=1e-4)
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
