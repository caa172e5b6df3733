import os
import subprocess
import sys
from pathlib import Path

from vcjax import __main__ as console
from vcjax.runtime import config_flags


def _stages(config):
    file, _, variant = config.partition(":")
    scope = {}
    exec(Path(file).read_text(), scope)
    return scope["get_config"](variant).stages


def test_an_experiment_is_found_away_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("la.py:rendered", "configs/la.py:rendered"):
        stages = ("manifest", "ingest", "ir", "la", "evaluate")
        assert _stages(config_flags.find(name)) == stages


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("la.py").write_text("")
    assert config_flags.find("la.py:x") == "la.py:x"
    assert config_flags.find("elsewhere/la.py") == "elsewhere/la.py"
    assert config_flags.find("/absolute/la.py") == "/absolute/la.py"
    assert config_flags.find("unknown.py") == "unknown.py"


def test_only_the_value_of_config_is_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ir = config_flags.find("ir.py")
    for given in (["--config=ir.py:smoke"], ["--config", "ir.py:smoke"]):
        found = config_flags.find_in_arguments([*given, "--workdir=ir.py", "ir.py"])
        assert "=".join(found[: len(given)]) == f"--config={ir}:smoke"
        assert found[len(given) :] == ["--workdir=ir.py", "ir.py"]


def test_the_command_lists_and_runs_the_modules(tmp_path):
    assert {"main", "idt", "fisher", "bench"} <= console.commands().keys()
    assert not {"train", "pipeline", "data.clips"} & console.commands().keys()
    run = [sys.executable, "-m", "vcjax", "idt", "extract", "--help"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "usage: python -m vcjax.idt extract" in shown


def test_an_unknown_command_is_one_line():
    run = [sys.executable, "-m", "vcjax", "no_such"]
    failed = subprocess.run(run, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("vcjax: no command 'no_such'; use one of bench,")
    assert failed.stderr.count("\n") == 1


def _main(*arguments):
    run = [sys.executable, "-m", "vcjax", "main", *arguments]
    return subprocess.run(run, capture_output=True, text=True)


def test_the_help_of_main_lists_every_setting():
    shown = _main("--help")
    assert shown.returncode == 0
    assert "--config.la.batch_size=256" in shown.stdout and "--workdir" in shown.stdout


def test_a_missing_config_file_is_one_line_with_its_path(tmp_path):
    failed = _main(f"--config={tmp_path}/mine.py:folder", f"--workdir={tmp_path}/run")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert f"no such file: {tmp_path}/mine.py" in failed.stderr


def test_an_unknown_setting_is_one_line_with_the_closest_name(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    failed = _main("--config=la_idt.py:smoke", "--config.ir.epohcs=3", workdir)
    assert failed.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "no setting --config.ir.epohcs; did you mean --config.ir.epochs?" in failed.stderr


def test_a_setting_that_a_config_file_adds_is_refused_before_any_work(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(
        "from vcjax import settings\n"
        "def get_config(variant=''):\n"
        "    c = settings.apply_variants(settings.paper(), 'smoke')\n"
        "    c.ir.epohcs = 20\n"
        "    return c\n"
    )
    failed = _main(f"--config={config}", f"--workdir={tmp_path}/run")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert "no setting --config.ir.epohcs" in failed.stderr
    assert not (tmp_path / "run").exists()


def test_a_platform_without_a_device_is_one_line(tmp_path):
    run = [sys.executable, "-m", "vcjax", "main", "--config=la_idt.py:smoke"]
    environment = os.environ | {"JAX_PLATFORMS": "no_such"}
    failed = subprocess.run(
        [*run, f"--workdir={tmp_path}/run"], capture_output=True, text=True, env=environment
    )
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert "JAX cannot start a device (JAX_PLATFORMS=no_such)" in failed.stderr
