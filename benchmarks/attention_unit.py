"""The attention unit alone, beside its plain transcription, a non-local block and double attention: time and memory.

    python benchmarks/attention_unit.py [--device auto] [--channels 512] [--sides 33 65 97 129 257]

A base case (CPU: 2 images of 65x65 pixels, float32; CUDA: 16, bfloat16; K=64, T=3) with one factor varied at a time.
Part "unit" is the whole unit, part "em" its iterations and the reconstruction without the two convolutions. Direction
"training" is forward and backward to the gradients of input and parameters. Names of variants: "auto", "torch" and
"triton" are EMAU's kernels; "transcription" writes the paper's equations down one by one.

Floor of the unit: pixels are read once per iteration and once for the reconstruction, which is written once; conv1
reads the input and writes pixels; conv2, the norm and the residual read the input and write the output in one go with
the reconstruction. Training also writes the reconstruction and conv2's output, reads the latter for its norm, and both,
the output and its gradient for the input's. Of operations, matrix products count. Pixels that stay in a cache can beat
the bytes' floor. Writes benchmarks/results/attention_unit_DEVICE.json.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from emanet.kernels.choice import launcher
from measure import Call, Variant, arguments, main, parse
from torch import Tensor, nn

from emanet.model.emau import EMAU
from emanet.model.heads.a2 import DoubleAttention
from emanet.model.heads.nonlocal_ import NonLocal
from emanet.studies.complexity import LiveMemory

Function = Callable[[Tensor], object]
RIVALS = {"double attention": DoubleAttention, "non-local": NonLocal}
LARGE = 200  # pixels along a side from which a CPU takes one image, and rivals are not trained


@dataclass(frozen=True)
class Setting:
    """What is computed, and on what."""

    device: str
    side: int = 65
    images: int = 2
    channels: int = 512
    K: int = 64
    T: int = 3
    precision: str = "float32"  # or bfloat16, or bfloat16 autocast (weights and bases in float32)
    part: str = "unit"  # or em
    training: bool = False

    @property
    def dtype(self) -> str:
        """Type of the pixels."""
        return self.precision.split()[0]

    def case(self) -> dict[str, object]:
        """For the result file."""
        sizes = {name: getattr(self, name) for name in ("side", "images", "channels", "K", "T", "precision")}
        return {"part": self.part, "direction": "training" if self.training else "forward", **sizes}


# --- what is compared -------------------------------------------------------------------------------------------------


class Transcription(nn.Module):
    """The unit written down from the paper's section 3, an operation for each of its steps; state as in EMAU's."""

    def __init__(self, channels: int, *, K: int, T: int) -> None:
        super().__init__()
        self.T = T
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.register_buffer("mu", nn.functional.normalize(torch.randn(1, channels, K), dim=1))

    def reestimate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ReLU of the reconstruction (b, c, n) of pixels, and the bases."""
        with torch.no_grad():
            mu = self.get_buffer("mu").repeat(len(x), 1, 1)
            for _ in range(self.T):
                z = torch.softmax(x.transpose(1, 2) @ mu, dim=2)
                mu = x @ (z / (1e-6 + z.sum(dim=1, keepdim=True)))
                mu = mu / (1e-6 + mu.norm(dim=1, keepdim=True))
        return torch.relu_(mu @ z.transpose(1, 2)), mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The attended features and the bases."""
        y, mu = self.reestimate(self.conv1(x).flatten(2))
        return torch.relu_(self.conv2(y.view(x.shape)) + x), mu


def build(name: str, setting: Setting) -> nn.Module:
    """A unit or a rival."""
    kind, c = name.split()[0], setting.channels
    if name in RIVALS:
        return RIVALS[name](c)
    if kind == "transcription":
        return Transcription(c, K=setting.K, T=setting.T)
    return EMAU(c, K=setting.K, T=setting.T, kernel=kind)


def prepare(name: str, setting: Setting) -> Call:
    """The call of a variant, its weights and its input made."""
    torch.manual_seed(0)
    dtype, mixed = getattr(torch, setting.dtype), setting.precision.endswith("autocast")
    layout = torch.channels_last if "channels_last" in name else torch.contiguous_format
    module = build(name, setting).to(setting.device, torch.float32 if mixed else dtype, memory_format=layout)
    # Features come out of a ReLU; of such, conv1 makes pixels whose logits have a spread of 1, as normal pixels have.
    x = torch.randn(setting.images, setting.channels, setting.side, setting.side, device=setting.device, dtype=dtype)
    x = (x if setting.part == "em" else x.relu_()).contiguous(memory_format=layout)
    autocast = torch.autocast(setting.device, torch.bfloat16) if mixed else nullcontext()
    call = partial(train if setting.training else forward, function_of(module, setting), autocast)
    call(x[..., :9, :9])  # so that what libraries keep from their first call on is not counted as memory
    return at_medium(partial(call, x)) if "medium" in name else partial(call, x)


def function_of(module: nn.Module, setting: Setting) -> Function:
    """What a case applies to features (b, c, h, w): the module, or its EM alone."""
    module.train(setting.training)
    if setting.part == "unit":
        return module
    if isinstance(module, EMAU):
        module.conv1 = nn.Identity()  # the pixels are no conv1's, which the unit would write over
    return lambda x: module.reestimate(x.flatten(2))


def forward(function: Function, autocast: AbstractContextManager[object], x: Tensor) -> object:
    """Without gradient."""
    with torch.no_grad(), autocast:
        return function(x)


def train(module: nn.Module, autocast: AbstractContextManager[object], x: Tensor) -> object:
    """To the gradients of the input and of the parameters that are trained."""
    leaf = x.detach().requires_grad_()
    with autocast:
        found = module(leaf)
    y = found[0] if isinstance(found, tuple) else found
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.autograd.grad(y, [leaf, *trained], x, allow_unused=True)  # any gradient of y's shape will do


def at_medium(call: Call) -> Call:
    """The call with float32 products in bfloat16, where the machine has them; the setting is put back each time."""

    def timed() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            return call()
        finally:
            torch.set_float32_matmul_precision(before)

    return timed


# --- floor ------------------------------------------------------------------------------------------------------------


def passes(name: str, setting: Setting) -> float:
    """How often as many bytes as the input has must be read or written at least."""
    if name == "non-local":  # forward: x; queries, keys and values there and back; x again and y
        return 6 + 6 * setting.training  # backward: y's gradient, x, those three, their mix, the norm's input; x's
    if name == "double attention":  # forward: x; the second softmax there and back; x again and y
        return 3.5 + 5 * setting.training  # backward: y's gradient, x, the three maps, their mix, the norm's input; x's
    if setting.part == "em":
        return setting.T + 2
    return setting.T + (13 if setting.training else 5)  # training: 3 more in forward, 5 in backward


def operations(name: str, setting: Setting) -> float:
    """Floating-point operations of the matrix products; backward has two for each whose input has a gradient."""
    per_image, c = setting.side**2, setting.channels
    n = setting.images * per_image
    if name in RIVALS:
        share, pairs = (2, per_image) if name == "non-local" else (4, max(c // 4, 1))  # what a pixel is paired with
        m = max(c // share, 1)
        return (3 if setting.training else 1) * (8 * n * c * m + 4 * n * pairs * m)
    em = (4 * setting.T + 2) * n * c * setting.K
    # The attention branch sends no gradient: conv2's weight alone has one.
    return em if setting.part == "em" else em + (6 if setting.training else 4) * n * c**2


# --- cases ------------------------------------------------------------------------------------------------------------


def usual(device: str, side: int) -> int:
    """Images of a batch, where their number is not what is varied."""
    if device == "cuda":
        return 16
    return 1 if side > LARGE else 2


def settings(device: str, channels: int, sides: Sequence[int]) -> Iterator[Setting]:
    """The base case with one factor varied at a time, each forward and in training; and the EM alone."""
    cuda = device == "cuda"
    base = Setting(device, images=usual(device, 65), channels=channels, precision="bfloat16" if cuda else "float32")
    sizes = [replace(base, side=side, images=usual(device, side)) for side in sides]
    varied = [replace(base, K=K) for K in (16, 256)]
    varied += [replace(base, T=T) for T in (1, 6)]
    varied += [replace(base, images=images) for images in ((1, 4) if cuda else (1, 8))]
    precisions = ("float32", "bfloat16", "bfloat16 autocast")
    varied += [replace(base, precision=precision) for precision in precisions if precision != base.precision]
    for setting in (*sizes, *varied):
        yield setting
        yield replace(setting, training=True)
    for setting in sizes:
        yield replace(setting, part="em")


def names(setting: Setting) -> list[str]:
    """Variants of a case; the rivals beside the default unit alone."""
    cuda = setting.device == "cuda"
    ours = ["auto", "torch", *(["triton"] if launcher() else [])] if cuda else ["auto"]
    found = [f"{name}{layout}" for name in (*ours, "transcription") for layout in ("", " channels_last")]
    usual_batch = setting.images == usual(setting.device, setting.side)
    if setting.part == "em" or (setting.K, setting.T, usual_batch) != (64, 3, True):
        return found
    if not cuda and setting.precision == "float32" and setting.side == 65:
        found.append("auto medium")
    return found if setting.training and setting.side > LARGE else [*found, *RIVALS]


def weighed(name: str, setting: Setting) -> bool:
    """Whether memory is measured, which takes a process and seconds each time."""
    cuda = setting.device == "cuda"
    if setting.part == "em" or setting.precision != ("bfloat16" if cuda else "float32"):
        return False
    if name in RIVALS:
        return not setting.training and setting.side in (65, 129)
    return name in ("auto", "triton", "transcription") and not (cuda and (setting.K, setting.T) != (64, 3))


def variant(name: str, setting: Setting) -> Variant:
    """A way to compute a case."""
    features = setting.images * setting.channels * setting.side**2 * getattr(torch, setting.dtype).itemsize
    return Variant(
        setting.case(),
        name,
        partial(prepare, name, setting),
        bytes=passes(name, setting) * features,
        operations=operations(name, setting),
        dtype=setting.dtype,
        per_call=setting.images,
        memory=weighed(name, setting),
    )


def allocations(variants: Sequence[Variant], most: int) -> Iterator[dict[str, object]]:
    """MB of tensors that a call of ours and of the transcription makes: those that it was given are not among them."""
    for one in variants:
        if one.case["part"] == "unit" and one.case["side"] <= most and one.name.split()[0] in ("auto", "transcription"):
            call = one.build()
            call()
            with LiveMemory() as twice:
                call()
                once = twice.made
                call()  # what it was given is known by now
            yield one.case | {
                "part": "tensors made by the unit",
                "variant": one.name,
                "made_mb": round((twice.made - once) / 1e6, 1),
            }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--sides", type=int, nargs="+", default=(33, 65, 97, 129, 257), help="pixels along each side")
    parser.set_defaults(rounds=5, budget=4)
    options = parse(parser)
    found = [
        variant(name, setting)
        for setting in settings(options.device, options.channels, options.sides)
        for name in names(setting)
    ]
    also = partial(allocations, found, 129)
    main("Attention units alone, random weights and features", found, options, also=also)
