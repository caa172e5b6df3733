"""Extraction of a collection by an Apache Beam pipeline, on any of its runners.

The files equal the files of `vcjax.idt.collection`, and finished files are kept. Workers access
videos, boxes and the output under the same paths, on a shared or mounted file system. A video that
fails is retried; if all retries fail, it is listed with the reason in `failed.tsv` in the output
folder, and the pipeline continues.
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
_FAILED = "failed"  # tag of the output, and name of the file, of videos whose retries all failed


class Extract(beam.DoFn):
    """Step that writes the trajectories of a video, and retries after a failure."""

    def __init__(self, num_retries: int, wait: float) -> None:
        self._num_retries, self._wait = num_retries, wait
        self._counters = {name: Metrics.counter(_NAMESPACE, name) for name in _COUNTERS}

    def process(self, job: collection.Job) -> Iterator[Any]:
        """Yield the id and number of trajectories of a video, or a tagged line about its failure.

        The first of `num_retries` retries starts after `wait` seconds, which then doubles.
        """
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
    max_side: int = 0,
) -> dict[str, int]:
    """Run the pipeline and return its counters: videos, failed, retries, trajectories.

    Args:
        videos: Video files by id.
        directory: Output folder; the file of a video is `storage.path_of(directory, id)`.
        matcher: Point matches for camera motion, a key of `camera.MATCHERS`.
        people: Folder of box files `VIDEO_ID.bb`, or None.
        num_retries: Number of retries of a video that fails.
        options: Options of Beam, such as --runner=DirectRunner.
        wait: Seconds before the first retry.
        max_side: Larger side in pixels to which larger frames are reduced; 0 keeps all sizes.
    """
    directory, people = directory.absolute(), people.absolute() if people else None
    jobs = collection.jobs(videos, directory, matcher=matcher, people=people, max_side=max_side)
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
    values = {counter.key.metric.name: counter.result for counter in counters}
    return {name: values.get(name, 0) for name in _COUNTERS}
