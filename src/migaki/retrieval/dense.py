"""Search by vectors: exact, over all of them."""

# Shapes: N passages, Q queries, D features

from __future__ import annotations

import numpy as np

__all__ = ["DenseIndex", "normalised"]

_DECIMALS = 5


def normalised(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors at length 1, float32; one of length 0 stays as it is."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1.0), dtype=np.float32)


class DenseIndex:
    """Cosine similarity with every passage: a product of matrices, which up to some hundred thousand passages is quicker
    than any question to a model.

    >>> DenseIndex(normalised(np.array([[3.0, 4.0], [0.0, 2.0]]))).similarities(np.array([[2.0, 0.0]])).tolist()
    [[0.6, 0.0]]
    """

    def __init__(self, vectors_ND: np.ndarray) -> None:
        """`vectors_ND` have length 1."""
        self.vectors_ND = vectors_ND

    def similarities(self, queries_QD: np.ndarray) -> np.ndarray:
        """(Q, N), from -1 to 1, float64.

        Rounded to what float32 is sure of, so that equal texts tie whatever other rows they were computed beside.
        """
        similar_QN = (normalised(queries_QD) @ self.vectors_ND.T).astype(np.float64)
        return np.asarray(np.round(similar_QN, _DECIMALS))
