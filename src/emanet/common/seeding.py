"""Randomness as a function of position: (seed, epoch, index) draws the same in any process, worker or resumed run."""

import hashlib


def mix(*parts: int) -> int:
    """Hash integers to one well-mixed seed in [0, 2**63).

    Neighboring inputs give unrelated seeds, unlike ``seed + epoch + index``, where epoch 1 of image 0
    would repeat epoch 0 of image 1.
    """
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
