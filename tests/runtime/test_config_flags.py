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
        assert _stages(config_flags.find(name)) == ("manifest", "ir", "la", "evaluate")


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
