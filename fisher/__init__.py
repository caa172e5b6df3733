"""Fisher vectors of local descriptors.

pca      keeps a share of the descriptors' variance
gmm      what descriptors are typical: a mixture of Gaussians
encode   how a video's descriptors differ from it (Eq. 5-6)
sketch   the same in few values
model    all of them in one file
vectors  what they make of a collection, in another

`python -m fisher --help` does so from the command line.
"""

from fisher.encode import encode, normalize
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
    "sample",
    "sample_items",
    "sample_rows",
]
