"""Second derivative of the stream family: the two terms of every gradient of `basis_conv_backward` in one pass.

Names as in `ponita.ops.reference.basis_conv_double_backward`: hx, hbasis, hweight are the cotangents, and

    k1 = basis weight^T,    k2 = hbasis weight^T + basis hweight^T

the two kernels, made in registers and never stored. A cotangent that is zero costs nothing: the flags X_TERM,
BASIS_TERM and WEIGHT_TERM leave out what hx, hbasis and hweight would add, and their pointers are then not read.
"""

import triton
import triton.language as tl

from ponita.csrc.triton.pair import sample_places, sample_product


@triton.jit
def load_tile(values, row, valid, column, NUM_COLUMNS: tl.constexpr):
    """values [..., NUM_COLUMNS] at rows [R] and columns [T] -> [R, T], zero outside."""
    inside = valid[:, None] & (column < NUM_COLUMNS)[None, :]
    return tl.load(values + row[:, None] * NUM_COLUMNS + column[None, :], mask=inside, other=0.0)


@triton.jit
def two_way_edges(slot, begin, count, two_way, BLOCK: tl.constexpr):
    """How many of a node's edges belong to two-way pairs, and to how many of these the node is the sender."""
    paired = tl.zeros([BLOCK], tl.int64)
    turned = tl.zeros([BLOCK], tl.int64)
    for start in tl.range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        place = tl.load(slot + begin + index, mask=index < count, other=0)
        paired += ((index < count) & ((place >> 1) < two_way)).to(tl.int64)
        turned += place & 1
    return tl.sum(paired), tl.sum(turned)


