"""PCA, mixture and sketch: all that turns a video's descriptors into its p(psi) (Sec. 3.3)."""

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
_NUM_STARTS, _MAX_ITERATIONS = 2, 200  # of the mixture, as released


class Part(NamedTuple):
    """What encodes some columns of a row: all together, or one kind of descriptor."""

    columns: Columns
    pca: PCA
    gmm: GMM


@dataclass(frozen=True)
class Model:
    """Fitted PCA and mixture of each part, the sketch if there is one, and their origin."""

    parts: Mapping[str, Part]
    sketch: Sketch | None
    num_dims: int  # of a row
    num_rows: int  # that it was fitted to
    seed: int
    source: Mapping[str, Any] = field(default_factory=dict)  # whatever of JSON says whence they are

    @classmethod
    def fit(
        cls,
        rows: row_source.Rows,
        *,
        energy: float,
        num_components: int,
        sketch_dim: int,
        seed: int,
        columns: Mapping[str, Columns] | None = None,
        source: Mapping[str, Any] | None = None,
        mesh: Mesh | None = None,
    ) -> "Model":
        """PCA of the rows, a mixture of the projected ones; `sketch_dim` 0 is no sketch.

        `rows` is as for `GMM.fit`. With several `columns`, each has a PCA and a mixture of its own,
        and their vectors stand side by side. Raises ValueError if there are fewer rows than
        components, if all are equal, or values are not finite.
        """
        if sketch_dim < 0:
            raise ValueError(f"sketch_dim is {sketch_dim}; use 0 for no sketch, or a size")
        moments = row_source.moments(rows)
        num_dims = len(moments.mean)
        columns = columns or {"all": Columns()}
        for name, part in columns.items():
            if not 0 <= part.begin < (num_dims if part.end is None else part.end) <= num_dims:
                raise ValueError(
                    f"columns {name}: {part.begin} to {part.end} are not in rows of {num_dims}"
                )
        parts = {
            name: _fit_part(rows, part, energy, num_components, seed, mesh)
            for name, part in columns.items()
        }
        sketch = _sketch(parts, sketch_dim, seed)
        return cls(parts, sketch, num_dims, moments.num_rows, seed, dict(source or {}))

    @property
    def num_values(self) -> int:
        """Length of a vector: the sketch's, or 2 k d summed over the parts."""
        return self.sketch.dim_out if self.sketch else _num_values(self.parts)

    @property
    def places(self) -> dict[str, slice]:
        """Where each part's values are in a vector before the sketch."""
        ends = np.cumsum([2 * part.gmm.means_.size for part in self.parts.values()]).tolist()
        return {
            name: slice(begin, end)
            for name, begin, end in zip(self.parts, [0, *ends], ends, strict=False)
        }

    def encode_each(
        self, descriptors: Iterable[tuple[str, row_source.Rows]], *, reading: str
    ) -> Iterator[tuple[str, Float[np.ndarray, " o"] | None]]:
        """Id and p(psi) of each video, None for one without rows, in the order of `descriptors`.

        Each video's parts by themselves: projected, Eq. 5 or as `released`, normalized; then side
        by side with unit norm, and sketched. Memory does not grow with the number of videos or
        their rows. Raises ValueError naming a video with a value that is not finite.
        """
        encoders = tuple(
            prepare(mixture_of(part.gmm), reading, part.pca.projection(), part.columns)
            for part in self.parts.values()
        )
        tables = jax.device_put(self.sketch.tables()) if self.sketch else None
        video_ids: list[str] = []  # of the items that have not come yet
        num_given = 0

        def rows() -> Iterator[row_source.Rows]:
            for video_id, x in descriptors:
                video_ids.append(video_id)
                yield partial(self._pieces, video_id, x)

        for ended, gradients in mean_gradients(encoders, rows(), self.num_dims):
            if not ended:
                continue
            vectors = np.asarray(_vectors(gradients, tables))
            for item in range(num_given, max(ended) + 1):
                yield _named(video_ids.pop(0), vectors[ended[item]] if item in ended else None)
            num_given = max(ended) + 1
        yield from ((video_id, None) for video_id in video_ids)

    def _pieces(self, video_id: str, x: row_source.Rows) -> Iterator[Float[np.ndarray, "_ d"]]:
        for piece in row_source.pieces(x):
            if len(piece) and piece.shape[1] != self.num_dims:
                raise ValueError(
                    f"{video_id}: rows of {piece.shape[1]} values, not {self.num_dims}"
                )
            yield piece

    def encode_collection(
        self, descriptors: Iterable[tuple[str, row_source.Rows]], *, reading: str
    ) -> tuple[tuple[str, ...], Float[np.ndarray, "v o"], Bool[np.ndarray, " v"]]:
        """Ids, p(psi) of `encode_each`, 0 where there is none, and which videos have one."""
        encoded = list(self.encode_each(descriptors, reading=reading))
        found = np.zeros((len(encoded), self.num_values), np.float32)
        for row, (_, vector) in enumerate(encoded):
            if vector is not None:
                found[row] = vector
        has_vector = np.array([vector is not None for _, vector in encoded], bool)
        return tuple(video_id for video_id, _ in encoded), found, has_vector

    def save(self, path: str | Path) -> None:
        """Writes one npz without pickled objects, atomically."""
        arrays = {
            f"{name}.{key}": value
            for name, part in self.parts.items()
            for key, value in _arrays(part).items()
        }
        files.save_npz(
            Path(path),
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
        """Reads what `save` wrote. Raises ValueError if it is anything else."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return cls._of({name: file[name] for name in file.files})
        except KeyError as error:
            raise ValueError(f"{path}: not a Fisher model, it has no {error}") from error
        except files.UNREADABLE as error:
            raise ValueError(f"{path}: not a readable Fisher model: {error}") from error

    @classmethod
    def _of(cls, arrays: dict[str, Any]) -> "Model":
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {arrays['format']}, this program reads {_FORMAT}")
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
    energy: float,
    num_components: int,
    seed: int,
    mesh: Mesh | None,
) -> Part:
    def seen() -> Iterator[Float[np.ndarray, "m d"]]:
        return (np.asarray(columns.select(piece), np.float32) for piece in row_source.pieces(rows))

    def projected() -> Iterator[Float[np.ndarray, "m p"]]:
        return (np.asarray(pca.transform(piece)) for piece in seen())

    pca = PCA(energy).fit(seen)
    gmm = GMM(
        num_components, seed, num_starts=_NUM_STARTS, max_iterations=_MAX_ITERATIONS, mesh=mesh
    )
    # rows that are in memory are projected once, others in every pass
    gmm.fit(projected if callable(rows) else np.concatenate(list(projected())))
    return Part(columns, pca, gmm)


@jax.jit
def _vectors(
    gradients: tuple[Float[Array, "b v"], ...], tables: tuple[Array, Array] | None
) -> Float[Array, "b o"]:
    """The parts' vectors, normalized, side by side with unit norm, and sketched."""
    vectors = jnp.concatenate([normalize(v) for v in gradients], axis=1) / len(gradients) ** 0.5
    return vectors if tables is None else sketches.apply(vectors, *tables)


def _named(
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
        "energy": pca.energy,
        "energy_kept": pca.energy_kept_,
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
    def of(key: str) -> Any:
        return arrays[f"{name}.{key}"]

    begin, end = of("columns").tolist()
    pca = PCA(float(of("energy")))
    pca.mean_, pca.components_ = of("pca_mean"), of("pca_components")
    pca.explained_variance_, pca.energy_kept_ = of("pca_variance"), float(of("energy_kept"))
    gmm = GMM(len(of("weights")), seed)
    gmm.weights_, gmm.means_, gmm.covariances_ = of("weights"), of("means"), of("variances")
    gmm.log_likelihood_ = float(of("log_likelihood"))
    gmm.num_iterations_, gmm.converged_ = int(of("num_iterations")), bool(of("converged"))
    return Part(Columns(begin, None if end < 0 else end, bool(of("square_root"))), pca, gmm)


def _check(part: Part, num_dims: int) -> None:
    """Raises ValueError unless the parameters fit one another and are finite."""
    columns, pca, gmm = part
    num_seen = len(range(num_dims)[columns.begin : columns.end])
    num_kept = len(pca.components_)
    expected = {
        "pca_mean": (pca.mean_, (num_seen,)),
        "pca_variance": (pca.explained_variance_, (num_kept,)),
        "pca_components": (pca.components_, (num_kept, num_seen)),
        "means": (gmm.means_, (gmm.num_components, num_kept)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} is of shape {array.shape}, not {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has a value that is not finite")
    mixture = mixture_of(gmm)
    if not (mixture.weights >= 0).all() or abs(mixture.weights.sum() - 1) > 1e-6:
        raise ValueError("the weights of the mixture are not positive with sum 1")


def _library_version() -> str:
    try:
        return metadata.version("vcjax")
    except metadata.PackageNotFoundError:  # run from its folder
        return "unknown"
