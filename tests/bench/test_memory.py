import pytest

from vcjax.bench import _targets, memory
from vcjax.runtime import sharding


@pytest.mark.parametrize("num_rows", [100_000, 5_000_000])
def test_memory_of_the_loss_on_eight_devices_follows_the_formula(num_rows):
    found, formula = memory.compiled(num_rows, sharding.make(8)), memory.predicted(num_rows, 8)
    assert found.arrays == pytest.approx(formula.arrays, rel=0.02)
    assert sum(found) == pytest.approx(sum(formula), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:2x4", "h100x8"])
def test_loss_on_accelerators_takes_no_more_than_the_formula(target):
    """Which may leave intermediate values in memory on the chip."""
    if not _targets.is_installed(target):
        pytest.skip(f"no compiler for {target}")
    devices, num_rows = _targets.target(target), 5_000_000
    found = memory.compiled(num_rows, devices.mesh, options=devices.options)
    formula = memory.predicted(num_rows, 8)
    assert found.arrays == pytest.approx(formula.arrays, rel=0.02)
    assert sum(found) <= 1.1 * sum(formula)
