"""Every command of the README and the docs is one that the programs take."""

import argparse
import ast
import importlib
import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import vcjax.main  # noqa: F401 - defines the flags
from vcjax import __main__ as console
from vcjax.data import clusters
from vcjax.runtime import config_flags

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands():
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split(" && "):
                    words = command.split()
                    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                        words.pop(0)
                    if words[:2] == ["python", "-m"] or words[:1] == ["vcjax"]:
                        yield pytest.param(command, id=f"{page.name}: {command}"[:90])
                    elif words and words[0].startswith("launch/"):
                        yield pytest.param(command, id=f"{page.name}: {command}"[:90])


COMMANDS = list(_commands())


def test_there_are_commands_on_the_pages():
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_taken(command, monkeypatch):
    words = shlex.split(command, comments=True)
    variables = {}
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    if words[0].startswith("launch/"):
        _check_launched(words, variables)
        return
    words = words[2:] if words[0] == "python" else words[1:]
    module, arguments = words[0].removeprefix("vcjax."), words[1:]
    if module == "pytest":
        return
    if module == "main":
        _check_run(arguments)
    else:
        assert module in console.commands(), module
        _check_parsed(console.commands()[module][0], arguments, monkeypatch)


def _check_launched(words, variables):
    script = ROOT / words[0]
    assert script.exists()
    for name in variables:
        assert re.search(rf'"\${{{name}:?=', script.read_text()), name
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    again = [w for w in words[1:] if w != "--dry-run"]
    subprocess.run(["bash", script, "--dry-run", *again], env=kept | variables, check=True)


def _check_run(arguments):
    """Flags, experiment, variants and settings of vcjax.main are there."""
    found = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        found[name] = value
        assert name in flags.FLAGS or name.startswith("config."), argument
    file, _, variant = config_flags.find(found["config"]).partition(":")
    config = runpy.run_path(file)["get_config"](variant)
    for name in (n.removeprefix("config.") for n in found if n.startswith("config.")):
        inner = config
        for part in name.split("."):
            assert isinstance(inner, ConfigDict) and part in inner, name
            inner = inner[part]
    assert set(filter(None, found.get("stages", "").split(","))) <= set(config.stages)
    assert "workdir" in found


class _Taken(Exception):
    pass


def _check_parsed(module, arguments, monkeypatch):
    """The module's own parser takes the arguments; nothing is run."""
    parse, depth = argparse.ArgumentParser.parse_known_args, [0]

    def parse_and_stop(parser, *given, **options):
        depth[0] += 1
        found = parse(parser, *given, **options)
        depth[0] -= 1
        if depth[0] == 0:
            settings = [a for a in found[1] if a.startswith("--config.")]
            assert found[1] in ([], settings) or "beam" in arguments, found[1]
            raise _Taken
        return found

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    try:
        program = importlib.import_module(f"{module}.__main__")
    except ModuleNotFoundError:
        program = importlib.import_module(module)
    with pytest.raises(_Taken):
        program.main(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def _defined(path):
    """Names that a module defines at its top, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_readme_names_functions_where_they_are():
    text = (ROOT / "README.md").read_text()
    entries = re.findall(r"\]\(([\w/]+\.py)\): ((?:`[\w.]+`(?:, (?=`))?)+)", text)
    assert len(entries) > 20
    for path, names in entries:
        missing = set(re.findall(r"`([\w.]+)`", names)) - _defined(ROOT / path)
        assert not missing, (path, missing)


def test_the_messages_of_troubleshooting_are_printed_by_the_programs():
    files = [f for folder in ("vcjax", "fisher") for f in (ROOT / folder).rglob("*.py")]
    source = "".join(re.sub(r'"\s*\n\s*f?"', "", f.read_text("utf-8")) for f in files)
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^### `(.*)`$", page, re.M)
    assert len(messages) > 20
    for message in messages:
        for part in filter(str.strip, message.split("...")):
            assert part in source, message


@pytest.mark.filterwarnings("ignore")  # of FiftyOne and its libraries
def test_the_example_of_fiftyone_reads_a_run(tmp_path):
    try:
        fiftyone = importlib.import_module("fiftyone")
        fiftyone.list_datasets()  # starts the database
    except Exception as error:  # it is not installed, or has no database
        pytest.skip(f"no FiftyOne: {error}")
    page = (ROOT / "docs" / "explore.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(import fiftyone.*?)```", page, re.S)
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"video")
    explored = tmp_path / "run" / "explore"
    explored.mkdir(parents=True)
    np.savez(explored / "vectors.npz", video_id=np.array(["a", "b"]), motion=np.eye(2))
    labels, everywhere = np.array([[0, 1]]), np.ones(2, bool)
    table = clusters.table("motion", ("a", "b"), labels, np.zeros((1, 2)), everywhere)
    clusters.write(explored / "clusters.csv", [table])
    names = {"VIDEOS": str(tmp_path / "videos"), "RUN": str(tmp_path / "run")}
    exec(code, names)
    dataset = names["dataset"]
    assert isinstance(dataset, fiftyone.Dataset) and len(dataset) == 2
    sample = dataset.match({"video_id": "b"}).first()
    assert sample["motion_cluster"].label == "1" and list(sample["motion_vector"]) == [0, 1]
    dataset.delete()


def test_pictures_of_the_docs_are_small():
    pictures = list((ROOT / "docs").glob("*.png"))
    assert pictures and all(picture.stat().st_size < 300_000 for picture in pictures)
