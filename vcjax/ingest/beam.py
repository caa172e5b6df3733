"""Ingest by an Apache Beam pipeline, whose elements are the shards of a collection.

Workers access the videos and the collection under the same paths, on a shared or mounted file
system. A shard whose worker is lost is started again and continues from its finished videos.
"""

from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def run(shards: Sequence[str], work: Callable[[str], None], options: Sequence[str]) -> None:
    """Call `work` with each of `shards` on the workers of Beam.

    Args:
        shards: Names of the shards, such as 3/8.
        work: Function that ingests one shard; it has to be picklable.
        options: Options of Beam, such as --runner=DataflowRunner.
    """
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(shards)
            | "spread" >> beam.Reshuffle()
            | "ingest" >> beam.Map(work)
        )
