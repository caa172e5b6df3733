import pytest

from vcjax.bench import memory
from vcjax.runtime import sharding


@pytest.mark.parametrize("num_rows", [100_000, 5_000_000])
def test_memory_of_the_loss_on_eight_devices_follows_the_formula(num_rows):
    found, formula = memory.compiled(num_rows, sharding.make(8)), memory.predicted(num_rows, 8)
    assert found.arrays == pytest.approx(formula.arrays, rel=0.02)
    assert sum(found) == pytest.approx(sum(formula), rel=0.1)
