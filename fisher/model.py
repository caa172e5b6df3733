"""PCA, mixture and sketch: all that turns a video's descriptors into its p(psi) (Sec. 3.3)."""

import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from fisher import rows as row_source
from fisher import sketch as sketches
from fisher.encode import Encoder, mean_gradient, normalise, prepare
from fisher.gmm import GMM, mixture_of
from fisher.pca import PCA
from fisher.sketch import Sketch

_FORMAT = 1
_NUM_STARTS, _MAX_ITERATIONS = 2, 200  # of the mixture, as released


@dataclass(frozen=True)
class Model:
    """Fitted PCA and mixture, the sketch if there is one, and what they were made from."""

    pca: PCA
    gmm: GMM
    sketch: Sketch | None
    num_rows: int
    seed: int

    @classmethod
    def fit(
        cls,
        rows: row_source.Rows,
        *,
        energy: float,
        num_components: int,
        sketch_dim: int,
        seed: int,
        mesh: Mesh | None = None,
    ) -> "Model":
        """PCA of the rows, a mixture of the projected ones; `sketch_dim` 0 is no sketch.

        `rows` is as for `GMM.fit`. Raises ValueError if there are fewer rows than components, if
        all are equal, or values are not finite.
        """
        if sketch_dim < 0:
            raise ValueError(f"sketch_dim is {sketch_dim}; use 0 for no sketch, or a size")
        pca = PCA(energy).fit(rows)
        projected = [np.asarray(pca.transform(piece)) for piece in row_source.pieces(rows)]
        gmm = GMM(
            num_components,
            seed,
            num_starts=_NUM_STARTS,
            max_iterations=_MAX_ITERATIONS,
            mesh=mesh,
        ).fit(np.concatenate(projected))
        num_rows = sum(len(piece) for piece in projected)
        return cls(pca, gmm, _sketch(gmm, sketch_dim, seed), num_rows, seed)

    @property
    def num_values(self) -> int:
        """Length of a vector: the sketch's, or 2 k d."""
        return self.sketch.dim_out if self.sketch else 2 * self.gmm.means_.size

    def encode_collection(
        self, descriptors: Iterable[tuple[str, Float[np.ndarray, "_ d"]]], *, reading: str
    ) -> tuple[tuple[str, ...], Float[np.ndarray, "v o"], Bool[np.ndarray, " v"]]:
        """Ids, p(psi) and which videos have one, in the order of `descriptors`.

        Each video by itself: projected, Eq. 5 or as `released`, normalised, sketched. One without
        rows has none: its vector is 0. Raises ValueError naming a video with a value that is not
        finite.
        """
        encoder = prepare(mixture_of(self.gmm), reading, self.pca.projection())
        tables = jax.device_put(self.sketch.tables()) if self.sketch else None
        video_ids, vectors = [], []
        for video_id, x in descriptors:
            video_ids.append(video_id)
            try:
                vectors.append(_vector(encoder, tables, x) if len(x) else None)
            except ValueError as error:
                raise ValueError(f"{video_id}: {error}") from error
        found = np.zeros((len(vectors), self.num_values), np.float32)
        for row, vector in enumerate(vectors):
            if vector is not None:
                found[row] = vector
        return tuple(video_ids), found, np.array([v is not None for v in vectors], bool)

    def save(self, path: str | Path) -> None:
        """Writes one npz without pickled objects, atomically."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp.npz")
        np.savez(
            temporary,
            format=_FORMAT,
            version=_library_version(),
            seed=self.seed,
            num_rows=self.num_rows,
            energy=self.pca.energy,
            energy_kept=self.pca.energy_kept_,
            pca_mean=self.pca.mean_,
            pca_components=self.pca.components_,
            pca_variance=self.pca.explained_variance_,
            weights=self.gmm.weights_,
            means=self.gmm.means_,
            variances=self.gmm.covariances_,
            log_likelihood=self.gmm.log_likelihood_,
            num_iterations=self.gmm.num_iterations_,
            converged=self.gmm.converged_,
            sketch_dim=self.sketch.dim_out if self.sketch else 0,
        )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> "Model":
        """Reads what `save` wrote. Raises ValueError if it is anything else."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                return cls._of({name: file[name] for name in file.files})
        except KeyError as error:
            raise ValueError(f"{path}: not a Fisher model, it has no {error}") from error
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a readable Fisher model: {error}") from error

    @classmethod
    def _of(cls, arrays: dict[str, Any]) -> "Model":
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {arrays['format']}, this program reads {_FORMAT}")
        seed = int(arrays["seed"])
        pca = PCA(float(arrays["energy"]))
        pca.mean_, pca.components_ = arrays["pca_mean"], arrays["pca_components"]
        pca.explained_variance_ = arrays["pca_variance"]
        pca.energy_kept_ = float(arrays["energy_kept"])
        gmm = GMM(len(arrays["weights"]), seed)
        gmm.weights_, gmm.means_ = arrays["weights"], arrays["means"]
        gmm.covariances_ = arrays["variances"]
        gmm.log_likelihood_ = float(arrays["log_likelihood"])
        gmm.num_iterations_ = int(arrays["num_iterations"])
        gmm.converged_ = bool(arrays["converged"])
        _check(pca, gmm)
        sketch = _sketch(gmm, int(arrays["sketch_dim"]), seed)
        return cls(pca, gmm, sketch, int(arrays["num_rows"]), seed)


def _vector(
    encoder: Encoder, tables: tuple[Array, Array] | None, x: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " o"]:
    vector = normalise(mean_gradient(encoder, x))
    return np.asarray(vector if tables is None else sketches.apply(vector, *tables))


def _sketch(gmm: GMM, sketch_dim: int, seed: int) -> Sketch | None:
    return Sketch(2 * gmm.means_.size, sketch_dim, seed) if sketch_dim else None


def _check(pca: PCA, gmm: GMM) -> None:
    """Raises ValueError unless the parameters fit one another and are finite."""
    num_kept = len(pca.components_)
    expected = {
        "pca_mean": (pca.mean_, pca.components_.shape[1:]),
        "pca_variance": (pca.explained_variance_, (num_kept,)),
        "pca_components": (pca.components_, (num_kept, pca.mean_.size)),
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
