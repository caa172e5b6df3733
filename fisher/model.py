"""The fitted model that encodes a video: PCA, mixture and sketch, in one file (Sec. 3.3)."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from fisher import files
from fisher import rows as row_source
from fisher import sketch as sketches
from fisher.encode import check_finite, mean_gradients, normalize, prepare
from fisher.gmm import GMM, mixture_of
from fisher.pca import PCA
from fisher.rows import Columns
from fisher.sketch import Sketch

_FORMAT = 2
_NUM_STARTS, _MAX_ITERATIONS = 2, 200  # of the mixture, as in the authors' code


class Part(NamedTuple):
    """PCA and mixture of some columns of the rows: of all columns, or of one descriptor."""

    columns: Columns
    pca: PCA
    gmm: GMM


@dataclass(frozen=True)
class Model:
    """Fitted parts, an optional sketch, and a record of the data and settings of the fit."""

    parts: Mapping[str, Part]
    sketch: Sketch | None
    num_dims: int  # values per row
    num_rows: int  # rows in the fit
    seed: int
    source: Mapping[str, Any] = field(default_factory=dict)  # JSON-serializable

    @classmethod
    def fit(
        cls,
        rows: row_source.Rows,
        *,
        explained_variance: float,
        num_components: int,
        sketch_dim: int,
        seed: int,
        columns: Mapping[str, Columns] | None = None,
        source: Mapping[str, Any] | None = None,
        mesh: Mesh | None = None,
    ) -> "Model":
        """Fit a PCA to the rows and a mixture to the projected rows, and return the model.

        Args:
          rows: rows of descriptors, as for `GMM.fit`.
          explained_variance: fraction of the variance that the PCA keeps.
          num_components: number of components of the mixture.
          sketch_dim: length of a sketched vector; 0: no sketch.
          seed: seed of mixture and sketch.
          columns: columns of each part, by name. Each part has its own PCA and mixture; the Fisher
            vectors of all parts are concatenated. Default: one part of all columns.
          source: JSON-serializable description of the data and settings, saved with the model.
          mesh: devices for the fit of the mixture, as for `GMM`.

        Raises:
          ValueError: if there are fewer rows than components, if all rows are equal, if a value is
            not finite, or if columns are outside the rows.
        """
        row_source.check_count("sketch_dim", sketch_dim)
        row_source.check_count("seed", seed)
        row_source.check_count("num_components", num_components, 1)
        PCA(explained_variance)
        if not isinstance(columns, Mapping | None):
            raise ValueError(f"columns must be {{name: Columns}}, not a {type(columns).__name__}")
        moments = row_source.moments(rows)
        num_dims = len(moments.mean)
        columns = columns or {"all": Columns()}
        for name, part in columns.items():
            if not 0 <= part.begin < (num_dims if part.end is None else part.end) <= num_dims:
                raise ValueError(
                    f"columns {name}: {part.begin} to {part.end} are outside rows of {num_dims}"
                )
        parts = {
            name: _fit_part(rows, part, explained_variance, num_components, seed, mesh)
            for name, part in columns.items()
        }
        sketch = _sketch(parts, sketch_dim, seed)
        return cls(parts, sketch, num_dims, moments.num_rows, seed, dict(source or {}))

    @property
    def num_values(self) -> int:
        """Length of a vector: of the sketch, or 2 k d summed over the parts."""
        return self.sketch.dim_out if self.sketch else _num_values(self.parts)

    @property
    def places(self) -> dict[str, slice]:
        """The position of the values of each part in a vector before the sketch, by part."""
        ends = np.cumsum([2 * part.gmm.means_.size for part in self.parts.values()]).tolist()
        return {
            name: slice(begin, end)
            for name, begin, end in zip(self.parts, [0, *ends], ends, strict=False)
        }

    def encode_each(
        self, descriptors: Iterable[tuple[str, row_source.Rows]], *, variant: str
    ) -> Iterator[tuple[str, Float[np.ndarray, " o"] | None]]:
        """Yield the id and p(psi) of each video in order; None for a video without rows.

        Each part is projected, encoded (Eq. 5-6, or as `variant` "released") and normalized; the
        concatenated parts are scaled to unit norm and sketched. Memory does not grow with the
        number of videos or of their rows.

        Raises:
          ValueError: if a video has a value that is not finite or rows of the wrong length; names
            the video.
        """
        encoders = tuple(
            prepare(mixture_of(part.gmm), variant, part.pca.projection(), part.columns)
            for part in self.parts.values()
        )
        tables = jax.device_put(self.sketch.tables()) if self.sketch else None
        video_ids: list[str] = []  # read, but not yet yielded
        num_yielded = 0

        def rows() -> Iterator[row_source.Rows]:
            for item in descriptors:
                if not isinstance(item, tuple) or len(item) != 2:
                    raise ValueError("descriptors must yield pairs (video_id, rows)")
                video_id, x = item
                video_ids.append(video_id)
                yield partial(self._pieces, video_id, x)

        for ended, gradients in mean_gradients(encoders, rows(), self.num_dims):
            if not ended:
                continue
            vectors = np.asarray(_vectors(gradients, tables))
            for item in range(num_yielded, max(ended) + 1):
                vector = vectors[ended[item]] if item in ended else None
                yield _checked(video_ids.pop(0), vector)
            num_yielded = max(ended) + 1
        yield from ((video_id, None) for video_id in video_ids)

    def _pieces(self, video_id: str, x: row_source.Rows) -> Iterator[Float[np.ndarray, "_ d"]]:
        for piece in row_source.pieces(x):
            if len(piece) and piece.shape[1] != self.num_dims:
                raise ValueError(
                    f"{video_id}: rows of {piece.shape[1]} values, not {self.num_dims}"
                )
            yield piece

    def encode_collection(
        self, descriptors: Iterable[tuple[str, row_source.Rows]], *, variant: str
    ) -> tuple[tuple[str, ...], Float[np.ndarray, "v o"], Bool[np.ndarray, " v"]]:
        """Encode all videos (see `encode_each`).

        Returns:
          The ids, the vectors (zeros for a video without rows), and a mask of the videos that have
          a vector.
        """
        if not isinstance(descriptors, Iterable):
            kind = type(descriptors).__name__
            raise ValueError(f"descriptors must yield pairs (video_id, rows), not be a {kind}")
        encoded = list(self.encode_each(descriptors, variant=variant))
        vectors = np.zeros((len(encoded), self.num_values), np.float32)
        for row, (_, vector) in enumerate(encoded):
            if vector is not None:
                vectors[row] = vector
        has_vector = np.array([vector is not None for _, vector in encoded], bool)
        return tuple(video_id for video_id, _ in encoded), vectors, has_vector

    def save(self, path: str | Path) -> None:
        """Write an npz file without pickled objects, atomically."""
        arrays = {
            f"{name}.{key}": value
            for name, part in self.parts.items()
            for key, value in _arrays(part).items()
        }
        files.save_npz(
            path,
            format=_FORMAT,
            version=_library_version(),
            source=json.dumps(self.source),
            parts=list(self.parts),
            seed=self.seed,
            num_dims=self.num_dims,
            num_rows=self.num_rows,
            sketch_dim=self.sketch.dim_out if self.sketch else 0,
            **arrays,
        )

    @classmethod
    def load(cls, path: str | Path) -> "Model":
        """Read a file written by `save`.

        Raises:
          ValueError: if the file is not a readable Fisher model; names the file.
        """
        path = files.path_of(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return cls._of({name: file[name] for name in file.files})
        except KeyError as error:
            raise ValueError(f"{path}: not a Fisher model: array {error} is missing") from error
        except files.UNREADABLE as error:
            raise ValueError(f"{path}: not a readable Fisher model: {error}") from error

    @classmethod
    def _of(cls, arrays: dict[str, Any]) -> "Model":
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {arrays['format']}, this version reads {_FORMAT}")
        seed, num_dims = int(arrays["seed"]), int(arrays["num_dims"])
        parts = {name: _part(arrays, name, seed) for name in arrays["parts"].tolist()}
        for part in parts.values():
            _check(part, num_dims)
        sketch = _sketch(parts, int(arrays["sketch_dim"]), seed)
        source = json.loads(str(arrays["source"]))
        return cls(parts, sketch, num_dims, int(arrays["num_rows"]), seed, source)


def _fit_part(
    rows: row_source.Rows,
    columns: Columns,
    explained_variance: float,
    num_components: int,
    seed: int,
    mesh: Mesh | None,
) -> Part:
    def selected() -> Iterator[Float[np.ndarray, "m d"]]:
        return (np.asarray(columns.select(piece), np.float32) for piece in row_source.pieces(rows))

    def projected() -> Iterator[Float[np.ndarray, "m p"]]:
        return (np.asarray(pca.transform(piece)) for piece in selected())

    pca = PCA(explained_variance).fit(selected)
    gmm = GMM(
        num_components, seed, num_starts=_NUM_STARTS, max_iterations=_MAX_ITERATIONS, mesh=mesh
    )
    # rows in memory are projected once; a stream is projected in every pass
    gmm.fit(projected if callable(rows) else np.concatenate(list(projected())))
    return Part(columns, pca, gmm)


@jax.jit
def _vectors(
    gradients: tuple[Float[Array, "b v"], ...], tables: tuple[Array, Array] | None
) -> Float[Array, "b o"]:
    """Return the normalized vectors of all parts, concatenated to unit norm and sketched."""
    vectors = jnp.concatenate([normalize(v) for v in gradients], axis=1) / len(gradients) ** 0.5
    return vectors if tables is None else sketches.apply(vectors, *tables)


def _checked(
    video_id: str, vector: Float[np.ndarray, " o"] | None
) -> tuple[str, Float[np.ndarray, " o"] | None]:
    if vector is not None:
        try:
            check_finite(vector)
        except ValueError as error:
            raise ValueError(f"{video_id}: {error}") from error
    return video_id, vector


def _sketch(parts: Mapping[str, Part], sketch_dim: int, seed: int) -> Sketch | None:
    return Sketch(_num_values(parts), sketch_dim, seed) if sketch_dim else None


def _num_values(parts: Mapping[str, Part]) -> int:
    return sum(2 * part.gmm.means_.size for part in parts.values())


def _arrays(part: Part) -> dict[str, Any]:
    pca, gmm = part.pca, part.gmm
    return {
        "columns": [part.columns.begin, -1 if part.columns.end is None else part.columns.end],
        "square_root": part.columns.square_root,
        "explained_variance": pca.explained_variance,
        "explained_variance_kept": pca.explained_variance_kept_,
        "pca_mean": pca.mean_,
        "pca_components": pca.components_,
        "pca_variance": pca.explained_variance_,
        "weights": gmm.weights_,
        "means": gmm.means_,
        "variances": gmm.covariances_,
        "log_likelihood": gmm.log_likelihood_,
        "num_iterations": gmm.num_iterations_,
        "converged": gmm.converged_,
    }


def _part(arrays: Mapping[str, Any], name: str, seed: int) -> Part:
    def stored(key: str) -> Any:
        return arrays[f"{name}.{key}"]

    begin, end = stored("columns").tolist()
    pca = PCA(float(stored("explained_variance")))
    pca.mean_, pca.components_ = stored("pca_mean"), stored("pca_components")
    pca.explained_variance_, pca.explained_variance_kept_ = (
        stored("pca_variance"),
        float(stored("explained_variance_kept")),
    )
    gmm = GMM(len(stored("weights")), seed)
    gmm.weights_, gmm.means_, gmm.covariances_ = (
        stored("weights"),
        stored("means"),
        stored("variances"),
    )
    gmm.log_likelihood_ = float(stored("log_likelihood"))
    gmm.num_iterations_, gmm.converged_ = int(stored("num_iterations")), bool(stored("converged"))
    return Part(Columns(begin, None if end < 0 else end, bool(stored("square_root"))), pca, gmm)


def _check(part: Part, num_dims: int) -> None:
    """Raise ValueError if a shape is wrong, a value is not finite, or weights do not sum to 1."""
    columns, pca, gmm = part
    num_selected = len(range(num_dims)[columns.begin : columns.end])
    num_kept = len(pca.components_)
    expected = {
        "pca_mean": (pca.mean_, (num_selected,)),
        "pca_variance": (pca.explained_variance_, (num_kept,)),
        "pca_components": (pca.components_, (num_kept, num_selected)),
        "means": (gmm.means_, (gmm.num_components, num_kept)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} is of shape {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has a value that is not finite")
    mixture = mixture_of(gmm)
    if not (mixture.weights >= 0).all() or abs(mixture.weights.sum() - 1) > 1e-6:
        raise ValueError("the weights of the mixture are negative or do not sum to 1")


def _library_version() -> str:
    try:
        return metadata.version("vcjax")
    except metadata.PackageNotFoundError:  # run from source, not installed
        return "unknown"
