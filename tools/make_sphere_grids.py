"""Makes `ponita/geometry/sphere_grids.npz`: the orientation grids that have no closed form.

A grid of O directions is a half grid of m = O/2 unit vectors and their negatives. The energy is `sum 1 / chord^2` over
the pairs of directions; for an antipodal grid that is, up to a constant and a factor, `sum_{a<b} 1 / (1 - (n_a.n_b)^2)`
over the pairs of lines. It is minimised under `sum_a n_a n_a^T = (m/3) I`, which makes the grid average polynomials up
to degree 3 exactly. Many seeded starts are taken downhill by L-BFGS with a penalty for the constraint; the best few
are polished by Newton's method on the constrained problem, to rounding; the lowest that is a minimum is kept.

    python tools/make_sphere_grids.py            (half a minute, needs NumPy, SciPy and tqdm)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import eval_legendre
from tqdm import tqdm

from ponita.geometry.grids import fibonacci_grid, grid_quality

Array = NDArray[np.float64]

CLOSED_FORMS = (12, 20, 30, 32, 42)
SIZES = (*(size for size in range(10, 65, 2) if size not in CLOSED_FORMS), 72, 80, 96, 100, 128)
OUTPUT = Path(__file__).resolve().parents[1] / "ponita" / "geometry" / "sphere_grids.npz"
PENALTY = 100.0
POLISHED = 3


class Polished(NamedTuple):
    """A stationary half grid `[m, 3]`, the largest violated condition, and the lowest curvature beyond rotations."""

    half: Array
    residual: float
    curvature: float


def pair_terms(half: Array) -> tuple[Array, Array, Array]:
    """`1/(1-g^2)` of every pair of lines, `g = n_a.n_b`, and its two derivatives in g, `[m, m]`, diagonals zero."""
    cosine = half @ half.T
    np.fill_diagonal(cosine, 0)
    value = 1 / (1 - cosine**2)
    slope = 2 * cosine * value**2
    curvature = 2 * value**2 + 8 * cosine**2 * value**3
    for term in (value, curvature):
        np.fill_diagonal(term, 0)
    return value, slope, curvature


def energy(half: Array) -> float:
    """The repulsion energy of a half grid `[m, 3]` of unit vectors."""
    return float(pair_terms(half)[0].sum() / 2)


def penalised(flat: Array, num_lines: int) -> tuple[float, Array]:
    """Energy plus penalty of the directions of `flat` `[3 m]`, which need not be normalised, and the gradient."""
    vectors = flat.reshape(num_lines, 3)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    half = vectors / length
    value, slope, _ = pair_terms(half)
    excess = half.T @ half - np.eye(3) * (num_lines / 3)
    gradient = slope @ half + 2 * PENALTY * half @ excess
    tangent = gradient - (gradient * half).sum(axis=1, keepdims=True) * half
    return float(value.sum() / 2 + PENALTY / 2 * (excess**2).sum()), (tangent / length).ravel()


def traceless_forms() -> Array:
    """A basis `[5, 3, 3]` of the symmetric traceless matrices: the second moment is isotropic iff all five vanish."""
    forms = np.zeros((5, 3, 3))
    forms[0] = np.diag([1, -1, 0])
    forms[1] = np.diag([-1, -1, 2])
    for form, (i, j) in zip(forms[2:], ((0, 1), (0, 2), (1, 2)), strict=True):
        form[i, j] = form[j, i] = 1
    return forms


def constraints(half: Array) -> tuple[Array, Array]:
    """Values `[m + 5]` and Jacobian `[m + 5, 3 m]` of: every length is 1, every traceless moment is 0."""
    m, forms = len(half), traceless_forms()
    jacobian = np.zeros((m + 5, m, 3))
    jacobian[np.arange(m), np.arange(m)] = 2 * half
    jacobian[m:] = 2 * np.einsum("kij,aj->kai", forms, half)
    values = np.concatenate([(half**2).sum(axis=1) - 1, np.einsum("ai,kij,aj->k", half, forms, half)])
    return values, jacobian.reshape(m + 5, 3 * m)


def lagrangian_hessian(half: Array, multipliers: Array) -> Array:
    """Hessian `[3 m, 3 m]` of the energy plus the multipliers `[m + 5]` times the constraints."""
    m, (_, slope, curvature) = len(half), pair_terms(half)
    hessian = np.einsum("ab,ij->aibj", slope, np.eye(3)) + np.einsum("ab,bi,aj->aibj", curvature, half, half)
    own = np.einsum("ab,bi,bj->aij", curvature, half, half) + 2 * multipliers[:m, None, None] * np.eye(3)
    hessian[np.arange(m), :, np.arange(m), :] = own + 2 * np.einsum("k,kij->ij", multipliers[m:], traceless_forms())
    return hessian.reshape(3 * m, 3 * m)


def polish(half: Array, max_steps: int = 20) -> Polished:
    """Newton's method on the conditions of a constrained minimum, from a half grid `[m, 3]` close to one."""
    m = len(half)
    multipliers = None
    for _ in range(max_steps):
        gradient = (pair_terms(half)[1] @ half).ravel()
        values, jacobian = constraints(half)
        if multipliers is None:
            multipliers = np.linalg.lstsq(jacobian.T, -gradient, rcond=1e-10)[0]
        conditions = np.concatenate([gradient + jacobian.T @ multipliers, values])
        hessian = lagrangian_hessian(half, multipliers)
        residual = float(np.abs(conditions).max())
        if residual < 1e-13 * np.abs(gradient).max():
            break
        system = np.block([[hessian, jacobian.T], [jacobian, np.zeros((m + 5, m + 5))]])
        # Least squares, because rotating the whole grid leaves all conditions as they are.
        step = np.linalg.lstsq(system, -conditions, rcond=1e-11)[0]
        half, multipliers = half + step[: 3 * m].reshape(m, 3), multipliers + step[3 * m :]
    allowed = np.linalg.svd(jacobian)[2][np.linalg.matrix_rank(jacobian, tol=1e-9) :]
    return Polished(half, residual, float(np.linalg.eigvalsh(allowed @ hessian @ allowed.T)[3]))


