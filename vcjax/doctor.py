"""Diagnosis of this machine and of the files of a run, with advice for every problem.

python -m vcjax.doctor [FOLDER]

FOLDER is the folder of a run, a collection, or a folder of prepared shards. All of its files are
read and verified. The exit code is 1 if a file is damaged or missing, or if this machine lacks a
requirement.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from vcjax.data import manifest as manifests
from vcjax.data import shards
from vcjax.ingest.collection import Collection
from vcjax.runtime import checksums, filesystem, npz, progress

_SET_ASIDE = (".previous", ".swapped")  # suffixes of results that a redone stage moved away
_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")


class Finding(NamedTuple):
    """One line of the report: a subject, its state, and advice if something is wrong."""

    subject: str
    state: str
    advice: str = ""
    bad: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and exit with 1 if any finding is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="folder of a run, a collection or prepared shards"
    )
    options = parser.parse_args(arguments)
    if options.folder and not options.folder.is_dir():
        sys.exit(f"vcjax.doctor: {options.folder}: no such folder")
    print("This machine")
    findings = _printed(machine())
    if options.folder:
        print(f"\n{options.folder}")
        findings += _printed(folder(options.folder))
    sys.exit(int(any(finding.bad for finding in findings)))


def _printed(findings: Iterator[Finding]) -> list[Finding]:
    """Print each finding as soon as it is made, and return all of them."""
    printed = []
    for finding in findings:
        print(f"  {finding.subject:12}{finding.state}", flush=True)
        if finding.advice:
            print(f"  {'':12}-> {finding.advice}", flush=True)
        printed.append(finding)
    return printed


def machine() -> Iterator[Finding]:
    """Yield findings on the system, the devices, the video decoders and the packages."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("system", f"Python {platform.python_version()}, {platform.platform(terse=True)}")
    yield Finding("processor", f"{cores} cores, {_memory()}")
    yield _devices()
    yield _decoders()
    yield from packages()


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE")
    total, free = (size * os.sysconf(f"SC_{kind}") for kind in ("PHYS_PAGES", "AVPHYS_PAGES"))
    return f"{_gigabytes(total)} of memory, {_gigabytes(free)} free"


def _devices() -> Finding:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        advice = "install a jaxlib that supports this machine"
        return Finding("devices", f"JAX finds no device: {reason}", advice, bad=True)
    named = []
    for device in devices:
        limit = (device.memory_stats() or {}).get("bytes_limit")
        named.append(f"{device.device_kind}" + (f" with {_gigabytes(limit)}" if limit else ""))
    shown = ", ".join(f"{named.count(name)} x {name}" for name in dict.fromkeys(named))
    unused = devices[0].platform == "cpu" and shutil.which("nvidia-smi")
    advice = "JAX does not use the GPU: pip install 'vcjax[cuda]'" if unused else ""
    return Finding("devices", f"{shown} ({devices[0].platform})", advice)


def _decoders() -> Finding:
    import av

    available = [name for name in _CODECS if _has_decoder(name)]
    missing = [name for name in ("h264", "mpeg4") if name not in available]
    return Finding(
        "decoders",
        f"{', '.join(available)} by PyAV {av.__version__}",
        f"many videos need {missing[0]}: pip install av" if missing else "",
        bad=bool(missing),
    )


def _has_decoder(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "r"))
    except ValueError:
        return False


def packages(name: str = "vcjax") -> Iterator[Finding]:
    """Yield findings on the installed requirements and extras of the distribution `name`."""
    unmet = _unmet(name, "")
    state = "; ".join(unmet) or "all requirements are installed"
    yield Finding("packages", state, f"pip install --upgrade {name}" if unmet else "", bool(unmet))
    extras = sorted(metadata.metadata(name).get_all("Provides-Extra") or [])
    lacking = {extra: unmet for extra in extras if (unmet := _unmet(name, extra))}
    yield Finding("extras", ", ".join(e for e in extras if e not in lacking) or "none")
    if lacking:
        shown = ", ".join(f"{extra} ({unmet[0]})" for extra, unmet in lacking.items())
        yield Finding("", f"without {shown}", f"pip install '{name}[EXTRA]' if you need an extra")


def _unmet(name: str, extra: str) -> list[str]:
    """Return one text per unmet requirement of `name`, or only of its `extra` if not empty."""
    from packaging.requirements import Requirement

    unmet = []
    for required in map(Requirement, metadata.requires(name) or []):
        marker = required.marker
        if marker and not marker.evaluate({"extra": extra}):
            continue
        if bool(extra) != bool(marker and "extra" in str(marker)):
            continue
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"no {required.name}")
            continue
        if not required.specifier.contains(version, prereleases=True):
            unmet.append(f"{required.name} {version} is not {required.specifier}")
        for inner in required.extras:
            unmet += _unmet(required.name, inner)
    return unmet


