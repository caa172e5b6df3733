"""Compile the programs of a config for accelerators that are not there: does the run fit?

    python -m vcjax.bench compile --target=v5e:16x16 --config=configs/la_idt.py:frames32

TARGET is a slice of TPUs (v4:2x2x1, v5e:2x4, v5p:2x2x2, v6e:4x4; extra `aot`) or a number of GPUs
(h100x8; extra `cuda13`). For the training step of each stage of the config, and for its K-means,
the command prints the memory per device, operations, bytes, collectives and the largest copies, the
time that operations or bytes take at the peaks of the chip's data sheet and, for TPUs, the time
that XLA estimates. For GPUs the bytes are an upper bound: whole operands and results of kernels.

A compilation takes minutes of CPU. --effort=-1 shortens it for TPUs: the collectives are the same,
the memory is an upper bound, and there is no estimate of the time.
"""

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, config_flags

from vcjax import settings
from vcjax.bench import _hlo, _targets, la_loss
from vcjax.clustering import kmeans
from vcjax.objectives import inverted_file
from vcjax.runtime import config_flags as config_paths
from vcjax.runtime import sharding
from vcjax.training import step as steps

_RESERVED = 0.03  # fraction of the memory that the runtime keeps for itself
_NUM_LARGEST = 3  # copies that are listed
# without work of their own
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "copy-done"}
_FREE |= {"partition-id", "async-done", "iota", *(f"{kind}-done" for kind in _hlo.COLLECTIVES)}


class Program(NamedTuple):
    """A program to compile."""

    name: str
    lowered: jax.stages.Lowered
    flops: float = 0.0  # per device; 0: as XLA counts them in the compiled program
    num_bytes: float = 0.0  # likewise
    in_float32: bool = False  # the operations are at full float32 precision


class Report(NamedTuple):
    """Facts about a compiled program, per device; times in seconds, sizes in bytes."""

    name: str
    target: str
    num_devices: int
    memory: int
    arguments: int  # part of the memory
    temporaries: int  # part of the memory
    available: float
    flops: float
    accessed: float  # bytes read and written
    roofline: float  # time of `flops` or of `accessed` at the peaks of the chip, the longer one
    estimate: float | None  # time by XLA
    launches: int  # operations that are executed
    collectives: dict[str, int]
    collective_bytes: int
    largest_collective: int
    copies: list[tuple[int, str]]  # the largest: bytes, type

    @property
    def fits(self) -> bool:
        """Return True if the program fits into the memory of the chip."""
        return self.memory <= (1 - _RESERVED) * self.available


