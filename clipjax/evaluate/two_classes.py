"""Logistic regression of two classes as scikit-learn fits it, without its second of imports."""

import numpy as np


def fit_two_classes(
    x: np.ndarray, labels: np.ndarray, *, most: int = 1000, tolerance: float = 1e-4
):
    """Fit a linear classifier to standardised features float [N, F] and labels 0 or 1 [N].

    scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(max_iter=most))`: cross-
    entropy of the mean example plus |w|^2 / 2N, by the same L-BFGS from 0 to the same gradient.

    Returns a function of float [M, F] to bool [M]: whether the label is 1.
    """
    from scipy.optimize import minimize

    kind = np.float32 if x.dtype == np.float32 else np.float64  # as given, all else wide
    x = np.asarray(x, kind)
    count, mean = len(x), x.mean(axis=0, dtype=np.float64)
    variance = x.var(axis=0, dtype=np.float64)
    tiny = np.finfo(np.float64).eps * count
    flat = variance <= tiny * variance + (tiny * mean) ** 2  # constant up to rounding
    scale = np.where(flat, 1.0, np.sqrt(variance))

    def standardised(x):
        moved = (np.asarray(x, kind) - mean).astype(kind)
        return (moved / scale).astype(kind).astype(np.float64)

    seen, signs = standardised(x), np.where(labels, 1.0, -1.0)

    def objective(w):
        margins = signs * (seen @ w[:-1] + w[-1])
        value = np.logaddexp(0, -margins).mean() + w[:-1] @ w[:-1] / (2 * count)
        slope = -signs / (1 + np.exp(np.minimum(margins, 500.0))) / count
        return value, np.append(slope @ seen + w[:-1] / count, slope.sum())

    options = {"maxiter": most, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    start = np.zeros(x.shape[1] + 1)
    w = minimize(objective, start, method="L-BFGS-B", jac=True, options=options).x
    return lambda x: standardised(x) @ w[:-1] + w[-1] > 0