@triton.jit
def both_kernels(
    bases,
    sample,
    valid,
    channel,
    NUM_C: tl.constexpr,
    NUM_B: tl.constexpr,
    BLOCK_B: tl.constexpr,
    X_TERM: tl.constexpr,
    BASIS_TERM: tl.constexpr,
    WEIGHT_TERM: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """k1 and k2 of samples [R] and channels [T] -> [R, T] each, in one pass over the basis functions.

    `bases` are basis, hbasis, weight and hweight.
    """
    basis, hbasis, weight, hweight = bases
    k1 = tl.zeros([sample.shape[0], channel.shape[0]], ACC)
    k2 = tl.zeros([sample.shape[0], channel.shape[0]], ACC)
    for first in tl.range(0, NUM_B, BLOCK_B):
        b = first + tl.arange(0, BLOCK_B)
        fits = (b < NUM_B)[:, None] & (channel < NUM_C)[None, :]
        at = channel[None, :] * NUM_B + b[:, None]
        if X_TERM or WEIGHT_TERM:
            phi = load_tile(basis, sample, valid, b, NUM_B)
        if X_TERM or BASIS_TERM:
            w = tl.load(weight + at, mask=fits, other=0.0)
        if X_TERM:
            k1 = tl.dot(phi, w, k1, input_precision=PRECISION, out_dtype=ACC)
        if BASIS_TERM:
            hphi = load_tile(hbasis, sample, valid, b, NUM_B)
            k2 = tl.dot(hphi, w, k2, input_precision=PRECISION, out_dtype=ACC)
        if WEIGHT_TERM:
            hw = tl.load(hweight + at, mask=fits, other=0.0)
            k2 = tl.dot(phi, hw, k2, input_precision=PRECISION, out_dtype=ACC)
    return k1, k2


@triton.jit(do_not_specialize=["two_way"])
def second_conv(
    x,
    hx,
    g,
    basis,
    hbasis,
    weight,
    hweight,
    rowptr,
    neighbor,
    slot,
    back_rowptr,
    back_neighbor,
    back_slot,
    two_way,
    out,
    back_out,
    NUM_O: tl.constexpr,
    NUM_C: tl.constexpr,
    NUM_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    X_TERM: tl.constexpr,
    BASIS_TERM: tl.constexpr,
    WEIGHT_TERM: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """conv(hx, k1) + conv(x, k2) -> out [N, O, C] and, where BOTH, the transposed conv(g, k2) -> back_out [N, O, C].

    A program owns BLOCK_O x BLOCK_C of a node in `out`, and the opposite directions in `back_out`: the kernel row that
    the edge j->i of a two-way pair reads for i at o is the one that i->j reads for i at -o, so it serves both sums. A
    pair of one edge has its row in the lists of either end; those out of the node follow those into it.

    The rows of its products are BLOCK_E edges x BLOCK_O orientations. rowptr [N + 1], neighbor [E] and slot [E] are
    those of `incidence`, the back_ lists those of the transposed graph. Grid (N * tiles of C, tiles of O), so that
    programs which read the same rows of the bases run side by side.
    """
    tiles = tl.cdiv(NUM_C, BLOCK_C)
    node = tl.program_id(0).to(tl.int64) // tiles
    row = tl.arange(0, BLOCK_E * BLOCK_O)
    direction = tl.program_id(1) * BLOCK_O + row % BLOCK_O
    opposite = (direction + NUM_O // 2) % NUM_O
    channel = (tl.program_id(0) % tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = tl.load(rowptr + node)
    inward = tl.load(rowptr + node + 1) - begin
    count = inward
    if BOTH:
        # The list out of the node has first the two-way edges turned in the list into it, then the pairs of one edge.
        paired, turned = two_way_edges(slot, begin, inward, two_way, 128)
        back_begin = tl.load(back_rowptr + node)
        count += tl.load(back_rowptr + node + 1) - back_begin - paired
        back_begin += turned - inward
    bases = (basis, hbasis, weight, hweight)
    total = tl.zeros([BLOCK_O, BLOCK_C], ACC)
    back_total = tl.zeros([BLOCK_O, BLOCK_C], ACC)
    for start in tl.range(0, count, BLOCK_E):
        edge = start + row // BLOCK_O
        into = (edge < inward) & (direction < NUM_O)
        valid = into
        place = tl.load(slot + begin + edge, mask=into, other=0)
        source = tl.load(neighbor + begin + edge, mask=into, other=0)
        if BOTH:
            out_of = (edge >= inward) & (edge < count) & (direction < NUM_O)
            valid = into | out_of
            place += tl.load(back_slot + back_begin + edge, mask=out_of, other=0) + out_of
            source += tl.load(back_neighbor + back_begin + edge, mask=out_of, other=0)
        sample = (place >> 1) * NUM_O + (direction + (place & 1) * (NUM_O // 2)) % NUM_O
        k1, k2 = both_kernels(
            bases, sample, valid, channel, NUM_C, NUM_B, BLOCK_B, X_TERM, BASIS_TERM, WEIGHT_TERM, ACC, PRECISION
        )
        there = source * NUM_O + direction
        part = tl.zeros([BLOCK_E * BLOCK_O, BLOCK_C], ACC)
        if X_TERM:
            part += k1 * load_tile(hx, there, into, channel, NUM_C).to(ACC)
        if BASIS_TERM or WEIGHT_TERM:
            part += k2 * load_tile(x, there, into, channel, NUM_C).to(ACC)
        total += tl.sum(tl.reshape(part, (BLOCK_E, BLOCK_O, BLOCK_C)), 0)
        if BOTH:
            both_ways = valid & (((place >> 1) < two_way) | out_of)
            back_part = k2 * load_tile(g, source * NUM_O + opposite, both_ways, channel, NUM_C).to(ACC)
            back_total += tl.sum(tl.reshape(back_part, (BLOCK_E, BLOCK_O, BLOCK_C)), 0)
    owned = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    inside = (owned < NUM_O)[:, None] & (channel < NUM_C)[None, :]
    address = (node * NUM_O + owned)[:, None] * NUM_C + channel[None, :]
    tl.store(out + address, total.to(out.dtype.element_ty), mask=inside)
    if BOTH:
        address = (node * NUM_O + (owned + NUM_O // 2) % NUM_O)[:, None] * NUM_C + channel[None, :]
        tl.store(back_out + address, back_total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_pairs", "two_way"], do_not_specialize_on_alignment=["sender", "receiver"])
def second_basis_gradient(
    x,
    hx,
    g,
    weight,
    hweight,
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
    """product(hx, g) weight + product(x, g) hweight -> out [P, O, B]. A program owns BLOCK_R samples x BLOCK_B.

    sender, receiver [P]. Grid (tiles of P * O, tiles of B).
    """
    sample = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    valid = sample < num_pairs.to(tl.int64) * NUM_O
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    places = sample_places(sender, receiver, sample, valid, two_way, NUM_O)
    total = tl.zeros([BLOCK_R, BLOCK_B], ACC)
    for first in tl.range(0, NUM_C, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        w = load_tile(weight, channel, channel < NUM_C, b, NUM_B)
        hw = load_tile(hweight, channel, channel < NUM_C, b, NUM_B)
        moved = sample_product(hx, g, places, valid, channel, NUM_C, ACC).to(w.dtype)
        total = tl.dot(moved, w, total, input_precision=PRECISION, out_dtype=ACC)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC).to(w.dtype)
        total = tl.dot(product, hw, total, input_precision=PRECISION, out_dtype=ACC)
    address = out + sample[:, None] * NUM_B + b[None, :]
    tl.store(address, total.to(out.dtype.element_ty), mask=valid[:, None] & (b < NUM_B)[None, :])


@triton.jit(do_not_specialize=["num_pairs", "two_way", "chunk"], do_not_specialize_on_alignment=["sender", "receiver"])
def second_weight_gradient(
    x,
    hx,
    g,
    basis,
    hbasis,
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
    """product(hx, g)^T basis + product(x, g)^T hbasis -> partial [S, C, B], over S runs of `chunk` samples.

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
        phi = load_tile(basis, sample, valid, b, NUM_B)
        moved = sample_product(hx, g, places, valid, channel, NUM_C, ACC).to(phi.dtype)
        total = tl.dot(tl.trans(moved), phi, total, input_precision=PRECISION, out_dtype=ACC)
        hphi = load_tile(hbasis, sample, valid, b, NUM_B)
        product = sample_product(x, g, places, valid, channel, NUM_C, ACC).to(phi.dtype)
        total = tl.dot(tl.trans(product), hphi, total, input_precision=PRECISION, out_dtype=ACC)
    address = partial + (run * NUM_C + channel)[:, None] * NUM_B + b[None, :]
    tl.store(address, total, mask=(channel < NUM_C)[:, None] & (b < NUM_B)[None, :])
