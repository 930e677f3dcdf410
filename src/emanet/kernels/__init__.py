"""Fast paths of the EM unit, each beside a plain PyTorch reference that it is tested against.

``triton_kernels`` holds the EM's kernels, ``launch`` starts them, ``reference`` says what they compute, ``ops`` makes
both one PyTorch operator, ``choice`` says which runs. torch alone is needed; Triton, where it is used.
"""

from emanet.kernels.attention import iterate, iterate_in_place, reconstruct, reconstruct_in_place
from emanet.kernels.choice import Backend, Kernel, pick
from emanet.kernels.tiles import expectation_maximization_over_tiles

__all__ = [
    "Backend",
    "Kernel",
    "expectation_maximization_over_tiles",
    "iterate",
    "iterate_in_place",
    "pick",
    "reconstruct",
    "reconstruct_in_place",
]
