import json
import math

import pytest

from vcjax.runtime import metrics


def _lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_resumed_step_are_dropped_for_that_stage_only(tmp_path):
    for stage, steps in (("ir", (1, 9)), ("la", (1, 2, 3))):
        writer = metrics.Writer(tmp_path, stage)
        for step in steps:
            writer.write(step, {"loss": 1.0 / step})
        writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "la", "st')  # killed while writing
    writer = metrics.Writer(tmp_path, "la", step=2)
    writer.write(3, {"loss": 7.0})
    writer.close()
    assert [(e["stage"], e["step"]) for e in _lines(tmp_path)] == [
        ("ir", 1), ("ir", 9), ("la", 1), ("la", 2), ("la", 3),
    ]  # fmt: skip
    assert _lines(tmp_path)[-1]["loss"] == 7.0
    assert list((tmp_path / "tensorboard" / "la").glob("events*"))


def test_a_value_that_is_not_finite_is_null(tmp_path):
    writer = metrics.Writer(tmp_path, "ir")
    writer.write(1, {"loss": math.nan, "norm": math.inf})
    writer.write(2, {"loss": 5.0, "norm": 1.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text("utf-8")
    assert "NaN" not in text and "Infinity" not in text
    assert (_lines(tmp_path)[0]["loss"], _lines(tmp_path)[0]["norm"]) == (None, None)
    assert metrics.first_loss(tmp_path, "ir") == 5.0


def test_an_error_of_closing_does_not_replace_the_error_of_the_run(tmp_path):
    """On a full disk the files cannot be closed either, after a checkpoint could not be written."""

    def on_a_full_disk():
        writer = metrics.Writer(tmp_path, "ir")
        writer._file.close()
        writer._file = open("/dev/full", "a", encoding="utf-8")
        writer._file.write("not flushed yet")
        return writer

    with pytest.raises(ValueError, match="a checkpoint cannot be written"), on_a_full_disk():
        raise ValueError("a checkpoint cannot be written")
    with pytest.raises(OSError, match="No space left on device"), on_a_full_disk():
        pass
