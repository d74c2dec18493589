"""Encoders that others bring: a function, registered by name, installed, or `module:function`.

    @register_encoder("colours")
    def colours():
        return Colours()

The function takes nothing and returns a `torch.nn.Module`, as the environment's option `encoder`
takes one, or an `EncoderSpec` of an architecture that is known here. Its name, or
`module:function`, then goes wherever the name of an encoder goes: options, commands and banks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from encoders.spec import EncoderSpec, Normalisation

if TYPE_CHECKING:
    from torch import nn

GROUP = "glimpse.encoders"
"""Entry points that add encoders."""

Builder = TypeVar("Builder", bound=Callable[[], Any])

_BUILDERS: dict[str, Callable[[], Any]] = {}
_KNOWN: dict[str, tuple[Callable[[], Any], EncoderSpec]] = {}

_PATCH_SIDE = 96


def register_encoder(name: str) -> Callable[[Builder], Builder]:
    """Make an encoder available by a name, in environments and in every command.

    Args:
        name: A new name, without a colon and not ending in `.json`.

    Raises:
        ValueError: The name is taken, or of another form.
    """
    if ":" in name or name.endswith(".json"):
        raise ValueError(f"the name of an encoder has no colon and no .json at its end: {name!r}")

    def register(builder: Builder) -> Builder:
        if _BUILDERS.setdefault(name, builder) is not builder:
            raise ValueError(f"an encoder named {name!r} is already registered")
        return builder

    return register


def brought_names() -> tuple[str, ...]:
    """Names of the encoders that others have brought, registered or installed, sorted."""
    return tuple(sorted({*_BUILDERS, *(entry.name for entry in entry_points(group=GROUP))}))


def find_builder(name: str) -> Callable[[], Any] | None:
    """Return the function that makes an encoder; None if nobody has brought one of that name.

    Args:
        name: Registered, of an entry point, or `module:function`.

    Raises:
        ValueError: It cannot be imported, or is no function.
    """
    if name in _BUILDERS:
        return _BUILDERS[name]
    path = {entry.name: entry.value for entry in entry_points(group=GROUP)}.get(name, name)
    if ":" not in path:
        return None
    module, _, function = path.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"encoder {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"encoder {name!r} is no function but {type(found).__name__}")
    return found


def find_spec(name: str) -> EncoderSpec | None:
    """Return the spec of an encoder that somebody has brought; None if nobody has.

    A module is made once, to learn the number of its features and the hash of what it computes.

    Raises:
        ValueError: It cannot be made, or is no encoder.
    """
    builder = find_builder(name)
    if builder is None:
        return None
    known = _KNOWN.get(name)
    if known is None or known[0] is not builder:
        known = _KNOWN[name] = (builder, _describe(name, builder))
    return known[1]


def build_module(spec: EncoderSpec) -> nn.Module:
    """Build the module of a spec whose architecture is `module`.

    Raises:
        ValueError: It cannot be made, or computes something else than it did.
    """
    from encoders.inference.modules import module_fingerprint

    assert spec.module is not None
    builder = find_builder(spec.module)
    if builder is None:
        raise ValueError(
            f"no encoder named {spec.module!r} is registered here: import the file that does it"
        )
    module = _make(spec.module, builder)
    if isinstance(module, EncoderSpec) or module_fingerprint(module) != spec.sha256:
        raise ValueError(f"the encoder {spec.module!r} has changed since its spec was made")
    return module


def _describe(name: str, builder: Callable[[], Any]) -> EncoderSpec:
    import torch

    from encoders.inference.modules import adopt, module_fingerprint

    made = _make(name, builder)
    if isinstance(made, EncoderSpec):
        return replace(made, name=name)
    _, size, _ = adopt(made, torch.device("cpu"), torch.float32, _PATCH_SIDE)
    return EncoderSpec(
        name=name,
        architecture="module",
        weights=None,
        sha256=module_fingerprint(made),
        normalisation=Normalisation(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
        feature_size=size,
        module=name,
    )


def _make(name: str, builder: Callable[[], Any]) -> Any:
    import torch

    from encoders.inference.modules import as_module

    # Random weights are the same ones every time: a name determines the features.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            made = builder()
        except TypeError as error:
            raise ValueError(
                f"encoder {name!r} cannot be made without arguments: {error}"
            ) from error
    module = made if isinstance(made, EncoderSpec) else as_module(made)
    if module is None:
        raise ValueError(
            f"encoder {name!r} gives {type(made).__name__}, neither a torch.nn.Module nor an "
            "EncoderSpec"
        )
    return module if isinstance(module, EncoderSpec) else module.eval()
