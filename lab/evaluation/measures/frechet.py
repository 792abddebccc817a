"""The Fréchet distance of two sets of features, each taken as a Gaussian (Heusel et al. 2017, FID).

    d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

| symbol | variable |
|---|---|
| μ, Σ | mean, covariance |

(Σ₁Σ₂)^½ is never taken of the product, which need not be symmetric: its trace is the sum of the singular values of
Σ₁^½ Σ₂^½, and both factors are roots of symmetric matrices. So few pictures (a singular Σ) cost no accuracy. The
distance is biased upwards by having few pictures: compare only sets of the same size.
"""

import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """How features are spread: mean (features,), covariance (features, features), float64."""

    mean: Matrix
    covariance: Matrix

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> "Gaussian":
        """Of features (pictures, features), two pictures at least.

        Raises:
            ValueError: fewer, or a feature that is not finite.
        """
        if len(features) < 2:
            raise ValueError(f"the spread of {len(features)} pictures is not defined; two at least are needed")
        values = features.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("a feature is not finite")
        return cls(values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False)))

    @classmethod
    def read(cls, file: Path) -> "Gaussian":
        """From an .npz file with `mu` and `sigma`, as clean-fid and pytorch-fid write their statistics.

        Raises:
            OSError, ValueError: it is none.
        """
        try:
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as content:
                if not {"mu", "sigma"} <= set(content):
                    raise ValueError(f"{file} holds {sorted(content)}, not the arrays mu and sigma")
                mean, covariance = (np.asarray(content[name], np.float64) for name in ("mu", "sigma"))
        except (EOFError, TypeError, BadZipFile, zlib.error) as error:  # nothing in it, one array only, damaged
            raise ValueError(f"{file} is no .npz file, or damaged: {error}") from None
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{file} holds numbers that are not finite")
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"{file}: mu {mean.shape} and sigma {covariance.shape} do not fit each other")
        return cls(mean, covariance)

    @cached_property
    def root(self) -> Matrix:
        """The symmetric root of the covariance; eigenvalues below 0 are rounding."""
        values, vectors = np.linalg.eigh((self.covariance + self.covariance.T) / 2)
        root: Matrix = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        return root

    def write(self, file: Path) -> None:
        """For `read`."""
        unfinished = file.with_name(f"{file.name}.part")
        with unfinished.open("wb") as opened:
            np.savez_compressed(opened, mu=self.mean, sigma=self.covariance)
        os.replace(unfinished, file)


def distance(one: Gaussian, other: Gaussian) -> float:
    """d², never below 0.

    Raises:
        ValueError: the features are not the same ones.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions cannot be compared")
    shared = np.linalg.svd(one.root @ other.root, compute_uv=False).sum()
    apart = np.square(one.mean - other.mean).sum()
    return max(0.0, float(apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * shared))