def main(arguments: Sequence[str]) -> None:
    """Compile the programs, print the reports, and exit with 1 if a program does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.bench compile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="la_idt.py", help="FILE.py[:VARIANT]")
    parser.add_argument("--target", default="v5e:2x4", help="devices, e.g. v5e:16x16, h100x8")
    parser.add_argument("--videos", type=int, default=la_loss.NUM_ROWS, help="training videos")
    parser.add_argument("--programs", default="", help="only these, e.g. ir,la,la-kmeans")
    parser.add_argument("--effort", type=float, default=0.0, help="of XLA to optimize; -1: least")
    parser.add_argument("--json", type=Path, help="file to write, a JSON line per program")
    parser.add_argument("--hlo", default="", help="folder for the text of the programs")
    options, overrides = parser.parse_known_args(arguments)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    config_paths.parse(["compile", f"--config={options.config}", *overrides], values)
    only = [name for name in options.programs.split(",") if name]
    # Only the compiler is used: devices of this machine stay free.
    jax.config.update("jax_platforms", "cpu")
    lines, fits = [], True
    try:
        for program in programs(config.value, options.target, options.videos, only=only):
            try:
                report = compiled(
                    program, options.target, effort=options.effort, folder=options.hlo
                )
            except MemoryError as error:
                print(f"{program.name}: {error}", flush=True)
                fits = False
                continue
            print(_text(report), flush=True)
            lines.append(json.dumps(report._asdict() | {"fits": report.fits}) + "\n")
            fits &= report.fits
    except ValueError as error:
        sys.exit(f"vcjax: {error}")
    if options.json:
        options.json.write_text("".join(lines))
    print(f"The run {'fits' if fits else 'does not fit'} on {options.target}.")
    sys.exit(0 if fits else 1)


def programs(
    config: ConfigDict, target: str, num_videos: int, *, only: Sequence[str] = ()
) -> Iterator[Program]:
    """Yield the programs of the training stages of `config`, each different program once.

    Args:
      config: Settings of the run.
      target: Devices, as in `_targets.target`.
      num_videos: Number of training videos.
      only: Names of programs, a stage or STAGE-kmeans; empty: all.
    """
    mesh = _targets.target(target).mesh
    config = config.copy_and_resolve_references()
    if config.model.dtype == "auto":
        config.model.dtype = "bfloat16"
    names = only or [f"{name}{suffix}" for name in config.stages for suffix in ("", "-kmeans")]
    done = set()
    for name in settings.TRAINING_STAGES:
        stage = config[name]
        if name in names and _kind(stage) not in done:
            done.add(_kind(stage))
            flops = 0.0
            if mesh.devices.flat[0].platform == "gpu":  # XLA counts none in a program for GPUs
                traced = _step(config, name, num_videos, sharding.make(1))
                count: Any = traced.lower(lowering_platforms=("cuda",)).cost_analysis()
                flops = count["flops"] / mesh.size
            yield Program(name, _step(config, name, num_videos, mesh).lower(), flops)
        if "source" in stage and f"{name}-kmeans" in names:
            yield _kmeans(f"{name}-kmeans", config, stage.source, num_videos, mesh)


def _kind(stage: ConfigDict) -> str:
    """Return a text that is equal for stages whose training steps are the same program."""
    names = "objective estimator num_negatives num_background num_candidates batch_size "
    names += "accumulation_steps"
    return str([stage.get(name) for name in names.split()])


def _step(
    config: ConfigDict, name: str, num_videos: int, mesh: jax.sharding.Mesh
) -> jax.stages.Traced:
    """Return the training step of the stage `name`, traced from shapes alone."""
    stage = config[name]
    sizes = settings.resolve(config, name, num_videos, num_devices=mesh.size)
    optimizer, _ = steps.optimizer(stage, config.epochs_scale, sizes.steps_per_epoch)
    graphdefs = []

    def state() -> steps.TrainState:
        graphdef, state = steps.initial_state(config, optimizer, num_videos, mesh)
        graphdefs.append(graphdef)
        if stage.get("num_candidates"):
            cells = inverted_file.empty(sizes.num_cells, state.bank, mesh)
            state = state._replace(cells=cells)
        return state

    replicated, rows, columns = P(), P(sharding.AXIS), P(None, sharding.AXIS)
    shapes = jax.eval_shape(state)
    cells = shapes.cells
    if cells is not None:
        specs = zip(cells, inverted_file.SPECS, strict=True)
        cells = inverted_file.InvertedFile(*(_placed(x, mesh, spec) for x, spec in specs))
    shapes = steps.TrainState(
        _placed(shapes.params, mesh, replicated),
        _placed(shapes.statistics, mesh, replicated),
        _placed(shapes.optimizer, mesh, replicated),
        _placed(shapes.bank, mesh, rows),
        _placed(shapes.labels, mesh, columns),
        cells,
    )
    clip = config.clip
    batch = {
        "clip": ((stage.batch_size, clip.num_frames, clip.side, clip.side, 3), jnp.uint8),
        "key": ((stage.batch_size,), jnp.uint32),
        "index": ((stage.batch_size,), jnp.int32),
    }
    step: Any = steps.make(
        graphdefs[0],
        optimizer,
        config,
        stage,
        num_videos,
        mesh,
        num_background=sizes.num_background,
    )
    return step.trace(
        shapes,
        {k: _array(mesh, rows, *v) for k, v in batch.items()},
        _array(mesh, replicated, (), jnp.int32),
    )


def _kmeans(
    name: str, config: ConfigDict, source: str, num_videos: int, mesh: jax.sharding.Mesh
) -> Program:
    """Return a run of K-means in the space of `source`: the bank, Fisher vectors, or both."""
    bank, fisher = config.model.embedding_dim, config.fisher.sketch_dim
    dims = {"bank": [bank], "idt": [fisher], "joint": [bank, fisher]}[source]
    num_clusters = settings.num_clusters(config.clusters.num_clusters, num_videos)
    rows = -(-num_videos // mesh.size) * mesh.size
    sides = tuple(_array(mesh, P(sharding.AXIS), (rows, dim)) for dim in dims)
    iterations = config.clusters.num_iterations
    lowered = kmeans.lloyd.lower(
        sides,
        _array(mesh, P(sharding.AXIS), (rows,), jnp.bool_),
        _array(mesh, P(), (num_clusters, sum(dims))),
        num_videos,
        iterations,
        mesh,
    )
    points = (iterations + 1) * rows / mesh.size * sum(dims)  # values of points, over all passes
    return Program(name, lowered, 2 * points * num_clusters, 4 * points, in_float32=True)


def _array(
    mesh: jax.sharding.Mesh, spec: P, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def _placed(tree: Any, mesh: jax.sharding.Mesh, spec: P) -> Any:
    return jax.tree.map(lambda x: _array(mesh, spec, x.shape, x.dtype), tree)


def compiled(program: Program, target: str, *, effort: float = 0.0, folder: str = "") -> Report:
    """Compile `program` for `target` and return the facts.

    Args:
      program: Program that was lowered for the target.
      target: Devices, as in `_targets.target`.
      effort: Optimization of XLA, from -1 (least) to 1; 0: its default.
      folder: Folder for the text of the compiled program; "": the text is not kept.

    Raises:
      MemoryError: if XLA finds that the program does not fit into the memory of the devices.
    """
    mesh, chip, options = _targets.target(target)
    try:
        with _optimization(effort):
            executable: Any = program.lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from error
    text = executable.as_text()
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"{program.name}_{target.replace(':', '_')}.hlo"
        (Path(folder) / name).write_text(text)
    memory = executable.memory_analysis()
    operations = [x for x in _hlo.operations(text) if x.kind not in _FREE]
    cost = executable.cost_analysis() or {
        "bytes accessed": sum((x.num_bytes + x.num_read) * x.times for x in operations)
    }
    collectives = [x for x in operations if x.kind in _hlo.COLLECTIVES]
    counts: Counter[str] = Counter()
    for operation in collectives:
        counts[operation.kind] += operation.times
    copies = {(x.num_bytes, x.shape) for x in operations if x.kind in ("copy", "transpose")}
    cycles = sum(x.cycles * x.times for x in operations)
    flops = program.flops or cost.get("flops", 0.0)  # of a GPU, XLA counts none
    accessed = program.num_bytes or cost["bytes accessed"]
    peak = chip.float32_flops if program.in_float32 else chip.flops
    arguments = memory.argument_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Report(
        program.name,
        target,
        mesh.size,
        memory=arguments + results + memory.temp_size_in_bytes,
        arguments=arguments,
        temporaries=memory.temp_size_in_bytes,
        available=chip.memory,
        flops=flops,
        accessed=accessed,
        roofline=max(flops / peak, accessed / chip.bandwidth),
        estimate=cycles / chip.clock if cycles and effort >= 0 else None,
        launches=sum(x.times for x in operations),
        collectives=dict(counts),
        collective_bytes=sum(x.num_bytes * x.times for x in collectives),
        largest_collective=max((x.num_bytes for x in collectives), default=0),
        copies=sorted(copies, reverse=True)[:_NUM_LARGEST],
    )


@contextlib.contextmanager
def _optimization(effort: float) -> Iterator[None]:
    config: Any = jax.config
    before = config.jax_exec_time_optimization_effort
    config.update("jax_exec_time_optimization_effort", effort)
    try:
        yield
    finally:
        config.update("jax_exec_time_optimization_effort", before)


def _text(report: Report) -> str:
    """Return the report as lines for people."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.collectives.items())
    copies = ", ".join(f"{_size(num_bytes)} {shape}" for num_bytes, shape in report.copies)
    estimate = f", {1e3 * report.estimate:.2f} ms by XLA's estimate" if report.estimate else ""
    return f"""\
{report.name} on {report.num_devices} devices of {report.target}
  memory       {_size(report.memory)} of {_size(report.available)} \
({report.memory / report.available:.0%}): arguments {_size(report.arguments)}, \
temporaries {_size(report.temporaries)}
  work         {report.flops / 1e9:,.1f} GFLOP, {_size(report.accessed)} read or written, \
{report.launches:,} operations
  collectives  {kinds or "none"}; {_size(report.collective_bytes)} in all, \
the largest {_size(report.largest_collective)}
  copies       {copies or "none"}
  time         {1e3 * report.roofline:.2f} ms at the chip's peaks{estimate}"""


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"
