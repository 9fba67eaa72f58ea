"""Invariants of a pair of points: what the pair looks like from inside, whatever the frame (PONITA, theorem 1).

r = p_j - p_i points from the receiver i to the sender j. A set of invariants is complete when two pairs with equal
numbers are always related by an element of SE(d). Generic pairs need dim(pairs) - dim(orbits) numbers at least.

In a bundle convolution both points have the same orientation, and what is left is the group that fixes (p_i, o):

* R^d: |r|. Complete.
* R^2 x S^1 = SE(2): nothing but the identity fixes a direction in the plane, so the frame (o, o turned left) of the
  receiver sees all of r: (r.o, -r_x o_y + r_y o_x). Complete.
* R^3 x S^2: the rotations about o, so the part of r along o and the length of the part across it. Complete.
* SE(3): the components of r in the receiver's frame, R^T r. Complete.

Two orientations at one point have o.o' on the sphere (complete: any two pairs of directions at the same angle are
turned into each other), R_i^T R_j for frames (complete), and in the plane (cos, sin) of the angle from the receiver's
to the sender's. The published network uses the cosine alone there, which is not complete: the angles +-0.7 are the same
to it.

Pairs of points with different orientations, p_i at o_i and p_j at o_j, are labelled by the `*_pose_invariants`; their
docstrings say which sets are complete.
"""

from __future__ import annotations

import torch
from torch import Tensor


def safe_norm(vector: Tensor, smoothing: float = 0.0) -> Tensor:
    """Length over the last axis, with derivatives of every order finite at zero.

    Args:
        vector: [..., d].
        smoothing: length s in sqrt(|v|^2 + s^2), which is smooth everywhere. With s = 0 the length is exact and its
            derivative at v = 0 is taken as zero.

    Shape:
        [..., d] -> [...]
    """
    squared = vector.square().sum(-1)
    if smoothing > 0:
        return (squared + smoothing**2).sqrt()
    # The square root must not see the zero, else its infinite slope turns 0 * inf into NaN in the second derivative.
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())


def distance_invariants(r: Tensor, smoothing: float = 0.0) -> Tensor:
    """The one invariant of R^d: the distance.

    Shape:
        r [E, d] -> [E, 1, 1], laid out as for one orientation.
    """
    return safe_norm(r, smoothing)[:, None, None]


def bundle_invariants(r: Tensor, grid: Tensor, smoothing: float = 0.0) -> Tensor:
    """The invariants (o.r, |r - (o.r)o|) of R^d x S^(d-1) for every direction o of a grid.

    Both keep their value under (r, o) -> (-r, -o): on an antipodal grid the reverse edge sees the same numbers at the
    opposite direction.

    Args:
        r: [E, d] from receiver to sender.
        grid: [O, d] unit vectors.
        smoothing: rounds the kink of the second invariant where r is parallel to o, over this length (units of r).

    Shape:
        [E, O, 2]
    """
    along = r @ grid.T
    across = r[:, None, :] - along[..., None] * grid
    return torch.stack([along, safe_norm(across, smoothing)], dim=-1)


def orientation_invariants(grid: Tensor) -> Tensor:
    """The invariant o.o' of two directions at one point.

    Shape:
        grid [O, d] -> [O, O, 1]
    """
    return (grid @ grid.T)[..., None]


def turned_left(direction: Tensor) -> Tensor:
    """Vectors in the plane turned by a quarter, counter-clockwise: (x, y) -> (-y, x).

    Shape:
        [..., 2] -> [..., 2]
    """
    return torch.stack([-direction[..., 1], direction[..., 0]], dim=-1)


def planar_frames(direction: Tensor) -> Tensor:
    """The rotation that turns +x to a direction in the plane; its columns are the direction o and o turned left.

    Shape:
        [..., 2] -> [..., 2, 2]
    """
    return torch.stack([direction, turned_left(direction)], dim=-1)


def frame_invariants(r: Tensor, frames: Tensor) -> Tensor:
    """The invariants R^T r of a group SE(d), the components of r in every frame R of a grid.

    In the plane, with the frame of a direction o, these are (r.o, -r_x o_y + r_y o_x). They are linear in r, so they
    are smooth everywhere; a reflection changes them.

    Args:
        r: [E, d] from receiver to sender.
        frames: [O, d, d] rotations, whose columns are the axes.

    Shape:
        [E, O, d]
    """
    return torch.einsum("ed,odk->eok", r, frames)


def circle_orientation_invariants(grid: Tensor, complete: bool = False) -> Tensor:
    """The invariants of two directions of a planar grid at one point, [sender, receiver].

    Args:
        grid: [O, 2] unit vectors.
        complete: (cos, sin) of the angle from the receiver's direction to the sender's, counter-clockwise; otherwise
            the cosine o.o' alone, as published, which does not know the sign of the angle.

    Shape:
        [O, O, 2], or [O, O, 1]
    """
    cosine = orientation_invariants(grid)
    if not complete:
        return cosine
    return torch.cat([cosine, (grid @ turned_left(grid).T)[..., None]], dim=-1)


