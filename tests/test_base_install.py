"""Commands without training, in a process that has only the libraries of the base installation."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vcjax.data import synthetic
from vcjax.runtime import extras, stage_cache

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADVICE = "pip install 'vcjax[train]'"


def _installed(requirements):
    """Return the names of the distributions that `pip install` of the requirements brings."""
    todo, names = [(Requirement(text), "") for text in requirements], set()
    while todo:
        required, extra = todo.pop()
        if required.marker and not required.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(required.name)
        for inner in {"", *required.extras}:
            if (name, inner) not in names:
                names.add((name, inner))
                todo += [(Requirement(r), inner) for r in metadata.requires(name) or ()]
    return {name for name, _ in names}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return an environment in which only the base installation can be imported."""
    folder = tmp_path_factory.mktemp("missing")
    kept = {*_installed(PROJECT["dependencies"]), "pip", "setuptools", "vcjax"}
    for module, owners in metadata.packages_distributions().items():
        if kept.isdisjoint(map(canonicalize_name, owners)) and module.isidentifier():
            error = f"raise ModuleNotFoundError('No module named {module}', name={module!r})\n"
            (folder / f"{module}.py").write_text(error)
    for module in extras.EXTRAS["train"]:
        assert (folder / f"{module}.py").exists(), module
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return synthetic.render(tmp_path_factory.mktemp("videos"), num_videos=8, seed=0, num_workers=2)


def _run(environment, *arguments, cwd):
    command = [sys.executable, "-m", "vcjax", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600
    )


def test_the_extra_has_the_libraries_that_the_message_knows():
    names = {re.match(r"[\w-]+", text)[0] for text in PROJECT["optional-dependencies"]["train"]}
    owners = metadata.packages_distributions()
    modules = [owners[module] for module in extras.EXTRAS["train"]]
    assert {canonicalize_name(n) for n in names} == {canonicalize_name(m[0]) for m in modules}


@pytest.mark.parametrize(
    "command",
    "bench data doctor embed evaluation explore fisher idt ingest interop label-efficiency main "
    "predict".split(),
)
def test_help_needs_no_extra(base, command, tmp_path):
    done = _run(base, command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and command.replace("-", "_")[:5] in done.stdout.replace("-", "_")


@pytest.mark.parametrize(
    "command",
    [
        "main --config=la_idt.py:smoke --workdir=run",
        "embed --checkpoint run --manifest VIDEOS --out f.npz",
        "predict --checkpoint run --manifest VIDEOS --out f.csv",
        "label-efficiency --manifest VIDEOS --label motion --checkpoint a=run --out labels",
        "interop export run --out out",
        "data show VIDEOS out.png",
        "bench step",
        "bench compile",
    ],
)
def test_a_command_names_the_extra_in_one_line(base, videos, command, tmp_path):
    done = _run(base, *command.replace("VIDEOS", str(videos)).split(), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(ADVICE) and "Traceback" not in done.stderr
    assert "videos cannot be used" not in done.stderr


def test_loading_a_network_names_the_extra(base, tmp_path):
    code = "import vcjax; vcjax.load('run')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=base, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("vcjax.runtime.extras.MissingExtraError: flax")


def test_a_library_that_no_extra_has_is_named_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="no_such_library"), extras.explained():
        import no_such_library  # noqa: F401


@pytest.mark.slow
def test_videos_are_explored(base, videos, tmp_path):
    done = _run(base, "explore", videos, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "explore" / "report.json").read_text())
    assert {"looks", "motion"} <= report["models"].keys()
    done = _run(base, "doctor", "run", cwd=tmp_path)
    assert "complete" in done.stdout and "Traceback" not in done.stderr


def test_doctor_verifies_checkpoints(base, tmp_path):
    def train(directory):
        (directory / "checkpoints" / "1").mkdir(parents=True)
        (directory / "checkpoints" / "1" / "checksums.json").write_text("{")

    stage_cache.run([stage_cache.Stage("ir", {}, (), train)], tmp_path)
    done = _run(base, "doctor", tmp_path, cwd=tmp_path)
    assert "1 files are damaged or missing" in done.stdout, done.stderr
