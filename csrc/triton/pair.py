"""Pair family: the kernel of every pair is stored. Also the pair product of single samples, which all families read.

A row of O * C columns is cut into its two opposite halves of HALF columns (HALVES = 2, O even), or is one piece
(HALVES = 1: O = 1, where the opposite of a direction is itself, or O odd, where no pair has a reverse). The opposite
direction is then the same column of the other half, so that tiles stay contiguous whichever way a pair is read.
"""

import triton
import triton.language as tl


@triton.jit
def pair_conv(
    x,
    kernel,
    rowptr,
    neighbor,
    slot,
    out,
    HALVES: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """x [N, O, C], kernel [P, O, C] -> out [N, O, C]. A program owns BLOCK columns of one half of a node's row.

    rowptr [N + 1], neighbor [E] and slot [E] are those of `incidence`. Grid (N, HALVES * tiles of a half).
    """
    tiles = tl.cdiv(HALF, BLOCK)
    node = tl.program_id(0).to(tl.int64)
    half = tl.program_id(1) // tiles
    column = (tl.program_id(1) % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = column < HALF
    total = tl.zeros([BLOCK], ACC)
    for edge in tl.range(tl.load(rowptr + node), tl.load(rowptr + node + 1)):
        place = tl.load(slot + edge)
        source = tl.load(neighbor + edge)
        piece = half ^ (place & (HALVES - 1))
        k = tl.load(kernel + ((place >> 1) * HALVES + piece) * HALF + column, mask=inside, other=0.0)
        value = tl.load(x + (source * HALVES + half) * HALF + column, mask=inside, other=0.0)
        total += k.to(ACC) * value.to(ACC)
    tl.store(out + (node * HALVES + half) * HALF + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["two_way"], do_not_specialize_on_alignment=["sender", "receiver"])
def pair_product(
    x,
    g,
    sender,
    receiver,
    out,
    two_way,
    HALVES: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, g [N, O, C] -> out [P, O, C]. A program owns BLOCK columns of one half of a pair, both directions of it.

    sender, receiver [P]. Grid (P, HALVES * tiles of a half).
    """
    tiles = tl.cdiv(HALF, BLOCK)
    pair = tl.program_id(0).to(tl.int64)
    half = tl.program_id(1) // tiles
    column = (tl.program_id(1) % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = column < HALF
    reverse = inside & (pair < two_way)
    at_sender = tl.load(sender + pair) * HALVES
    at_receiver = tl.load(receiver + pair) * HALVES
    other = half ^ (HALVES - 1)
    x_there = tl.load(x + (at_sender + half) * HALF + column, mask=inside, other=0.0).to(ACC)
    g_here = tl.load(g + (at_receiver + half) * HALF + column, mask=inside, other=0.0).to(ACC)
    x_here = tl.load(x + (at_receiver + other) * HALF + column, mask=reverse, other=0.0).to(ACC)
    g_there = tl.load(g + (at_sender + other) * HALF + column, mask=reverse, other=0.0).to(ACC)
    total = x_there * g_here + x_here * g_there
    tl.store(out + (pair * HALVES + half) * HALF + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sample_places(sender, receiver, sample, valid, two_way, NUM_O: tl.constexpr):
    """Rows of [N * O, C] that the product of a sample reads: sample [R] = pair * O + o, valid [R].

    Returns:
        The sender's and the receiver's row at o, then at the opposite direction, [R] each, and whether the sample's
        pair has a reverse.
    """
    pair = sample // NUM_O
    direction = sample % NUM_O
    opposite = (direction + NUM_O // 2) % NUM_O
    at_sender = tl.load(sender + pair, mask=valid, other=0) * NUM_O
    at_receiver = tl.load(receiver + pair, mask=valid, other=0) * NUM_O
    reverse = valid & (pair < two_way)
    return at_sender + direction, at_receiver + direction, at_sender + opposite, at_receiver + opposite, reverse


@triton.jit
def sample_product(x, g, places, valid, channel, NUM_C: tl.constexpr, ACC: tl.constexpr):
    """x g over both directions of a pair at samples [R] and channels [T] -> [R, T]; `places` of `sample_places`."""
    at_sender, at_receiver, sender_opposite, receiver_opposite, reverse = places
    inside = (channel < NUM_C)[None, :]
    forward = valid[:, None] & inside
    backward = reverse[:, None] & inside
    x_there = tl.load(x + at_sender[:, None] * NUM_C + channel[None, :], mask=forward, other=0.0).to(ACC)
    g_here = tl.load(g + at_receiver[:, None] * NUM_C + channel[None, :], mask=forward, other=0.0).to(ACC)
    x_here = tl.load(x + receiver_opposite[:, None] * NUM_C + channel[None, :], mask=backward, other=0.0).to(ACC)
    g_there = tl.load(g + sender_opposite[:, None] * NUM_C + channel[None, :], mask=backward, other=0.0).to(ACC)
    return x_there * g_here + x_here * g_there
