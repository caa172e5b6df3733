import numpy as np
import pytest

import fisher

NUM_COMPONENTS, NUM_DIMS = 7, 11


@pytest.fixture(scope="session")
def mixture():
    generator = np.random.default_rng(0)
    gmm = fisher.GMM(NUM_COMPONENTS)
    gmm.weights_ = generator.dirichlet(np.full(NUM_COMPONENTS, 3.0))
    gmm.means_ = generator.normal(size=(NUM_COMPONENTS, NUM_DIMS)) + 2
    gmm.covariances_ = generator.uniform(0.3, 2.0, (NUM_COMPONENTS, NUM_DIMS))
    return gmm


@pytest.fixture(scope="session")
def descriptors():
    generator = np.random.default_rng(1)
    return (1.3 * generator.normal(size=(3000, NUM_DIMS)) + 2).astype(np.float32)


@pytest.fixture(scope="session")
def rows():
    """Correlated columns, in groups: what a model is fitted to."""
    generator = np.random.default_rng(2)
    centers = 3 * generator.normal(size=(6, 12))
    latent = centers[generator.integers(6, size=4000)] + generator.normal(size=(4000, 12))
    noise = 0.3 * generator.normal(size=(4000, 30))
    return (latent @ generator.normal(size=(12, 30)) + noise + 1).astype(np.float32)
