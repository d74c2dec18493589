"""Sizes of the batches that an encoder computes, and how any batch is cut into such."""

from __future__ import annotations

# Sizes that batches are cut and padded to where a new one costs something: compilation, the
# capture of a graph, or weights packed for it (12 MB in bf16). On CPU larger ones are slower, since
# their activations leave the cache.
CPU_BUCKETS = (1, 4, 16, 32)
PACKED_BUCKETS = (*range(1, 13), 14, 16, 18, 20, 24, 28, 32)
CUDA_BUCKETS = (1, 4, 16, 64, 128, 256, 512, 1024)


def split_batch(count: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """Cut a batch into parts, each for one of the buckets.

    What is left goes to the smallest bucket that holds it if that is at most half as large again,
    else the largest full one is taken first: so less than half is computed in vain, in few parts.

    Args:
        count: Patches.
        buckets: Sizes in rising order, the first of them 1.

    Returns:
        (patches taken, bucket) of each part, in order.
    """
    parts = []
    while count:
        whole = max((size for size in buckets if size <= count), default=buckets[0])
        padded = next((size for size in buckets if size >= count), whole)
        size = padded if 2 * padded <= 3 * count else whole
        parts.append((min(size, count), size))
        count -= parts[-1][0]
    return parts
