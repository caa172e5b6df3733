import doctest

from vcjax import idt


def test_the_example_in_the_documentation_runs():
    results = doctest.testmod(idt)
    assert results.attempted == 4 and results.failed == 0
