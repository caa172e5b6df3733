"""Fisher vectors of local descriptors.

- `pca`: principal components that keep a fraction of the variance
- `gmm`: mixture of Gaussians, fitted by EM
- `encode`: Fisher vector of a set of descriptors (Eq. 5-6)
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

from fisher.encode import encode, normalize, reference_fisher_vector
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