def frame_orientation_invariants(frames: Tensor) -> Tensor:
    """The invariants R_p^T R_o, row by row, of the frame o of a sender and p of a receiver at one point.

    Shape:
        frames [O, d, d] -> [O, O, d * d], index [o, p]
    """
    return torch.einsum("pda,odb->opab", frames, frames).flatten(-2)


def circle_pose_invariants(r: Tensor, receiver: Tensor, sender: Tensor, complete: bool = False) -> Tensor:
    """The invariants of two points of R^2 x S^1: (r.o_i, -r_x o_iy + r_y o_ix, o_i.o_j), or with (cos, sin) at the end.

    dim(pairs) = 6 and dim SE(2) = 3, and three numbers do label the pairs: the pose of j in the frame of i, which is a
    vector and an angle. The published set has the cosine of the angle and not its sign: at o_i = +x it cannot tell
    o_j = (cos 0.7, sin 0.7) from (cos 0.7, -sin 0.7), and no rotation turns one into the other. The complete set writes
    the angle as (cos, sin): four numbers, of which the last two lie on a circle.

    Args:
        r: [..., 2] from receiver to sender.
        receiver: [..., 2] direction o_i.
        sender: [..., 2] direction o_j.
        complete: use the complete set.

    Shape:
        [..., 4], or [..., 3]; leading dimensions broadcast.
    """
    frames = planar_frames(receiver)
    angle = _components(sender, frames)
    return _cat([_components(r, frames), angle if complete else angle[..., :1]])


def sphere_pose_invariants(
    r: Tensor, receiver: Tensor, sender: Tensor, complete: bool = False, smoothing: float = 0.0
) -> Tensor:
    """The invariants of two points of R^3 x S^2: (o_i.r, |r_perp|, o_i.o_j), or with (o_j.r, det[o_i, r, o_j]) as well.

    r_perp = r - (o_i.r) o_i. dim(pairs) = 10 and dim SE(3) = 6, so the three published numbers cannot be complete: they
    do not know the angle about o_i from r to o_j. At p_i = 0, o_i = +z, p_j = +x, they are (0, 1, 0) both for o_j = +x
    and for o_j = +y. o_j.r, which is 1 and 0 there, gives the cosine of that angle, |r_perp| |o_j,perp| cos = o_j.r -
    (o_i.r)(o_i.o_j); but mirror images, o_j = +y and -y, still agree. The determinant, |r_perp| |o_j,perp| sin, tells
    these apart.

    The five are complete: with |o_i| = |o_j| = 1 the first four give all inner products of (o_i, r, o_j), and these
    give the three vectors up to a rotation or reflection. The determinant tells which, and where it is zero the vectors
    lie in a plane, and reflecting at that plane moves none of them. Five numbers for four dimensions: the square of the
    last follows from the others, its sign does not. All are smooth but |r_perp| on the axis.

    Args:
        r: [..., 3] from receiver to sender.
        receiver: [..., 3] direction o_i.
        sender: [..., 3] direction o_j.
        complete: use the complete set. It tells mirror images apart; the published one does not.
        smoothing: rounds the kink of |r_perp| where r is parallel to o_i, over this length (units of r).

    Shape:
        [..., 5], or [..., 3]; leading dimensions broadcast.
    """
    along = (r * receiver).sum(-1, keepdim=True)
    across = safe_norm(r - along * receiver, smoothing)[..., None]
    published = [along, across, (receiver * sender).sum(-1, keepdim=True)]
    if not complete:
        return _cat(published)
    volume = (receiver * torch.linalg.cross(*torch.broadcast_tensors(r, sender))).sum(-1, keepdim=True)
    return _cat([*published, (sender * r).sum(-1, keepdim=True), volume])


def frame_pose_invariants(r: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
    """The invariants of two points of SE(3): (R_i^T r, R_i^T R_j), the pose of j in the frame of i, row by row.

    Complete: they are the group element g_i^-1 g_j itself. dim(pairs) = 12 and dim SE(3) = 6; of the twelve numbers
    nine are a rotation, which has three dimensions.

    Args:
        r: [..., 3] from receiver to sender.
        receiver: [..., 3, 3] rotation R_i.
        sender: [..., 3, 3] rotation R_j.

    Shape:
        [..., 12]; leading dimensions broadcast.
    """
    relative = torch.einsum("...da,...db->...ab", receiver, sender)
    return _cat([_components(r, receiver), relative.flatten(-2)])


def _components(vector: Tensor, frames: Tensor) -> Tensor:
    """Of vectors [..., d] in frames [..., d, k], [..., k]."""
    return torch.einsum("...d,...dk->...k", vector, frames)


def _cat(parts: list[Tensor]) -> Tensor:
    """Put numbers side by side along the last axis; leading dimensions broadcast."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1)