def folder(path: Path) -> Iterator[Finding]:
    """Yield findings on the folder of a run, a collection or a folder of prepared shards."""
    free = shutil.disk_usage(path).free
    yield Finding("disk", f"{_gigabytes(free)} free", "" if free > 1e9 else "free disk space")
    if not os.access(path, os.W_OK):
        yield Finding("access", "the folder is not writable", "allow writing to it", bad=True)
    if Collection.exists(path):
        yield from _collection(path)
        return
    if (path / manifests.INDEX).is_file():
        yield from _prepared(path)
        return
    records = sorted(path.glob("*/stage*.json"), key=lambda record: record.stat().st_mtime)
    # in the order of the run
    names = {r.parent.name: None for r in records if r.parent.suffix not in _SET_ASIDE}
    if not names:
        yield Finding("stages", "no stage has started in this folder")
    for name in names:
        yield _stage(path, name)
    yield from _videos(path / "manifest" / "manifest.tsv")
    yield from _features(path / "features")
    for directory in sorted(p for p in path.iterdir() if p.suffix in _SET_ASIDE):
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        shown = f"result of earlier settings, {_gigabytes(size)}"
        yield Finding(directory.name, shown, "remove it if you do not need it")
    if left := list(path.rglob("*.tmp")):
        shown = f"{len(left)} temporary files, first {left[0]}"
        yield Finding("leftovers", shown, "remove them if no run is active")


def _stage(workdir: Path, name: str) -> Finding:
    from vcjax.runtime import stage_record  # imported late, for a fast --help

    directory = workdir / name
    again = "remove damaged files and run again to rebuild them"
    for problem in _record_problems(directory):
        return Finding(name, problem, again, bad=True)
    record = stage_record.read(directory)
    broken = [*stage_record.damaged(workdir, record), *_damaged_checkpoints(directory)]
    if Collection.exists(directory / "collection"):
        collection = Collection.open(directory / "collection")
        broken += collection.damaged(collection.variants(), whole=True)
    if broken:
        shown = f"{len(set(broken))} files are damaged or missing, first {broken[0]}"
        return Finding(name, shown, again, bad=True)
    if stale := _stale(workdir, record):
        return Finding(name, f"stale: input {stale} has changed", "run again to redo the stage")
    if not record.get("complete"):
        return Finding(name, _progress(directory), "run again to resume")
    if stage_record.without_checkpoints(directory, record):
        return Finding(
            name, "complete, without its checkpoints", f"--stages={name} makes them again"
        )
    return Finding(name, "complete")


def _videos(table: Path) -> Iterator[Finding]:
    try:
        manifest = manifests.load(table)
    except manifests.ManifestError:  # no table yet, or a damaged one, which has a finding
        return
    files = {shards.file_of(path) for path in manifest.paths if not filesystem.is_remote(path)}
    if missing := sorted(file for file in files if not os.path.exists(file)):
        shown = f"{len(missing)} of {len(files)} files do not exist, first {missing[0]}"
        advice = f"restore them, or remove {table.parent / 'stage.json'} and run again"
        yield Finding("videos", shown, advice, bad=True)
    else:
        yield Finding("videos", f"{len(manifest)} videos")


def _features(directory: Path) -> Iterator[Finding]:
    for path in sorted(directory.glob("*.npz")):
        if npz.read(path) is None:
            advice = "remove it; the next evaluation computes it again"
            yield Finding("features", f"{path}: damaged", advice, bad=True)


def _record_problems(directory: Path) -> Iterator[str]:
    for path in (directory / "stage.json", directory / "stage.previous.json"):
        try:
            checksums.read_json(path)
        except FileNotFoundError:
            continue
        except checksums.DamagedError as error:
            yield str(error)


def _damaged_checkpoints(directory: Path) -> list[Path]:
    from vcjax.runtime import checkpoint_files

    folders = directory.rglob("checkpoints")
    return [
        path
        for folder in folders
        for step in checkpoint_files.committed(folder)
        for path in checkpoint_files.damaged(step)
    ]


def _stale(workdir: Path, record: dict) -> str:
    """Return the first input stage whose result has changed since `record`, or ""."""
    from vcjax.runtime import stage_record

    for name, digest in record.get("inputs", {}).items():
        now = stage_record.read(workdir / name)
        if now.get("complete") and now["digest"] != digest:
            return name
    return ""


def _progress(directory: Path) -> str:
    from vcjax.runtime import stage_record

    steps = stage_record.steps(directory)
    return "incomplete" + (f", checkpoint of step {steps[-1]}" if steps else "")


def _collection(path: Path) -> Iterator[Finding]:
    collection = Collection.open(path)
    try:
        yield Finding("index", f"{len(collection.manifest())} videos")
    except manifests.ManifestError as error:
        yield Finding("index", str(error), bad=True)
    for variant in collection.variants():
        yield Finding("vectors", variant.describe())
    broken = list(collection.damaged(collection.variants(), whole=True))
    for file in broken:
        advice = "remove it and run vcjax ingest again"
        yield Finding("file", f"{file}: missing or damaged", advice, bad=True)
    if not broken:
        yield Finding("files", "all shards and vectors are intact")


def _prepared(path: Path) -> Iterator[Finding]:
    try:
        manifest = manifests.read(path)
    except manifests.ManifestError as error:
        yield Finding("index", str(error), bad=True)
        return
    places = [place for p in manifest.paths if (place := shards.parse(p))]
    yield Finding("index", f"{len(manifest)} videos in {len({p.shard for p in places})} shards")
    broken = {}
    for place in progress.bar(places, desc="shards", unit="video"):
        try:
            shards.check(place)
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            broken[place.shard] = str(error).partition("\n")[0]
    for shard, reason in broken.items():
        yield Finding("shard", f"{shard}: {reason}", "remove it and prepare again", bad=True)
    if not broken:
        yield Finding("shards", "all records are intact")


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
