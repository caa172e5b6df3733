"""Trajectories of a collection by an Apache Beam pipeline, on any of its runners.

The files are those of `vcjax.idt.collection`, and what is done already stays. Workers reach videos,
boxes and the output under the same paths, on a shared or mounted file system. A video that fails
is tried again; if it fails for good, the others go on, and it is listed with the reason in
`failed.tsv` among the output.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from vcjax.idt import collection
from vcjax.runtime import worker_pool

_NAMESPACE = "vcjax.idt"
_COUNTERS = ("videos", "failed", "retries", "trajectories")
_FAILED = "failed"  # the output of videos that failed for good


class Extract(beam.DoFn):
    """Writes a video's trajectories; yields its id and their number, or a line on the failure."""

    def __init__(self, num_retries: int, wait: float) -> None:
        self._num_retries, self._wait = num_retries, wait
        self._counters = {name: Metrics.counter(_NAMESPACE, name) for name in _COUNTERS}

    def process(self, job: collection.Job) -> Iterator[Any]:
        """Tries `num_retries` times more, after `wait` seconds, twice as long each time."""
        result = worker_pool.attempt(collection.extract_one, job)
        for retry in range(self._num_retries):
            if not result.problem:
                break
            self._counters["retries"].inc()
            time.sleep(self._wait * 2**retry)
            result = worker_pool.attempt(collection.extract_one, job)
        self._counters["failed" if result.problem else "videos"].inc()
        self._counters["trajectories"].inc(result.num_found)
        if result.problem:
            collection.leave_empty(result)
            reason = " ".join(result.problem.split())
            yield beam.pvalue.TaggedOutput(_FAILED, f"{job.video_id}\t{job.video}\t{reason}")
        else:
            yield job.video_id, result.num_found


def run(
    videos: Mapping[str, str],
    directory: Path,
    *,
    matcher: str,
    people: Path | None,
    num_retries: int,
    options: Sequence[str],
    wait: float = 1.0,
) -> dict[str, int]:
    """Runs the pipeline over `videos`, files by id; the counters' values.

    `num_retries` is of a video that fails, `wait` in seconds; `options` are Beam's, such as
    --runner=DirectRunner. The others are those of `collection.extract_collection`.
    """
    directory, people = directory.absolute(), people.absolute() if people else None
    jobs = collection.jobs(videos, directory, matcher=matcher, people=people)
    pipeline = beam.Pipeline(options=PipelineOptions(list(options)))
    done = (
        pipeline
        | "videos" >> beam.Create(jobs)
        | "spread" >> beam.Reshuffle()
        | "extract" >> beam.ParDo(Extract(num_retries, wait)).with_outputs(_FAILED, main="done")
    )
    done[_FAILED] | "list failures" >> beam.io.WriteToText(
        str(directory / _FAILED),
        file_name_suffix=".tsv",
        shard_name_template="",
        header="video_id\tpath\treason",
    )
    result = pipeline.run()
    result.wait_until_finish()
    query = MetricsFilter().with_namespace(_NAMESPACE)
    counters = result.metrics().query(query)["counters"]
    found = {counter.key.metric.name: counter.result for counter in counters}
    return {name: found.get(name, 0) for name in _COUNTERS}
