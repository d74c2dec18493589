"""Encoders that others bring: a function, registered by name, installed, or `module:function`.

    @register_encoder("colours")
    def colours():
        return Colours()

The function returns a `torch.nn.Module`, as the environment's option `encoder` takes one; a
`ModuleSource`, a module with its scale of input and where its weights are from; or an `EncoderSpec`
of an architecture that is known here. It takes nothing, or `patch_side`, the side of the patches to
come, whose default is the side that the encoder is tried on when its name is looked up (96 if it
has none). Its name, or `module:function`, then goes wherever the name of an encoder goes: options,
commands and banks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, TypeVar

from encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from encoders.sources import ModuleSource

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
        name: Registered, of an entry point, `timm:NAME` or `module:function`.

    Raises:
        ValueError: It cannot be imported, or is no function.
    """
    if name in _BUILDERS:
        return _BUILDERS[name]
    if name.startswith("timm:"):
        from encoders.timm_models import timm_builder

        return timm_builder(name)
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


def build_source(spec: EncoderSpec, patch_side: int = _PATCH_SIDE) -> ModuleSource:
    """Build the module of a spec whose architecture is `module`, for patches of one side.

    Raises:
        ValueError: It cannot be made, or computes something else than it did.
        WeightsNotFoundError: Its weights are not there.
    """
    assert spec.module is not None
    builder = find_builder(spec.module)
    if builder is None:
        raise ValueError(
            f"no encoder named {spec.module!r} is registered here: import the file that does it"
        )
    made = _make(spec.module, builder, patch_side)
    found = None if isinstance(made, EncoderSpec) else made.sha256
    if found is None and not isinstance(made, EncoderSpec):
        if patch_side == _tried_on(builder):
            found = _hash(made)
        else:  # what it holds may depend on the side: compare at the one that its name stands for
            known = find_spec(spec.module)
            found = None if known is None else known.sha256
    if isinstance(made, EncoderSpec) or found != spec.sha256:
        raise ValueError(f"the encoder {spec.module!r} has changed since its spec was made")
    return made


def _hash(source: ModuleSource) -> str:
    from encoders.inference.modules import module_fingerprint

    return source.sha256 or module_fingerprint(source.module)


def _patch_side_of(builder: Callable[..., Any]) -> Parameter | None:
    try:
        return signature(builder).parameters.get("patch_side")
    except (TypeError, ValueError):  # a builtin, whose arguments are not known
        return None


def _tried_on(builder: Callable[..., Any]) -> int:
    """The side of patches that an encoder is tried on when its name is looked up."""
    parameter = _patch_side_of(builder)
    given = None if parameter is None else parameter.default
    return given if type(given) is int else _PATCH_SIDE


def _describe(name: str, builder: Callable[..., Any]) -> EncoderSpec:
    import torch

    from encoders.inference.modules import adopt

    made = _make(name, builder, None)
    if isinstance(made, EncoderSpec):
        return replace(made, name=name)
    size = made.feature_size
    if size is None:
        _, size, _ = adopt(made.module, torch.device("cpu"), torch.float32, _tried_on(builder))
    return EncoderSpec(
        name=name,
        architecture="module",
        weights=made.weights,
        sha256=_hash(made),
        normalisation=made.normalisation,
        feature_size=size,
        seen=made.seen,
        module=name,
    )


def _make(
    name: str, builder: Callable[..., Any], patch_side: int | None
) -> ModuleSource | EncoderSpec:
    """Call a builder, for patches of one side if it asks, or at its own if that is None."""
    import torch

    from encoders.inference.modules import as_module
    from encoders.sources import ModuleSource

    given: dict[str, Any] = {}
    parameter = _patch_side_of(builder)
    if parameter is not None and patch_side is None and parameter.default is Parameter.empty:
        patch_side = _PATCH_SIDE
    if parameter is not None and patch_side is not None:
        given["patch_side"] = patch_side
    # Random weights are the same ones every time: a name determines the features.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            made = builder(**given)
        except TypeError as error:
            raise ValueError(
                f"encoder {name!r} cannot be made without arguments: {error}"
            ) from error
    if isinstance(made, EncoderSpec):
        return made
    source = made if isinstance(made, ModuleSource) else None
    module = as_module(made if source is None else source.module)
    if module is None:
        raise ValueError(
            f"encoder {name!r} gives {type(made).__name__}, neither a torch.nn.Module nor an "
            "EncoderSpec"
        )
    return ModuleSource(module.eval()) if source is None else replace(source, module=module.eval())


@register_encoder("efficientnet_lite0")
def _efficientnet_lite0(patch_side: int = 224) -> ModuleSource:
    from encoders.efficientnet_lite import build

    return build("efficientnet_lite0", patch_side)


@register_encoder("efficientnet_lite2")
def _efficientnet_lite2(patch_side: int = 224) -> ModuleSource:
    from encoders.efficientnet_lite import build

    return build("efficientnet_lite2", patch_side)
