"""Stream family: the kernel of a pair is basis times weights, made in registers and never stored.

Samples are pairs and orientations together, sample = pair * O + o, the rows of basis [P * O, B]. Products go through
`tl.dot` in the storage dtype, sums are kept in ACC.
"""

import triton
import triton.language as tl

from ponita.csrc.triton.pair import sample_places, sample_product


@triton.jit
def basis_conv(
    x,
    basis,
    weight,
    rowptr,
    neighbor,
    slot,
    out,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    NUM_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x [N, O, C], basis [P, O, B], weight [C, B] -> out [N, O, C]. A program owns BLOCK_O x BLOCK_C of a node.

    The rows of its products are BLOCK_E edges x BLOCK_O orientations; rows of one orientation are added at the end.
    rowptr [N + 1], neighbor [E] and slot [E] are those of `incidence`. Grid (N, tiles of O, tiles of C).
    """
    node = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK_E * BLOCK_O)
    direction = tl.program_id(1) * BLOCK_O + row % BLOCK_O
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_E * BLOCK_O, BLOCK_C], ACC)
    end = tl.load(rowptr + node + 1)
    for start in tl.range(tl.load(rowptr + node), end, BLOCK_E):
        edge = start + row // BLOCK_O
        valid = (edge < end) & (direction < NUM_O)
        place = tl.load(slot + edge, mask=valid, other=0)
        sample = (place >> 1) * NUM_O + (direction + (place & 1) * (NUM_O // 2)) % NUM_O
        kernel = tl.zeros([BLOCK_E * BLOCK_O, BLOCK_C], ACC)
        for first in tl.range(0, NUM_B, BLOCK_B):
            b = first + tl.arange(0, BLOCK_B)
            phi = tl.load(
                basis + sample[:, None] * NUM_B + b[None, :], mask=valid[:, None] & (b < NUM_B)[None, :], other=0.0
            )
            fits = (b < NUM_B)[:, None] & (channel < NUM_C)[None, :]
            w = tl.load(weight + channel[None, :] * NUM_B + b[:, None], mask=fits, other=0.0)
            kernel = tl.dot(phi, w, kernel, input_precision=PRECISION, out_dtype=ACC)
        source = tl.load(neighbor + edge, mask=valid, other=0) * NUM_O + direction
        inside = valid[:, None] & (channel < NUM_C)[None, :]
        total += kernel * tl.load(x + source[:, None] * NUM_C + channel[None, :], mask=inside, other=0.0).to(ACC)
    summed = tl.sum(tl.reshape(total, (BLOCK_E, BLOCK_O, BLOCK_C)), 0)
    owned = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    address = out + (node * NUM_O + owned)[:, None] * NUM_C + channel[None, :]
    tl.store(address, summed.to(out.dtype.element_ty), mask=(owned < NUM_O)[:, None] & (channel < NUM_C)[None, :])


@triton.jit(do_not_specialize=["num_pairs", "two_way"], do_not_specialize_on_alignment=["sender", "receiver"])
def basis_gradient(
    x,
    g,
    weight,
    sender,
    receiver,
    out,
    num_pairs,
    two_way,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    NUM_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x, g [N, O, C], weight [C, B] -> out [P, O, B]. A program owns BLOCK_R samples x BLOCK_B basis functions.

    sender, receiver [P]. Grid (tiles of P * O, tiles of B).
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    valid = sample < num_pairs.to(tl.int64) * NUM_O
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    places = sample_places(sender, receiver, sample, valid, two_way, NUM_O)
    total = tl.zeros([BLOCK_R, BLOCK_B], ACC)
    for first in tl.range(0, NUM_C, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC)
        w = tl.load(
            weight + channel[:, None] * NUM_B + b[None, :],
            mask=(channel < NUM_C)[:, None] & (b < NUM_B)[None, :],
            other=0.0,
        )
        total = tl.dot(product.to(w.dtype), w, total, input_precision=PRECISION, out_dtype=ACC)
    address = out + sample[:, None] * NUM_B + b[None, :]
    tl.store(address, total.to(out.dtype.element_ty), mask=valid[:, None] & (b < NUM_B)[None, :])


@triton.jit(do_not_specialize=["num_pairs", "two_way", "chunk"], do_not_specialize_on_alignment=["sender", "receiver"])
def weight_gradient(
    x,
    g,
    basis,
    sender,
    receiver,
    partial,
    num_pairs,
    two_way,
    chunk,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    NUM_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x, g [N, O, C], basis [P, O, B] -> partial [S, C, B], the sums over S runs of `chunk` samples.

    A program owns BLOCK_C x BLOCK_B of one run. sender, receiver [P]. Grid (S, tiles of C, tiles of B).
    """
    run = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    begin = run * chunk
    end = tl.minimum(begin + chunk, num_pairs.to(tl.int64) * NUM_O)
    total = tl.zeros([BLOCK_C, BLOCK_B], ACC)
    for start in tl.range(begin, end, BLOCK_R):
        sample = start + tl.arange(0, BLOCK_R)
        valid = sample < end
        places = sample_places(sender, receiver, sample, valid, two_way, NUM_O)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC)
        phi = tl.load(
            basis + sample[:, None] * NUM_B + b[None, :], mask=valid[:, None] & (b < NUM_B)[None, :], other=0.0
        )
        total = tl.dot(tl.trans(product.to(phi.dtype)), phi, total, input_precision=PRECISION, out_dtype=ACC)
    address = partial + (run * NUM_C + channel)[:, None] * NUM_B + b[None, :]
    tl.store(address, total, mask=(channel < NUM_C)[:, None] & (b < NUM_B)[None, :])
