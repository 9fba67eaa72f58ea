"""Spline family: the kernel of a sample is a weighted sum of the 16 table rows around a corner, made in registers."""

import triton
import triton.language as tl

from ponita.csrc.triton.pair import sample_places, sample_product


@triton.jit
def spline_conv(
    x,
    weights,
    table,
    corner,
    rowptr,
    neighbor,
    slot,
    out,
    stride,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """x [N, O, C], weights [P, O, 16], table [K, C], corner [P, O] -> out [N, O, C].

    A program owns BLOCK_O x BLOCK_C of a node. rowptr [N + 1], neighbor [E] and slot [E] are those of `incidence`;
    `stride` is the number of table rows in a row of the lattice. Grid (N, tiles of O, tiles of C).
    """
    node = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    owned = direction < NUM_O
    inside = owned[:, None] & (channel < NUM_C)[None, :]
    total = tl.zeros([BLOCK_O, BLOCK_C], ACC)
    for edge in tl.range(tl.load(rowptr + node), tl.load(rowptr + node + 1)):
        place = tl.load(slot + edge)
        sample = (place >> 1) * NUM_O + (direction + (place & 1) * (NUM_O // 2)) % NUM_O
        lowest = tl.load(corner + sample, mask=owned, other=0).to(tl.int64)
        kernel = tl.zeros([BLOCK_O, BLOCK_C], ACC)
        for tap in tl.static_range(16):
            weight = tl.load(weights + sample * 16 + tap, mask=owned, other=0.0).to(ACC)
            entry = lowest + (tap // 4) * stride + tap % 4
            value = tl.load(table + entry[:, None] * NUM_C + channel[None, :], mask=inside, other=0.0)
            kernel += weight[:, None] * value.to(ACC)
        source = tl.load(neighbor + edge) * NUM_O + direction
        total += kernel * tl.load(x + source[:, None] * NUM_C + channel[None, :], mask=inside, other=0.0).to(ACC)
    address = out + (node * NUM_O + direction)[:, None] * NUM_C + channel[None, :]
    tl.store(address, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_pairs", "two_way"], do_not_specialize_on_alignment=["sender", "receiver"])
def spline_weight_gradient(
    x,
    g,
    table,
    corner,
    sender,
    receiver,
    out,
    stride,
    num_pairs,
    two_way,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, g [N, O, C], table [K, C], corner [P, O] -> out [P, O, 16]. A program owns BLOCK_R samples.

    sender, receiver [P]. Grid (tiles of P * O,).
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    valid = sample < num_pairs.to(tl.int64) * NUM_O
    places = sample_places(sender, receiver, sample, valid, two_way, NUM_O)
    lowest = tl.load(corner + sample, mask=valid, other=0).to(tl.int64)
    taps = tl.arange(0, 16)
    total = tl.zeros([BLOCK_R, 16], ACC)
    for first in tl.range(0, NUM_C, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC)
        inside = valid[:, None] & (channel < NUM_C)[None, :]
        for tap in tl.static_range(16):
            entry = lowest + (tap // 4) * stride + tap % 4
            value = tl.load(table + entry[:, None] * NUM_C + channel[None, :], mask=inside, other=0.0).to(ACC)
            total += tl.where(taps[None, :] == tap, tl.sum(product * value, 1)[:, None], 0.0)
    address = out + sample[:, None] * 16 + taps[None, :]
    tl.store(address, total.to(out.dtype.element_ty), mask=valid[:, None])


@triton.jit(do_not_specialize=["two_way"], do_not_specialize_on_alignment=["sender", "receiver"])
def spline_tap_sums(
    x,
    g,
    weights,
    order,
    starts,
    sender,
    receiver,
    sums,
    two_way,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x, g [N, O, C], weights [P, O, 16] -> sums [K, 16, C]: for every corner and tap, over the samples there.

    A program owns BLOCK_C channels of a corner. order [P * O] lists samples by corner, starts [K + 1] where each
    corner begins. sender, receiver [P]. Grid (K, tiles of C).
    """
    corner = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    taps = tl.arange(0, 16)
    total = tl.zeros([16, BLOCK_C], ACC)
    end = tl.load(starts + corner + 1)
    for start in tl.range(tl.load(starts + corner), end, BLOCK_R):
        index = start + tl.arange(0, BLOCK_R)
        valid = index < end
        sample = tl.load(order + index, mask=valid, other=0)
        places = sample_places(sender, receiver, sample, valid, two_way, NUM_O)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC)
        weight = tl.load(weights + sample[None, :] * 16 + taps[:, None], mask=valid[None, :], other=0.0)
        total = tl.dot(weight, product.to(weight.dtype), total, input_precision=PRECISION, out_dtype=ACC)
    address = sums + (corner * 16 + taps)[:, None] * NUM_C + channel[None, :]
    tl.store(address, total, mask=(channel < NUM_C)[None, :])


@triton.jit
def spline_fold_taps(sums, out, stride, NUM_C: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """sums [K, 16, C] -> out [K, C]: to every node what the 16 corners that reach it have for it. Grid (K, tiles of C)."""
    node = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], ACC)
    for tap in tl.static_range(16):
        corner = node - (tap // 4) * stride - tap % 4
        inside = (channel < NUM_C) & (corner >= 0)
        total += tl.load(sums + (corner * 16 + tap) * NUM_C + channel, mask=inside, other=0.0)
    tl.store(out + node * NUM_C + channel, total.to(out.dtype.element_ty), mask=channel < NUM_C)
