"""Encoders that users bring: any `torch.nn.Module`, copied, tried and frozen, or refused.

Whatever cannot serve as an encoder is refused here in one sentence, when it is handed in, and not
by an error in the middle of an episode.
"""

from __future__ import annotations

import copy
import hashlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from encoders.cells import average_cells, read_out
from encoders.sources import update_digest

_FORM = (
    "an encoder module must map [N, 3, P, P] to features [N, D], to a map [N, C, h, w] or to both "
    "as a pair"
)
_HOOK_HINT = (
    "; it has hooks, and what a hook refers to by a closure belongs to the module that was handed "
    "in, not to its copy: register a bound method instead"
)
_EXPORT_HINT = "; export it with dynamic_shapes that leave N open"


def as_module(encoder: Any) -> nn.Module | None:
    """Return what is a module, or holds one, as a module; None for anything else.

    A program of `torch.export` becomes the module that runs it. A compiled module becomes the one
    that was compiled, since the copy would be compiled once for every size of a batch.
    """
    if isinstance(encoder, torch.export.ExportedProgram):
        return encoder.module()
    if isinstance(encoder, nn.Module):
        plain = getattr(encoder, "_orig_mod", None)
        return plain if isinstance(plain, nn.Module) else encoder
    return None


def adopt(
    module: nn.Module, device: torch.device, dtype: torch.dtype, patch_side: int
) -> tuple[nn.Module, int, tuple[int, int, int] | None]:
    """Copy a user's module, and try the copy.

    Args:
        module: Maps floats [N, 3, P, P] in 0..1 to features [N, D], to a map [N, C, h, w] whose
            mean is the features, or to a pair of both; it is not changed.
        device: Where the copy will compute.
        dtype: In which arithmetic.
        patch_side: P.

    Returns:
        The copy in evaluation mode, its output checked at every call; D; and (h, w, C) of a map.

    Raises:
        ValueError: The module cannot be copied, or gives none of these for any N.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise ValueError(
                f"the encoder module is lazy, and {name!r} has no values yet, so that every copy "
                f"would draw its own: run it once on [N, 3, {patch_side}, {patch_side}] first"
            )
        if value.is_meta:
            raise ValueError(
                f"{name!r} of the encoder module has no values (it is on the meta device): load "
                "its weights first"
            )
    own = ModuleAdapter(_copied(module))
    own.train(False)
    hooked = any(_hooks(part) for part in module.modules())
    # A graph that was exported checks its input in a hook of torch's own.
    graph = isinstance(module, torch.fx.GraphModule)
    hint = _EXPORT_HINT if graph else _HOOK_HINT if hooked else ""
    patches = torch.rand(2, 3, patch_side, patch_side, generator=torch.Generator().manual_seed(0))
    try:
        own.to(device, dtype)
        given = patches.to(device, dtype)
        with torch.inference_mode():
            pair, single = own(given), own(given[:1])
            made = own.module(given)
    except _WrongShape as error:
        raise ValueError(f"{error}{hint}") from None
    except Exception as error:
        raise ValueError(
            f"the encoder module, tried on patches [N, 3, {patch_side}, {patch_side}] with N = 2 "
            f"and N = 1, fails with {said(error)}{hint}"
        ) from error
    if hooked and not _agrees(module, own, patches):
        raise ValueError(f"the encoder module and its copy give different features{hint}")
    tolerance = (0.05 if dtype == torch.bfloat16 else 1e-3) * float(pair.abs().max())
    if not torch.allclose(pair[:1].float(), single.float(), rtol=0, atol=tolerance, equal_nan=True):
        warnings.warn(
            "the encoder module gives other features of a patch where other patches are in the "
            "batch (or by chance): batches of environments will differ from single ones",
            stacklevel=4,
        )
    last = made[1] if isinstance(made, tuple) else made
    if last.ndim != 4:
        return own, pair.shape[1], None
    _, channels, height, width = last.shape
    return own, pair.shape[1], (height, width, channels)


class _WrongShape(ValueError):
    """The output of a module has another form than it must have."""


class ModuleAdapter(nn.Module):
    """Checks the output of a user's own module, whose mistakes surface here first."""

    def __init__(self, module: nn.Module) -> None:
        """Take over the module."""
        super().__init__()
        self.module = module

    def forward(self, x: Float[Tensor, "N 3 P P"], grid: int = 1) -> Float[Tensor, "N F"]:
        """Features of patches, and the cells of a map; see `read_out`.

        Raises:
            ValueError: The output is neither [N, D] nor [N, C, h, w], nor a pair of both.
        """
        found = self.module(x)
        if isinstance(found, tuple):
            return self._of_pair(found, len(x), grid)
        if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise _WrongShape(f"{_FORM}; for N={len(x)} it gave {got}")
        return found if found.ndim == 2 else read_out(found, grid)

    @staticmethod
    def _of_pair(found: tuple[Any, ...], count: int, grid: int) -> Tensor:
        shapes = [tuple(part.shape) for part in found if isinstance(part, Tensor)]
        if [len(shape) for shape in shapes] != [2, 4] or {shape[0] for shape in shapes} != {count}:
            got = f"a pair of {shapes[0]} and {shapes[1]}" if len(shapes) == 2 else "a tuple"
            raise _WrongShape(f"{_FORM}; for N={count} it gave {got}")
        features, last = found
        if grid == 1:
            return features
        return torch.cat([features.float(), average_cells(last, grid).flatten(1)], 1)

    def train(self, mode: bool = True) -> ModuleAdapter:
        """Switch the mode, where the module has one: programs of `torch.export` have none."""
        self.training = mode
        try:
            self.module.train(mode)
        except NotImplementedError:
            pass
        return self


