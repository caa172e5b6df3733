"""Fisher vectors of local descriptors.

- `pca`: principal components that keep a fraction of the variance
- `gmm`: mixture of Gaussians, fitted by EM
- `encoding`: Fisher vector of a set of descriptors (Eq. 5-6)
- `sketch`: count sketch of a Fisher vector
- `model`: PCA, mixture and sketch in one file
- `vectors`: Fisher vectors of a collection in one file

`python -m fisher --help` describes the command line.

Example:
    >>> import numpy as np
    >>> import fisher
    >>> rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> gmm = fisher.GMM(num_components=4, seed=0).fit(rows)
    >>> fisher.normalize(fisher.encode(rows[:50], gmm)).shape  # 2 parts, 4 components, 8 values
    (64,)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fisher.encoding import encode, normalize, reference_fisher_vector
    from fisher.gmm import GMM
    from fisher.model import Model, Part
    from fisher.pca import PCA
    from fisher.rows import sample, sample_items, sample_rows
    from fisher.sketch import Sketch
    from fisher.vectors import FisherVectors

__all__ = [
    "GMM",
    "PCA",
    "FisherVectors",
    "Model",
    "Part",
    "Sketch",
    "encode",
    "normalize",
    "reference_fisher_vector",
    "sample",
    "sample_items",
    "sample_rows",
]

_MODULES = ("encoding", "gmm", "model", "pca", "rows", "sketch", "vectors")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # imports all names of __all__ at the first use of one: --help does not wait for JAX
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for module in _MODULES:
            members = vars(importlib.import_module(f"{__name__}.{module}"))
            globals().update({key: members[key] for key in __all__ if key in members})
        return globals()[name]
