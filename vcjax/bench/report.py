"""All measurements of a GPU in one call of a few minutes: `python -m vcjax.bench report`.

Each part runs in its own process with its own time limit, so that a part that fails, or takes too
long, loses only its own line. The results are printed and written to a JSON file as they come.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

Result = dict[str, Any]

_TINY_SHAPE = (4, 4, 16, 8)  # of the step: clips, frames, side in pixels, width
_TRAINING_SECONDS = 120
_TINY_TRAINING_SECONDS = 8
# In a dry run most of the time is compilation.
_TINY_XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_KILL_SECONDS = 30  # for the training to write its checkpoint
_MIN_SECONDS = 10  # a part is not started with less time left
_TAIL = 30  # lines of a failed part's messages that are kept
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "grain", "av")
# Sizes of the benchmarks in a dry run: {module: {constant: value}}
_TINY: dict[str, dict[str, Any]] = {
    "_timing": {"_SECONDS": 0.0, "_SIDE_ON_CPU": 256, "_VALUES_ON_CPU": 1 << 16},
    "la_loss": {
        "NUM_ROWS": 4000,
        "NUM_MANY": 8192,
        "BATCH": 16,
        "NUM_BACKGROUND": 64,
        "NUM_CANDIDATES": 2048,
        "NUM_CLUSTERS": 120,
    },
    "gmm": {"NUM_ROWS": 5000, "NUM_COMPONENTS": 16},
    "fisher": {"NUM_ROWS": 1000, "NUM_COMPONENTS": 16, "NUM_VIDEOS": 2},
    "input": {"_NUM_VIDEOS": 2, "_NUM_FRAMES": 32, "_ROUNDS": 1, "_NUM_BATCHES": 6},
}


class Options(NamedTuple):
    """Options of the command that its parts share."""

    tiny: bool
    shards: str  # prepared folder to train on; "": videos are rendered and prepared


class Part(NamedTuple):
    """A measurement in a process of its own."""

    name: str
    seconds: float  # time limit; the first compilation of a network takes over 45 s on a GPU
    run: Callable[[Options], Iterable[Result]]
    xla_flags: str = ""


def parts() -> list[Part]:
    """Return all parts in order of importance, since the last ones may find no time left."""
    return [
        Part("peaks", 45, _peaks),
        _step("la"),
        _step("la", layout="default"),
        Part("step, PyTorch", 100, _torch_step),
        Part("training", _TRAINING_SECONDS + 75, _training),
        Part("la_loss", 45, functools.partial(_cases, "la_loss")),
        Part("kmeans 128", 40, functools.partial(_kmeans, 128)),
        Part("kmeans 2128", 60, functools.partial(_kmeans, 2128)),
        Part("gmm", 45, functools.partial(_cases, "gmm")),
        Part("fisher", 40, functools.partial(_cases, "fisher")),
        Part("input", 60, functools.partial(_cases, "input")),
        _step("ir"),
        _step("la", stem="plain"),
        _step("la", pool="window"),
        _step("la", layout="default", stem="plain", pool="window"),
        _step("ir", layout="default", stem="plain", pool="window"),
    ]


def main(arguments: Sequence[str]) -> None:
    """Run the parts, print a line per result, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m vcjax.bench report")
    parser.add_argument("--json", type=Path, default=Path("report.json"), help="file to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of all parts")
    parser.add_argument("--parts", default="", help="comma-separated beginnings of names of parts")
    parser.add_argument("--shards", default="", help="prepared folder; default: rendered videos")
    parser.add_argument("--tiny", action="store_true", help="dry run with tiny sizes")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # results of one part
    given = parser.parse_args(arguments)
    options = Options(given.tiny, given.shards)
    if given.child:
        _run_here(given.parts, options, given.child)
        return
    begins = tuple(filter(None, given.parts.split(","))) or ("",)
    chosen = [part for part in parts() if part.name.startswith(begins)]
    if not chosen:
        parser.error(f"no part begins with {given.parts!r}: {[part.name for part in parts()]}")
    end = time.monotonic() + 60 * given.minutes
    report: Result = {"machine": machine(), "tiny": options.tiny, "parts": []}
    print(json.dumps(report["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            measured = run(part, options, Path(folder), end - time.monotonic())
            report["parts"].append(measured)
            given.json.write_text(json.dumps(report, indent=1) + "\n")
            print("\n".join(_lines(measured)), flush=True)


def machine() -> Result:
    """Return the GPU as its driver names it, and the versions of Python and packages."""
    gpu = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv"]
        gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"gpu": gpu, "cpus": os.cpu_count(), "python": platform.python_version()} | versions


def run(part: Part, options: Options, folder: Path, seconds_left: float) -> Result:
    """Return the results of a part that runs in another process.

    Args:
        part: Part to run.
        options: Options of the command.
        folder: Folder for results and for compiled programs, which the parts share.
        seconds_left: Time that is left for all parts.

    Returns:
        A dict of `part`; `status`: ok, failed, time limit or no time left; `seconds`; `results`, a
        list of dicts; and `log`, the last messages of a part that is not ok.
    """
    measured: Result = {"part": part.name, "status": "no time left", "seconds": 0.0, "results": []}
    if seconds_left < _MIN_SECONDS:
        return measured
    results = folder / "results.jsonl"
    results.write_text("")
    command = [sys.executable, "-m", "vcjax.bench", "report", "--child", str(results)]
    command += ["--parts", part.name, "--shards", options.shards, *["--tiny"] * options.tiny]
    begin = time.monotonic()
    with open(folder / "log", "w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=_environment(part, options, folder),
            start_new_session=True,
        )
        try:
            returned = process.wait(min(part.seconds, seconds_left))
            measured["status"] = "failed" if returned else "ok"
        except subprocess.TimeoutExpired:
            measured["status"] = "time limit"
        finally:
            with contextlib.suppress(ProcessLookupError):  # its own processes as well
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        if measured["status"] != "ok":
            measured["log"] = log.read().splitlines()[-_TAIL:]
    measured["seconds"] = round(time.monotonic() - begin, 1)
    lines = results.read_text().splitlines(keepends=True)
    measured["results"] = [json.loads(line) for line in lines if line.endswith("\n")]
    return measured


def _environment(part: Part, options: Options, folder: Path) -> dict[str, str]:
    flags = [os.environ.get("XLA_FLAGS", ""), part.xla_flags, _TINY_XLA_FLAGS * options.tiny]
    # JAX keeps the results of autotuning with the compiled programs.
    defaults = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return defaults | os.environ | {"XLA_FLAGS": " ".join(flags).strip()}


def _run_here(name: str, options: Options, results: Path) -> None:
    from vcjax.runtime import xla_flags

    xla_flags.set_defaults()
    if options.tiny:
        _shrink("_timing")
    (part,) = [part for part in parts() if part.name == name]
    with results.open("a") as file:
        for result in part.run(options):
            file.write(json.dumps(result) + "\n")
            file.flush()


def _lines(measured: Result) -> Iterator[str]:
    yield f"{measured['part']}: {measured['status']} ({measured['seconds']} s)"
    for result in measured["results"]:
        text = result.get("case", "")
        if "ours_s" in result:
            text += f": {1e3 * result['ours_s']:.4g} ms"
        if "ratio" in result:
            text += f", {result['ratio']:.2f} of {result['peer']}"
        numbers = result.get("numbers", {})
        yield "    " + ", ".join([*filter(None, [text]), *(f"{k} {v}" for k, v in numbers.items())])
        for kernel in result.get("kernels", ()):
            yield f"        {kernel['share']:.1%} in {kernel['name'][:60]}, {kernel['source']}"
    yield from (f"    | {line}" for line in measured.get("log", [])[-3:])


def _shrink(name: str) -> Any:
    """Return the benchmark `name` with the sizes of a dry run."""
    module = importlib.import_module(f"vcjax.bench.{name}")
    for constant, value in _TINY[name].items():
        setattr(module, constant, value)
    return module


def _peaks(options: Options) -> Iterator[Result]:
    import jax

    from vcjax.bench import _timing

    for dtype in ("bfloat16", "float32"):
        peaks = _timing.peaks(dtype)
        yield {
            "case": f"peaks of {jax.devices()[0].device_kind}, {dtype}",
            "numbers": {
                "matmul_tflops": round(peaks.flops / 1e12, 2),
                "memory_gb_per_second": round(peaks.bandwidth / 1e9, 1),
            },
        }


def _cases(name: str, options: Options) -> Iterator[Result]:
    module = _shrink(name) if options.tiny else importlib.import_module(f"vcjax.bench.{name}")
    yield from module.cases()


def _kmeans(dim: int, options: Options) -> Iterator[Result]:
    from vcjax.bench import kmeans

    num_points, num_clusters = (500, 20) if options.tiny else (235_000, 6000)
    yield from kmeans.cases((num_points, dim, num_clusters))


def _step(stage: str, *, layout: str = "last", stem: str = "blocks", pool: str = "axes") -> Part:
    """Return the part of a training step in one form.

    Args:
        stage: Section of the config, "ir" or "la".
        layout: Layout of convolutions: channels "last", or XLA's "default".
        stem: Convolution of the stem: "blocks" of 2x2 pixels as channels, or "plain".
        pool: Max-pool: "axes" in turn, or a "window" reduction.
    """
    return Part(
        f"step {stage}, layout {layout}, stem {stem}, pool {pool}",
        90,
        functools.partial(_form_of_step, stage, stem, pool),
        f"--xla_gpu_force_conv_nhwc={'true' if layout == 'last' else 'false'}",
    )


def _form_of_step(stage: str, stem: str, pool: str, options: Options) -> Iterator[Result]:
    from vcjax.bench import step
    from vcjax.models import conv3d

    stems = {"blocks": conv3d.space_to_depth, "plain": conv3d.native}
    pools = {"axes": conv3d.separable_max_pool, "window": conv3d.native_max_pool}

    def convolve(clips: Any, kernel: Any, stride: conv3d.Stride) -> Any:
        form = stems[stem] if stride == (1, 2, 2) else conv3d.native
        return form(clips, kernel, stride)

    conv3d.conv3d, conv3d.max_pool = convolve, pools[pool]
    yield step.measured(*_shape(options), stage=stage)


def _torch_step(options: Options) -> Iterator[Result]:
    if not importlib.util.find_spec("torch"):
        yield {"case": "torch is not installed"}
        return
    import torch

    from vcjax.bench import _torch

    shape = _shape(options)
    seconds = _torch.seconds(*shape)
    form = "bf16, channels_last_3d" if torch.cuda.is_available() else "float32"
    yield {
        "case": f"PyTorch {torch.__version__}, compiled, {form}, {shape}",
        "ours_s": seconds,
        "numbers": {"clips_per_second": round(shape[0] / seconds, 1)},
    }


def _shape(options: Options) -> tuple[int, ...]:
    from vcjax.bench import step

    return _TINY_SHAPE if options.tiny else step.ON_GPU[0]


def _training(options: Options) -> Iterator[Result]:
    """Train by instance recognition from shards, then yield the loss curve and rates."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shards = options.shards or _rendered_shards(root, 32 if options.tiny else 640)
        _train(shards, root, options)
        lines = (root / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "loss" in line]
    steady = logged[len(logged) // 4 :]  # the first lines contain the compilation

    def mean(name: str) -> float:
        return round(sum(line[name] for line in steady) / len(steady), 3)

    yield {
        "case": "training, instance recognition from shards",
        "numbers": {
            "steps": logged[-1]["step"],
            "first_loss": logged[0]["loss"],
            "last_loss": logged[-1]["loss"],
            "clips_per_second": mean("clips_per_second"),
            "input_wait_fraction": mean("input_wait_fraction"),
        },
        "loss": [[line["step"], line["loss"]] for line in logged],
    }


def _rendered_shards(root: Path, num_videos: int) -> str:
    from vcjax.data import manifest, prepare, synthetic

    workers = os.cpu_count() or 1
    table = synthetic.render(root / "videos", num_videos=num_videos, seed=0, num_workers=workers)
    read = manifest.read(table)
    how: dict[str, Any] = {"num_workers": workers, "on_error": "error"}
    prepare.prepare(read, root / "shards", side=128, codec="jpeg", **how)
    return str(root / "shards")


def _train(shards: str, root: Path, options: Options) -> None:
    """Run `vcjax.main`, and stop it some time after its first step, as a preemption would."""
    from vcjax.data import manifest

    num_videos = len(manifest.read(shards))
    batch_size = 8 if options.tiny else min(256, max(8, num_videos // 64 * 8))
    settings: dict[str, Any] = {
        "data.manifest": shards,
        "data.verify": "header",
        "data.num_workers": 0 if options.tiny else max(1, (os.cpu_count() or 1) - 3),
        "ir.batch_size": batch_size,
        "ir.epochs": 100_000,
        "ir.num_negatives": min(4096, num_videos // 3),
        "ir.validate_epochs": 100_000,
        "ir.checkpoint_steps": 100_000,
        "log_steps": 10,
    }
    if options.tiny:
        settings |= {"clip.num_frames": 4, "clip.side": 16, "model.width": 8}
    command = [sys.executable, "-m", "vcjax.main", "--config=ir.py", "--stages=manifest,ingest,ir"]
    command += [f"--workdir={root / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(command)
    while process.poll() is None and not (root / "run" / "metrics.jsonl").exists():
        time.sleep(0.5)  # compilation; the part has a time limit of its own
    try:
        process.wait(_TINY_TRAINING_SECONDS if options.tiny else _TRAINING_SECONDS)
        raise RuntimeError(f"the training ended with exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(_KILL_SECONDS)
