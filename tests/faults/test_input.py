"""Manifests and configs as no one would write them; VCJAX_INPUTS says how many (default 60).

From 1000 on, a table of a million rows too.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from vcjax import settings as ours
from vcjax.data import manifest as manifests
from vcjax.data import verify
from vcjax.pipeline import build as pipeline
from vcjax.runtime.config_flags import parse

# of ml_collections, which loads the config file
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

NUM_INPUTS = int(os.environ.get("VCJAX_INPUTS", "60"))
often = settings(
    max_examples=NUM_INPUTS,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NAMES = st.sampled_from(
    ["a.mp4", "../a.mp4", "/etc/passwd", "a\nb.mp4", "a\tb", "", " ", ".", "..", "~", "a" * 5000]
    + ["a\x00b", "\ufeff", "<script>", "$(touch x)", "'; rm", "-o", "a.array_record#0:5", "e\u0301"]
)
TEXTS = st.one_of(NAMES, st.text(max_size=20), st.integers().map(str), st.floats().map(str))
COLUMNS = st.lists(
    st.one_of(
        st.sampled_from(["path", "video_id", "split", "num_frames", "fps", "scene", "class"]),
        st.text(max_size=8),
    ),
    max_size=6,
)


@st.composite
def tables(draw):
    """The columns of a manifest and its rows, which may be of other lengths."""
    columns = draw(COLUMNS)
    if draw(st.booleans()):
        columns = ["path", *columns]
    row = st.lists(TEXTS, min_size=len(columns), max_size=len(columns) + draw(st.integers(0, 1)))
    return columns, draw(st.lists(row, max_size=6))


def assert_one_line(error):
    assert str(error) and "\n" not in str(error) and len(str(error)) < 20_000


@often
@given(table=tables(), suffix=st.sampled_from([".tsv", ".csv"]))
def test_any_table_is_a_manifest_or_an_error_of_one_line(tmp_path, table, suffix):
    path, (columns, rows) = tmp_path / f"videos{suffix}", table
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
        writer.writerows([columns, *rows])
    assert_read_or_refused(path, tmp_path)


@often
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_an_error_of_one_line(tmp_path, content):
    path = tmp_path / "videos.tsv"
    path.write_bytes(b"path\tscene\n" * (len(content) % 2) + content)
    assert_read_or_refused(path, tmp_path)


def assert_read_or_refused(path, tmp_path):
    """What is read has as many videos as rows, is written and read back, and none of them is."""
    try:
        found = manifests.read(path)
    except manifests.ManifestError as error:
        assert_one_line(error)
        assert "videos" in str(error)  # the file's name
        return
    assert all(name.isprintable() or ord(max(name)) > 127 for name in found.video_ids)
    manifests.signature(path)
    manifests.save(found, tmp_path / "saved.tsv")
    assert manifests.load(tmp_path / "saved.tsv") == found
    with pytest.raises(manifests.ManifestError, match="can be used"):
        verify.verify(found, on_error="skip", decode=False, num_workers=1)


def test_a_long_table_is_read(tmp_path):
    path = tmp_path / "videos.tsv"
    num_rows = 10**6 if NUM_INPUTS >= 1000 else 10**5
    rows = (f"../{i}.mp4\tscene{i % 7}\n" for i in range(num_rows))
    path.write_text("path\tscene\n" + "".join(rows))
    found = manifests.read(path)
    assert len(found) == num_rows
    assert found.paths[0] == str(tmp_path.parent / "0.mp4")


def _keys():
    def flat(values, above=()):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, (*above, key))
            else:
                yield ".".join((*above, key))

    return sorted(flat(ours.paper().to_dict()))


VALUES = st.one_of(
    st.sampled_from(["", "0", "-1", "1.5", "nan", "inf", "1e999", "None", "True", "()", "(1,"]),
    st.sampled_from(["('a',)", "(0,)", "(-1, 2)", "[[1]]", "{}", "../x", "a\nb", "$(ls)", "error"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=10),
)


def build(arguments, workdir, monkeypatch):
    """The stages of a command line."""
    flag_values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=flag_values, lock_config=True)
    command = ["vcjax", "--config=la_idt.py:smoke", *arguments]
    monkeypatch.setattr(sys, "argv", command)  # where config_flags looks
    assert len(parse(command, flag_values)) == 1
    return pipeline.build(flag_values.config, workdir)


@often
@given(key=st.sampled_from(_keys()), value=VALUES)
def test_any_setting_is_taken_or_refused_by_its_name(tmp_path, monkeypatch, key, value):
    try:
        stages = build([f"--config.{key}={value}"], tmp_path, monkeypatch)
    except (SystemExit, ValueError) as error:
        assert_one_line(error)
        named = (f"--config.{key}", "no videos", "no stage")
        assert any(name in str(error) for name in named), error
        return
    assert len(stages) >= 1
    for stage in stages:
        assert stage.settings is not None


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.model.depth=50", r"--config.model.depth is 50; use one of 18, 34"),
        ("--config.model.depth=deep", "--config.model.depth=deep: invalid literal"),
        ("--config.log_steps=0", "--config.log_steps is 0; use 1 or more"),
        ("--config.clip.scales=('a',)", "--config.clip.scales is .* each more than 0, at most 1"),
        ("--config.clip.scales=()", "--config.clip.scales is empty"),
        ("--config.clip.scales=\n", r"--config.clip.scales is \('\\n'\); use values in brackets"),
        ("--config.ir.learning_rate=nan", "--config.ir.learning_rate is nan; use more than 0"),
        ("--config.stages=('manifest','ir','ir')", "--config.stages has 'ir' twice"),
        ("--config.stages=a\nb", r"no stage 'a\\nb'; use some of manifest, ingest"),
        ("--config.ir.epoch=3", "there is no setting --config.ir.epoch"),
        ("--config.model=3", "--config.model=3: .*not a dict"),
        ("--config=la_idt.py:tiny", "--config=.*la_idt.py:tiny: variant 'tiny' is unknown"),
        ("--config=README.md", "invalid"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises((SystemExit, ours.SettingsError), match=message) as caught:
        build([argument], tmp_path, monkeypatch)
    assert_one_line(caught.value)


def test_the_program_itself_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "vcjax.main", "--config=la_idt.py:smoke"]
    command += [f"--workdir={tmp_path}", "--config.clip.side=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "vcjax: --config.clip.side is 0; use 1 or more"
    assert "Traceback" not in done.stderr
