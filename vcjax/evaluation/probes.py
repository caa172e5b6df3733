"""Probes of frozen features: nearest neighbor, logistic regression and linear SVM.

Each probe is fitted on the labeled training rows and predicts the label of the test rows. The
network is not trained.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from vcjax.clustering import neighbors
from vcjax.runtime import checks

# Candidates for the inverse strength of the L2 penalty (scikit-learn's C), selected by
# cross-validation. They differ because the mean squared norm of standardized features is the
# number of features, while a Fisher vector has unit norm.
NETWORK_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
FISHER_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_DEFAULT = 2  # index of the candidate used where there are too few rows for cross-validation
_NUM_FOLDS = 5
_MAX_ITERATIONS = 300
_TOLERANCE = 1e-3  # of the gradient of the mean loss; predictions no longer change below it


@checks.arguments
def nearest_neighbor(
    x_train: Float[np.ndarray, "k d"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q d"],
) -> Shaped[np.ndarray, " q"]:
    """Return for each test row the label of the training row with the highest cosine similarity.

    Ties are broken by the lower index.
    """
    return y_train[neighbors.nearest(unit(x_test), unit(x_train))[:, 0]]


@checks.arguments
def linear(
    x_train: Float[np.ndarray, "k f"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q f"],
    *,
    seed: int,
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of logistic regression on standardized features.

    The penalty is selected by cross-validation on the training rows, whose folds depend on `seed`.
    """
    x_train, x_test = standardize(x_train, x_test)
    return _regress(x_train, y_train, x_test, NETWORK_STRENGTHS, seed)


@checks.arguments
def regress(
    x_train: Float[np.ndarray, "k f"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q f"],
    *,
    strengths: Sequence[float] = NETWORK_STRENGTHS,
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of logistic regression at the default penalty, without selection.

    For features that are already standardized and for too few rows to cross-validate. `strengths`
    are NETWORK_STRENGTHS or FISHER_STRENGTHS.
    """
    return _predict(_regression(strengths[_DEFAULT]), x_train, y_train, x_test)


@checks.arguments
def standardize(
    x_train: Float[np.ndarray, "k f"], x_test: Float[np.ndarray, "q f"]
) -> tuple[Float[np.ndarray, "k f"], Float[np.ndarray, "q f"]]:
    """Return both in float64, shifted and scaled to mean 0 and variance 1 over the training rows.

    Features that are constant over the training rows become 0.
    """
    x_train, x_test = x_train.astype(np.float64), x_test.astype(np.float64)
    mean, std = x_train.mean(axis=0), x_train.std(axis=0)
    scale = np.where(std > 1e-6 * max(std.max(), 1e-30), std, np.inf)
    return (x_train - mean) / scale, (x_test - mean) / scale


@functools.partial(checks.arguments, finite_rows=False)
def linear_fisher(
    x_train: Float[np.ndarray, "k d"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q d"],
    *,
    train_has_vector: Bool[np.ndarray, " k"],
    test_has_vector: Bool[np.ndarray, " q"],
    seed: int,
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of logistic regression on Fisher vectors, without standardization.

    Args:
      x_train: Fisher vectors to fit on.
      y_train: their labels.
      x_test: Fisher vectors to predict the label of.
      train_has_vector: False excludes the training row from the fit.
      test_has_vector: False predicts the most frequent training label for the test row.
      seed: of the folds of the cross-validation that selects the penalty.

    Returns:
      One label per test row.
    """

    def predict(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
        return _regress(x_train, y_train, x_test, FISHER_STRENGTHS, seed)

    return _where_present(predict, x_train, y_train, x_test, train_has_vector, test_has_vector)


@functools.partial(checks.arguments, finite_rows=False)
def linear_svm(
    x_train: Float[np.ndarray, "k d"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q d"],
    *,
    train_has_vector: Bool[np.ndarray, " k"],
    test_has_vector: Bool[np.ndarray, " q"],
    penalty: float,
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of a one-versus-rest linear SVM on Fisher vectors.

    Args:
      x_train: Fisher vectors to fit on.
      y_train: their labels.
      x_test: Fisher vectors to predict the label of.
      train_has_vector: False excludes the training row from the fit.
      test_has_vector: False predicts the most frequent training label for the test row.
      penalty: weight C of the squared hinge loss.

    Returns:
      One label per test row.
    """
    checks.positive("penalty", penalty)

    def predict(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
        return _predict(LinearSVC(C=penalty, dual=False), x_train, y_train, x_test)

    return _where_present(predict, x_train, y_train, x_test, train_has_vector, test_has_vector)


def _where_present(
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    train_has_vector: np.ndarray,
    test_has_vector: np.ndarray,
) -> np.ndarray:
    """Return `predict` on the rows with a vector, and the most frequent label for the rest."""
    checks.finite("x_train", _rows(x_train, train_has_vector))
    checks.finite("x_test", _rows(x_test, test_has_vector))
    classes, counts = np.unique(y_train, return_counts=True)
    predictions = np.full(len(x_test), classes[counts.argmax()], y_train.dtype)
    y_present = y_train[train_has_vector]
    if len(set(y_present)) > 1 and test_has_vector.any():
        predictions[test_has_vector] = predict(
            _rows(x_train, train_has_vector).astype(np.float64, copy=False),
            y_present,
            _rows(x_test, test_has_vector),
        )
    return predictions


def _rows(x: np.ndarray, has_vector: np.ndarray) -> np.ndarray:
    """Return the rows that have a vector; `x` itself, without a copy, if all have."""
    return x if has_vector.all() else x[has_vector]


def _regress(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    strengths: Sequence[float],
    seed: int,
) -> np.ndarray:
    """Predict at the strength with the highest accuracy in stratified cross-validation.

    Ties are broken by the stronger penalty. If a class has fewer rows than there are folds, the
    default is used.
    """
    model = _regression(strengths[_DEFAULT])
    if np.unique(y_train, return_counts=True)[1].min() >= _NUM_FOLDS:
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"C": strengths}, cv=folds)
    return _predict(model, x_train, y_train, x_test)


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)


def _predict(
    model: Any, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray
) -> np.ndarray:
    """Fit `model`, which has an L2 penalty, and return its predictions."""
    if not len(x_test):
        return y_train[:0]
    if x_train.shape[0] < x_train.shape[1]:
        # The solution under an L2 penalty lies in the span of the training rows, so coordinates
        # in an orthonormal basis of the span give the same predictions.
        basis = np.linalg.qr(x_train.T)[0]
        x_train, x_test = x_train @ basis, x_test @ basis
    with warnings.catch_warnings():
        # On separable classes under a weak penalty the weights keep growing after the
        # predictions have settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # scikit-learn suspects a regression if there is one row for each of many classes.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        # The test rows are converted after the fit, which holds copies of the training rows.
        return model.fit(x_train, y_train).predict(x_test.astype(x_train.dtype, copy=False))


@checks.arguments
def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return the rows in float32, scaled to unit L2 norm; rows of zeros stay zero."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norm, 1e-12)).astype(np.float32)
