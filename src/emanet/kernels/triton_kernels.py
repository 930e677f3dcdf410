"""The EM iterations and the reconstruction as Triton kernels; :mod:`emanet.kernels.launch` starts them.

Every kernel reads a block of pixels, finds its responsibilities on chip and uses them at once: the (n, k) matrix never
reaches memory. Sums over pixels go to one partial result per program, added in a fixed order afterwards: no atomics, so
a run repeats to the last bit on one kind of GPU.

Names: pixels ``x[image, row, channel]`` by strides (the rows or the channels may be the fast axis), bases
``mu[image, k, c]`` contiguous, in the type of ``x``. ``C`` and ``K`` are the true sizes, ``BLOCK_*`` powers of two.
``UPCAST`` computes in float32 (Triton's interpreter multiplies the bit patterns of bfloat16), ``WIDE`` takes 64-bit
offsets within an image, ``PRECISION`` is that of float32 products; sums are float32 always.
"""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-6)  # added to weights and norms, as in emanet.emau
LAYER_EPS = tl.constexpr(1e-5)  # of torch.nn.functional.layer_norm


@triton.jit
def load_pixels(
    x,
    rows,
    cols,
    stop,
    stride_n,
    stride_c,
    C: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (rows, cols) of an image's pixels; zero outside. ``EVEN``: the columns need no mask."""
    if WIDE:
        rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    mask = (rows < stop)[:, None] if EVEN else (rows < stop)[:, None] & (cols < C)[None, :]
    tile = tl.load(x + rows[:, None] * stride_n + cols[None, :] * stride_c, mask=mask, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def load_bases(mu, cols, ks, C: tl.constexpr, K: tl.constexpr, UPCAST: tl.constexpr):
    """Tile (cols, ks) of an image's bases; zero outside."""
    mask = (cols < C)[:, None] & (ks < K)[None, :]
    tile = tl.load(mu + ks[None, :] * C + cols[:, None], mask=mask, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def softmax_rows(logits, is_pixel, is_base):
    """Softmax over the bases that there are; zero in rows that are no pixel."""
    logits = tl.where(is_base[None, :], logits, float("-inf"))
    z = tl.exp(logits - tl.max(logits, 1)[:, None])
    z = z / tl.sum(z, 1)[:, None]
    return tl.where(is_pixel[:, None], z, 0.0)


@triton.jit
def multiply_all_channels(
    x,
    mu,
    rows,
    ks,
    stop,
    stride_n,
    stride_c,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Products of a block of pixels with all bases (BLOCK_N, BLOCK_K), the channels in chunks: the E-step's logits."""
    logits = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for chunk in range(0, C, CHUNK):
        cols = chunk + tl.arange(0, CHUNK)
        tile = load_pixels(x, rows, cols, stop, stride_n, stride_c, C, C % CHUNK == 0, WIDE, UPCAST)
        logits = tl.dot(tile, load_bases(mu, cols, ks, C, K, UPCAST), logits, input_precision=PRECISION)
    return logits


@triton.jit
def statistics_kernel(
    x,
    values,  # (b, n, c): what is summed; x itself where OWN
    mu,
    sums,  # (b, splits, k, c) float32, out: sum over pixels of z * value
    weights,  # (b, splits, k) float32, out: sum over pixels of z
    n,
    per_split,  # pixels per program
    x_b,
    x_n,
    x_c,
    v_b,
    v_n,
    v_c,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHUNK: tl.constexpr,
    OWN: tl.constexpr,
    WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sufficient statistics of one EM iteration. Grid: (groups of channels, splits of the pixels, images).

    A program keeps the sums of its group of channels in registers over all its pixels. Where one group holds all
    channels, the bases stay on chip as well and each pixel is read once; else the E-step streams all channels, and the
    group reads its own again, from the cache.
    """
    group, split, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    x += image * x_b
    values += image * v_b
    mu += image * K * C
    out = image * tl.num_programs(1) + split
    ks = tl.arange(0, BLOCK_K)
    cols = group * BLOCK_C + tl.arange(0, BLOCK_C)
    EVEN: tl.constexpr = C % BLOCK_C == 0
    RESIDENT: tl.constexpr = BLOCK_C >= C
    start = split * per_split
    stop = tl.minimum(start + per_split, n)
    if RESIDENT:
        bases = load_bases(mu, cols, ks, C, K, UPCAST)
    acc = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)  # this way round it needs fewer registers than (k, c)
    total = tl.zeros((BLOCK_K,), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        if RESIDENT:
            own = load_pixels(x, rows, cols, stop, x_n, x_c, C, EVEN, WIDE, UPCAST)
            logits = tl.dot(own, bases, input_precision=PRECISION)
        else:
            logits = multiply_all_channels(
                x, mu, rows, ks, stop, x_n, x_c, C, K, BLOCK_N, BLOCK_K, CHUNK, WIDE, UPCAST, PRECISION
            )
            own = load_pixels(x, rows, cols, stop, x_n, x_c, C, EVEN, WIDE, UPCAST)
        z = softmax_rows(logits, rows < stop, ks < K)
        value = own if OWN else load_pixels(values, rows, cols, stop, v_n, v_c, C, EVEN, WIDE, UPCAST)
        total += tl.sum(z, 0)
        acc = tl.dot(tl.trans(value), z.to(value.dtype), acc, input_precision=PRECISION)
    mask = (cols < C)[:, None] & (ks < K)[None, :]
    tl.store(sums + (out * K + ks[None, :]) * C + cols[:, None], acc, mask=mask)
    if group == 0:
        tl.store(weights + out * K + ks, total, mask=ks < K)


@triton.jit
def finish_kernel(
    sums,  # (b, splits, k, c) float32
    weights,  # (b, splits, k) float32
    mu,  # (b, k, c) float32, out
    mu_low,  # (b, k, c) in the type of the pixels, out
    splits,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    NORM: tl.constexpr,
):
    """The M-step's end: add the partial results, divide by the weights, normalise. Grid: (k, images)."""
    k, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)
    mask = cols < C
    total = tl.zeros((BLOCK_C,), tl.float32)
    weight = 0.0
    for split in range(0, splits):
        part = (image * splits + split) * K + k
        total += tl.load(sums + part * C + cols, mask=mask, other=0.0)
        weight += tl.load(weights + part)
    base = total / (EPS + weight)
    if NORM == "l2":
        base = base / (EPS + tl.sqrt(tl.sum(base * base, 0)))
    elif NORM == "layer":
        base = base - tl.sum(base, 0) / C
        base = tl.where(mask, base, 0.0)
        base = base / tl.sqrt(tl.sum(base * base, 0) / C + LAYER_EPS)
    out = (image * K + k) * C + cols
    tl.store(mu + out, base, mask=mask)
    tl.store(mu_low + out, base.to(mu_low.dtype.element_ty), mask=mask)


@triton.jit
def reconstruct_kernel(
    x,
    before,  # bases of the E-step
    mu,  # bases of the reconstruction
    y,  # (b, n, c), out
    n,
    x_b,
    x_n,
    x_c,
    y_b,
    y_n,
    y_c,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Every pixel from the bases: y = mu z^T, with z found anew. Grid: (blocks of pixels, images)."""
    image = tl.program_id(1).to(tl.int64)
    x += image * x_b
    y += image * y_b
    before += image * K * C
    mu += image * K * C
    ks = tl.arange(0, BLOCK_K)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    logits = multiply_all_channels(
        x, before, rows, ks, n, x_n, x_c, C, K, BLOCK_N, BLOCK_K, CHUNK, WIDE, UPCAST, PRECISION
    )
    z = softmax_rows(logits, rows < n, ks < K)
    for chunk in range(0, C, CHUNK):
        cols = chunk + tl.arange(0, CHUNK)
        bases = load_bases(mu, cols, ks, C, K, UPCAST)
        out = tl.dot(z.to(bases.dtype), tl.trans(bases), input_precision=PRECISION)
        if RELU:
            out = tl.maximum(out, 0.0)
        store_pixels(y, rows, cols, n, y_n, y_c, out, C, C % CHUNK == 0, WIDE)


@triton.jit
def store_pixels(
    y, rows, cols, stop, stride_n, stride_c, tile, C: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr
):
    """Write a tile (rows, cols) of an image's pixels."""
    if WIDE:
        rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    mask = (rows < stop)[:, None] if EVEN else (rows < stop)[:, None] & (cols < C)[None, :]
    tl.store(y + rows[:, None] * stride_n + cols[None, :] * stride_c, tile.to(y.dtype.element_ty), mask=mask)


@triton.jit
def assignment_backward_kernel(
    x,
    mu,  # bases of the E-step
    up,  # (b, n, c): what the responsibilities' gradient comes from; x itself where STEP
    target,  # (b, k, c) in the type of x: the other factor of that gradient
    grad_weights,  # (b, k) float32, where STEP
    grad_x,  # (b, n, c), out
    grad_mu,  # (b, splits, k, c) float32, out where BASES
    n,
    per_split,
    x_b,
    x_n,
    x_c,
    u_b,
    u_n,
    u_c,
    g_b,
    g_n,
    g_c,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
    BASES: tl.constexpr,
    WIDE: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Backward through the responsibilities. Grid: (groups of channels, splits of the pixels, images).

    With z = softmax(a), a = x mu^T and the gradient g of z, that of a is h = z (g - sum_k z g). Then x receives h mu
    and the bases receive h^T x.

    Of the statistics (``STEP``; sums = z^T x, weights = sum z): g = x target^T + grad_weights with target the gradient
    of the sums, and x receives z target as well. Of the reconstruction y = z target: g = up target^T, ``up`` being the
    gradient of y.
    """
    group, split, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    x += image * x_b
    up += image * u_b
    grad_x += image * g_b
    mu += image * K * C
    target += image * K * C
    ks = tl.arange(0, BLOCK_K)
    cols = group * BLOCK_C + tl.arange(0, BLOCK_C)
    EVEN: tl.constexpr = C % BLOCK_C == 0
    start = split * per_split
    stop = tl.minimum(start + per_split, n)
    own_mu = tl.trans(load_bases(mu, cols, ks, C, K, UPCAST))
    own_target = tl.trans(load_bases(target, cols, ks, C, K, UPCAST))
    acc = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for first in range(start, stop, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        logits = multiply_all_channels(
            x, mu, rows, ks, stop, x_n, x_c, C, K, BLOCK_N, BLOCK_K, CHUNK, WIDE, UPCAST, PRECISION
        )
        z = softmax_rows(logits, rows < stop, ks < K)
        grad_z = multiply_all_channels(
            up, target, rows, ks, stop, u_n, u_c, C, K, BLOCK_N, BLOCK_K, CHUNK, WIDE, UPCAST, PRECISION
        )
        if STEP:
            grad_z += tl.load(grad_weights + image * K + ks, mask=ks < K, other=0.0)[None, :]
        h = (z * (grad_z - tl.sum(z * grad_z, 1)[:, None])).to(own_mu.dtype)
        grad = tl.dot(h, own_mu, input_precision=PRECISION)
        if STEP:
            grad = tl.dot(z.to(own_mu.dtype), own_target, grad, input_precision=PRECISION)
        store_pixels(grad_x, rows, cols, stop, g_n, g_c, grad, C, EVEN, WIDE)
        if BASES:
            own = load_pixels(x, rows, cols, stop, x_n, x_c, C, EVEN, WIDE, UPCAST)
            acc = tl.dot(tl.trans(own), h, acc, input_precision=PRECISION)
    if BASES:
        out = image * tl.num_programs(1) + split
        mask = (cols < C)[:, None] & (ks < K)[None, :]
        tl.store(grad_mu + (out * K + ks[None, :]) * C + cols[:, None], acc, mask=mask)
