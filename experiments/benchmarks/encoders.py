"""What a glimpse costs by several encoders, each at its patch side.

Patches a second and multiply-adds. `make_encoder` builds each as an environment does; the record
has its fingerprint, by which `docs/tables.py` puts it beside accuracies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from encoders.inference.devices import DeviceNotAvailableError
from encoders.inference.engine import Encoder, build_network, make_encoder
from encoders.registry import build_source
from encoders.spec import EncoderSpec, get_spec
from encoders.weights.files import WeightsNotFoundError
from experiments.benchmarks.peak import count_flops
from experiments.benchmarks.timing import (
    Contender,
    Result,
    draw_patches,
    encoding,
    interleave,
    machine_record,
)
from experiments.data import RESOLUTIONS
from glimpse_env.pyramids.pyramid import PATCH_SIDE, check_patch_side

CLAIM = "What a patch costs each encoder, at its patch side; nothing is claimed."
DEFAULT = ("googlenet", "efficientnet_lite2", "inception_mini")
"""Encoders that are measured where none is named; those without weights here are left out."""


def run(*, quick: bool = False, encoders: Sequence[str] = ()) -> Result:
    """Measure the encoders by turns.

    Args:
        quick: Two patches and short windows; proves nothing.
        encoders: Names, each with `@P` at its end for patches of P pixels; all must be there. By
            default those of `DEFAULT` that are.

    Raises:
        ValueError, FileNotFoundError: An encoder that was named cannot be built.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    batch = 2 if quick else 256 if cuda else 32
    windows, seconds = (2, 0.0) if quick else (9, 1.0)
    machine = machine_record(("timm", "openvino", "numba"))
    made: dict[str, tuple[EncoderSpec, int, Encoder]] = {}
    absent = []
    for name in dict.fromkeys(encoders or DEFAULT):
        called, side = parse(name)
        try:
            spec = get_spec(called)
            made[name] = (spec, side, make_encoder(spec, device=device, patch_side=side))
        except (ValueError, WeightsNotFoundError, DeviceNotAvailableError) as error:
            if encoders:
                raise
            absent.append(f"Left out: {name} ({error}).")
    generator = torch.Generator().manual_seed(0)
    contenders = [
        Contender(name, encoding(encoder, draw_patches(batch, generator, side).to(device)))
        for name, (_, side, encoder) in made.items()
    ]
    rates = interleave(contenders, windows=windows, seconds=seconds, warm_up=2)
    found = {
        name: {
            "name": spec.name,
            "fingerprint": encoder.fingerprint,
            "patch_side": side,
            "features": encoder.feature_size,
            "map": None if encoder.map_shape is None else list(encoder.map_shape),
            "precision": encoder.precision,
            "backend": encoder.backend,
            "macs_a_patch": count_macs(spec, side),
            "patches_a_second": rates[name].record(),
        }
        for name, (spec, side, encoder) in made.items()
    }
    most = len(RESOLUTIONS)
    header = ("encoder", "P", "arithmetic", "patches a second, median (quartiles)")
    header += ("MACs, a glimpse of one patch", f"of {most}")
    return Result(
        claim=CLAIM,
        holds=True,
        header=header,
        rows=tuple(
            (
                name,
                str(each["patch_side"]),
                each["precision"],
                rates[name].clock_cell(1),
                f"{each['macs_a_patch'] / 1e9:.2f} G",
                f"{most * each['macs_a_patch'] / 1e9:.2f} G",
            )
            for name, each in found.items()
        ),
        notes=(
            f"Batches of {batch} patches, {torch.get_num_threads()} thread(s), by turns: what else "
            "the machine does falls on all alike.",
            "Multiply-adds are those of convolutions and matrix products of the plain module; an "
            "episode has a context of one patch besides its glimpses.",
            *absent,
        ),
        measured={
            "environment": machine,
            "settings": {"batch": batch, "windows": windows, "seconds": seconds},
            "encoders": found,
        },
    )


def parse(name: str) -> tuple[str, int]:
    """Split a name from the patch side at its end.

    Args:
        name: An encoder's, with `@P` for another P than 96.

    Returns:
        The encoder's name and P.

    Raises:
        ValueError: A side that patches cannot have.

    Example:
        >>> parse("efficientnet_lite2@128")
        ('efficientnet_lite2', 128)
    """
    found = re.fullmatch(r"(.+)@(\d{1,3})", name)
    return (name, PATCH_SIDE) if found is None else (found[1], check_patch_side(int(found[2])))


def count_macs(spec: EncoderSpec, patch_side: int) -> int:
    """Count the multiply-adds of one patch, of convolutions and matrix products.

    Args:
        spec: The encoder; weights do not count, and need not be there.
        patch_side: P.

    Returns:
        Half of the floating-point operations of the plain module.

    Example:
        >>> count_macs(get_spec("inception_mini"), 96) < count_macs(get_spec("googlenet"), 96)
        True
    """
    network: nn.Module
    if spec.architecture == "module":
        network = build_source(spec, patch_side).module
    else:
        network = build_network(replace(spec, weights=None, sha256=None))
    return count_flops(network.eval(), torch.zeros(1, 3, patch_side, patch_side)) // 2
