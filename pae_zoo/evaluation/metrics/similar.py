"""What the nearest training data say of hidden values: a restoration without a model."""

import numpy as np

from pae_zoo.evaluation.metrics import coverage

NUM_NEIGHBOURS = 20


def restore(
    x: np.ndarray, seen: np.ndarray, seen_train: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean (n, d) and the quantiles (6, n, d) of the 20 training data nearest to what is seen of x.

    Args:
      x: data (n, d), of which the values with True in `seen` (n, d) are known.
      seen_train: training data (m, d) as they would be seen, without noise.
      train: the clean training data (m, d).
    """
    known = np.where(seen, x, 0.0).astype(np.float32)
    # sum over seen of (x - t)^2, less what is the same for all t; the mean, which cancels, would cost digits.
    centre = seen_train.mean(axis=0)
    shifted, known = seen_train - centre, np.where(seen, known - centre, 0.0).astype(np.float32)
    distances = seen.astype(np.float32) @ np.square(shifted).T - 2.0 * known @ shifted.T
    num = min(NUM_NEIGHBOURS, len(train))
    nearest = train[np.argpartition(distances, num - 1, axis=1)[:, :num]]
    return nearest.mean(axis=1), coverage.quantiles(nearest.swapaxes(0, 1))