def orient(half: Array) -> Array:
    """A fixed orientation, choice of representatives and order, so that the file does not depend on the starts.

    The line of lowest energy becomes +z and its nearest neighbour lies in the xz-plane, on the side of +x. Both signs
    of the line, and all lines and neighbours that tie, are tried, and the result that is last in dictionary order wins.
    """
    half = half / np.linalg.norm(half, axis=1, keepdims=True)
    closeness = np.abs(half @ half.T) - np.eye(len(half))
    arranged = [
        arrange(half @ frame(sign * half[pole], half[neighbour]))
        for pole in lowest(pair_terms(half)[0].sum(axis=1))
        for neighbour in lowest(-closeness[pole])
        for sign in (1, -1)
    ]
    return max(arranged, key=lambda grid: np.round(grid, 6).ravel().tolist())


def lowest(values: Array) -> Array:
    """Indices of the smallest value and of all that equal it to rounding."""
    return np.flatnonzero(values < values.min() + 1e-8)


def frame(pole: Array, neighbour: Array) -> Array:
    """The rotation `[3, 3]` that, applied from the right, takes `pole` to +z and the line of `neighbour` to x > 0."""
    side = neighbour * np.sign(neighbour @ pole) - abs(neighbour @ pole) * pole
    side = side / np.linalg.norm(side)
    return np.stack([side, np.cross(pole, side), pole], axis=1)


def arrange(half: Array) -> Array:
    """Keeps of every line the upper direction, and sorts from the pole to the equator, then by azimuth."""
    rounded = np.round(half, 9)
    # On the equator the sign of y decides, and on the x-axis the sign of x.
    leading = np.where(rounded[:, 2] != 0, rounded[:, 2], np.where(rounded[:, 1] != 0, rounded[:, 1], rounded[:, 0]))
    half = half * np.sign(leading)[:, None]
    # Counted from just below +x, so that rounding cannot send a direction in the xz-plane once around.
    azimuth = np.round((np.arctan2(half[:, 1], half[:, 0]) + 1e-3) % (2 * np.pi), 9)
    return half[np.lexsort((azimuth, -np.round(half[:, 2], 9)))]


def descend(size: int, seed: int) -> tuple[float, Array]:
    """Penalised energy and half grid `[m, 3]` reached from one random start."""
    start = np.random.default_rng([size, seed]).standard_normal(3 * (size // 2))
    options = {"maxiter": 3000, "maxfun": 10000, "gtol": 1e-6, "ftol": 1e-13, "maxcor": 20}
    found = minimize(penalised, start, args=(size // 2,), jac=True, method="L-BFGS-B", options=options)
    half = found.x.reshape(-1, 3)
    return float(found.fun), half / np.linalg.norm(half, axis=1, keepdims=True)


def make_half_grid(size: int, starts: int) -> Array:
    """The half grid `[size / 2, 3]` of the lowest constrained energy found from `starts` random starts."""
    descents = sorted((descend(size, seed) for seed in range(starts)), key=lambda descent: descent[0])
    polished = [polish(half) for _, half in descents[:POLISHED]]
    minima = [found.half for found in polished if found.residual < 1e-9 and found.curvature > 1e-6]
    if not minima:
        raise RuntimeError(f"no start of {starts} reached a minimum for {size} directions; use more starts")
    return orient(min(minima, key=energy))


def degree_error(grid: Array, degree: int) -> float:
    """Root mean square of the grid average over the spherical harmonics of a degree (0 is exact, 1 a single point)."""
    return float(np.sqrt(max(eval_legendre(degree, np.clip(grid @ grid.T, -1, 1)).mean(), 0)))


def table_row(size: int, half: Array) -> str:
    """Smallest angle and errors of degree 4 and 6 of a stored grid, against the Fibonacci lattice of the same size."""
    fibonacci = fibonacci_grid(size)
    cells = [f"{size:4d}"]
    for grid in (torch.from_numpy(np.concatenate([half, -half])), fibonacci):
        quality = grid_quality(grid)
        anisotropy = (quality.eigenvalues - 1).abs().max().item()
        errors = " ".join(f"{degree_error(grid.numpy(), degree):.4f}" for degree in (4, 6))
        cells.append(f"{quality.min_angle:6.2f} {anisotropy:.1e} {errors}")
    return " | ".join(cells)


def main() -> None:
    """Optimises all grids, prints their quality and writes the file."""
    parser = argparse.ArgumentParser(description="Makes the stored orientation grids.")
    parser.add_argument("--starts", type=int, default=40, help="random starts for each size")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the .npz file to write")
    arguments = parser.parse_args()
    halves = {size: make_half_grid(size, arguments.starts) for size in tqdm(SIZES, desc="grids")}
    np.savez(arguments.output, **{str(size): half for size, half in halves.items()})
    columns = " angle |ev-1|  deg 4  deg 6"
    print(f"   O | {columns} | {columns}   (stored, Fibonacci)")
    for size, half in halves.items():
        print(table_row(size, half))


if __name__ == "__main__":
    main()