def module_fingerprint(module: nn.Module) -> str:
    """Hash (hex) of a user's module: its class, structure and state.

    Its code counts where the module holds it (TorchScript, graphs), else it does not.
    """
    kind = type(module)
    # Where a function or an object is printed with its address, that is another in each process.
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module))
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}\n{structure}".encode())
    update_digest(digest, module.state_dict())
    for name, part in module.named_modules():
        if isinstance(part, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            try:
                digest.update(f"\n{name}\n{part.code}".encode())
            except (AttributeError, RuntimeError):  # a part without a forward of its own
                continue
    return digest.hexdigest()


def said(error: Exception) -> str:
    """Kind and first line of an error, to stand within a sentence."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}"


def _copied(module: nn.Module) -> nn.Module:
    # torch copies no tensor that was computed from others, as modules keep them that normalise or
    # prune their weights in a hook, or that remember activations.
    computed = {id(value): value.detach().clone() for value in _computed(module)}
    try:
        with torch.no_grad():  # under autograd copies of TorchScript are no leaves
            return copy.deepcopy(module, computed)
    except Exception as error:
        raise ValueError(
            f"the encoder module cannot be copied ({said(error)}): take out what it holds beside "
            "parameters, buffers and plain values"
        ) from error


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """Find the tensors with a history among what the parts of a module hold."""
    seen: set[int] = set()
    left: list[Any] = [vars(part) for part in module.modules()]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple, set)):
            left += value


def _hooks(part: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks")
    return any(getattr(part, name, None) for name in names)


def _agrees(module: nn.Module, own: ModuleAdapter, patches: Tensor) -> bool:
    """Return whether a copy with hooks does what the module does, which stays as it is."""
    modes = [(part, part.training) for part in module.modules()]
    held = next(module.parameters(), patches)
    given = patches.to(held.device, held.dtype if held.is_floating_point() else patches.dtype)
    try:
        module.eval()
        with torch.no_grad():
            expected = module(given)
            module(1 - given)  # what a hook has left in the module is now of other patches
            parameter = next(own.parameters(), given)
            found = own.module(given.to(parameter.device, parameter.dtype))
    except Exception:  # the module computes only elsewhere: nothing can be compared here
        return True
    finally:
        for part, mode in modes:
            part.training = mode
    if isinstance(expected, tuple):
        expected, found = expected[0], found[0]
    expected, found = expected.detach().float().cpu(), found.float().cpu()
    low = torch.bfloat16 in (held.dtype, parameter.dtype)
    tolerance = (0.1 if low else 1e-2) * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=tolerance, equal_nan=True
    )
