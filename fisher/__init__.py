"""Fisher vectors of local descriptors.

pca      keeps a share of the descriptors' variance
gmm      what descriptors are typical: a mixture of Gaussians
encode   how a video's descriptors differ from it (Eq. 5-6)
sketch   the same in few values
model    all of them in one file
"""

from fisher.encode import encode, normalise
from fisher.gmm import GMM
from fisher.model import Model
from fisher.pca import PCA
from fisher.rows import sample_rows
from fisher.sketch import Sketch

__all__ = ["GMM", "PCA", "Model", "Sketch", "encode", "normalise", "sample_rows"]
