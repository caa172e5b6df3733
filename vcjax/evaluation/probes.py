"""Two questions to a representation: what is most similar, and what a linear classifier finds.

Each is told the values of some videos and answers for others; none trains the network.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from vcjax.clustering import neighbors

# Inverse strength of the L2 penalty, of which cross-validation takes one. Standardized features
# have a squared norm of their number, Fisher vectors one of 1.
NETWORK_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
FISHER_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_USUAL = 2  # which of them is taken where there are too few videos to choose
_NUM_FOLDS = 5
_MAX_ITERATIONS = 300
_TOLERANCE = 1e-3  # of the gradient of the mean loss: answers no longer change


def nearest_neighbor(
    known: Float[np.ndarray, "k d"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q d"],
) -> Shaped[np.ndarray, " q"]:
    """The value of the known row most similar by cosine, of equal ones the first."""
    return values[neighbors.nearest(unit(asked), unit(known))[:, 0]]


def linear(
    known: Float[np.ndarray, "k f"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q f"],
    *,
    seed: int,
) -> Shaped[np.ndarray, " q"]:
    """Logistic regression on features with mean 0 and variance 1 over the known rows."""
    known, asked = standardize(known, asked)
    return _regress(known, values, asked, NETWORK_STRENGTHS, seed)


def regress(
    known: Float[np.ndarray, "k f"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q f"],
) -> Shaped[np.ndarray, " q"]:
    """Logistic regression on standardized features at the usual penalty, too few to choose one."""
    known, asked = _in_span(known, asked)
    return _fit(known, values, NETWORK_STRENGTHS[_USUAL]).predict(asked)


def standardize(
    known: Float[np.ndarray, "k f"], asked: Float[np.ndarray, "q f"]
) -> tuple[Float[np.ndarray, "k f"], Float[np.ndarray, "q f"]]:
    """Both with the mean of the known rows at 0 and their variance 1, dead features 0; float64."""
    known, asked = known.astype(np.float64), asked.astype(np.float64)
    mean, std = known.mean(axis=0), known.std(axis=0)
    scale = np.where(std > 1e-6 * max(std.max(), 1e-30), std, np.inf)
    return (known - mean) / scale, (asked - mean) / scale


def linear_fisher(
    known: Float[np.ndarray, "k d"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q d"],
    *,
    known_has_vector: Bool[np.ndarray, " k"],
    asked_has_vector: Bool[np.ndarray, " q"],
    seed: int,
) -> Shaped[np.ndarray, " q"]:
    """Logistic regression on Fisher vectors as they are.

    A video without one takes no part in the fit, and is answered with the most frequent value of
    all known ones.
    """

    def answer(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
        return _regress(known, values, asked, FISHER_STRENGTHS, seed)

    return _where_present(answer, known, values, asked, known_has_vector, asked_has_vector)


def linear_svm(
    known: Float[np.ndarray, "k d"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q d"],
    *,
    known_has_vector: Bool[np.ndarray, " k"],
    asked_has_vector: Bool[np.ndarray, " q"],
    penalty: float,
) -> Shaped[np.ndarray, " q"]:
    """Linear SVM, one against the rest, on Fisher vectors as they are; as `linear_fisher` else."""

    def answer(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
        known, asked = _in_span(known, asked)
        return LinearSVC(C=penalty, dual=False).fit(known, values).predict(asked)

    return _where_present(answer, known, values, asked, known_has_vector, asked_has_vector)


def _where_present(
    answer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    known: np.ndarray,
    values: np.ndarray,
    asked: np.ndarray,
    known_has_vector: np.ndarray,
    asked_has_vector: np.ndarray,
) -> np.ndarray:
    present, counts = np.unique(values, return_counts=True)
    answers = np.full(len(asked), present[counts.argmax()], values.dtype)
    taken = values[known_has_vector]
    if len(set(taken)) > 1 and asked_has_vector.any():
        answers[asked_has_vector] = answer(
            known[known_has_vector].astype(np.float64),
            taken,
            asked[asked_has_vector].astype(np.float64),
        )
    return answers


def _in_span(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the span of the known rows, where weights under an L2 penalty stay, if smaller."""
    if known.shape[0] >= known.shape[1]:
        return known, asked
    basis = np.linalg.qr(known.T)[0]
    return known @ basis, asked @ basis


def _regress(
    known: np.ndarray,
    values: np.ndarray,
    asked: np.ndarray,
    strengths: Sequence[float],
    seed: int,
) -> np.ndarray:
    known, asked = _in_span(known, asked)
    strength = _choose_strength(known, values, strengths, seed)
    return _fit(known, values, strength).predict(asked)


def _choose_strength(
    rows: np.ndarray, values: np.ndarray, strengths: Sequence[float], seed: int
) -> float:
    """The most accurate one in stratified cross-validation, of equal ones the strongest penalty."""
    if np.unique(values, return_counts=True)[1].min() < _NUM_FOLDS:
        return strengths[_USUAL]
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    correct = np.zeros(len(strengths))
    for inside, outside in folds.split(rows, values):
        for i, strength in enumerate(strengths):
            model = _fit(rows[inside], values[inside], strength)
            correct[i] += np.sum(model.predict(rows[outside]) == values[outside])
    return strengths[int(correct.argmax())]


def _fit(rows: np.ndarray, values: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Separable values at a weak penalty: the weights still grow, the answers stand.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # one video of each of many classes
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)
        return model.fit(rows, values)


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The rows at norm 1, float32; zeros stay."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norm, 1e-12)).astype(np.float32)
