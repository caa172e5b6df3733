import pytest

from vcjax.bench import _targets, la_loss, memory
from vcjax.runtime import sharding


@pytest.mark.parametrize("num_rows", [100_000, 5_000_000])
def test_memory_of_the_loss_on_eight_devices_follows_the_formula(num_rows):
    found, formula = memory.compiled(num_rows, sharding.make(8)), memory.predicted(num_rows, 8)
    assert found.arrays == pytest.approx(formula.arrays, rel=0.02)
    assert sum(found) == pytest.approx(sum(formula), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("target,banks", [("v5e:2x4", 0), ("h100x8", 1)])
def test_loss_on_accelerators_takes_no_more_than_the_formula(target, banks):
    """TPUs leave values in memory on the chip; GPUs pad a copy of the bank for the gradient."""
    if not _targets.is_installed(target):
        pytest.skip(f"no compiler for {target}")
    devices, num_rows = _targets.target(target), 5_000_000
    found = memory.compiled(num_rows, devices.mesh, options=devices.options)
    formula = memory.predicted(num_rows, 8)
    assert found.arrays == pytest.approx(formula.arrays, rel=0.02)
    copies = banks * 4 * (num_rows // 8) * la_loss.DIM
    assert sum(found) <= 1.1 * (sum(formula) + copies)
