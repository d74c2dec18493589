"""Models of timm as encoders: `timm:NAME`, with timm's own names, weights and caches.

`NAME` is what `timm.create_model` takes: a model with or without its tag
(`resnet18.a1_in1k`), `hf-hub:OWNER/REPOSITORY@REVISION`, or `local-dir:FOLDER`, a folder that
`timm.models.save_for_hf` wrote. The vector is what timm's classifier would read
(`forward_head(..., pre_logits=True)`: the mean of a map, the class token, or the mean of tokens),
the map is what `forward_features` gives: of a model of tokens those of the patches.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from encoders.inference.modules import said
from encoders.sources import ModuleSource, update_digest
from encoders.spec import SEEN_IMAGENET, Normalisation
from encoders.weights.files import WeightsNotFoundError

PREFIX = "timm:"
"""How names of timm's models begin."""

_SIDES = range(64, 225)
_IMAGENET = ("in1k", "in12k", "in21k", "in22k")


@cache
def timm_builder(name: str) -> Callable[..., ModuleSource]:
    """Return the function that makes a model of timm, for `encoders.registry`.

    Args:
        name: With its prefix, `timm:NAME`.
    """

    def build(patch_side: int | None = None) -> ModuleSource:
        return _build(name, patch_side)

    return build


class TimmTrunk(nn.Module):
    """A model of timm as an encoder: normalised pixels to features, and a map where it has one."""

    def __init__(self, model: nn.Module) -> None:
        """Take over a model without a classifier."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Features [N, D], with the map [N, C, h, w] where there is one."""
        found = self.model.forward_features(x)  # type: ignore[operator]
        features = self.model.forward_head(found, pre_logits=True)  # type: ignore[operator]
        feature_map = self._map(found)
        features = features.flatten(1)
        return features if feature_map is None else (features, feature_map)

    def _map(self, found: Any) -> Tensor | None:
        if not isinstance(found, Tensor):
            return None
        if found.ndim == 4:
            last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
            return found.permute(0, 3, 1, 2) if last else found
        if found.ndim != 3:
            return None
        tokens = found[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:  # not a square of patches: there is no map
            return None
        return tokens.transpose(1, 2).unflatten(2, (side, side))


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ValueError(
            f"encoders named {PREFIX}NAME need timm ({error}): pip install 'glimpse-env[timm]'"
        ) from error


def _build(name: str, patch_side: int | None) -> ModuleSource:
    """Make a model with its weights, at its own size of input or for patches of one side.

    Raises:
        ValueError: timm is not installed, or knows no such model, or it has no weights, or cannot
            take patches of this side.
        WeightsNotFoundError: Its weights are neither in a cache nor to be fetched.
    """
    timm, called = _timm(), name.removeprefix(PREFIX)
    local = called.partition(":")[0] == "local-dir"
    if ":" not in called:
        _check_known(timm, name, called)
    elif local:
        _check_folder(name, Path(called.partition(":")[2]))
    overlay, commit = _cached(timm, called)
    model = _create(timm, name, called, overlay)
    cfg = model.pretrained_cfg
    architecture = str(cfg.get("architecture") or called)
    sha256 = _fingerprint(model, architecture)
    if patch_side is not None:
        model = _fitted(timm, name, called, overlay, model, patch_side)
    source = called if not local else f"folder {Path(called.partition(':')[2]).name}"
    hub = cfg.get("hf_hub_id") if not local else None
    if hub:
        source = hub if commit is None else f"{hub}@{commit}"
    mean, std = (
        tuple(255.0 * float(value) for value in cfg.get(key) or default)
        for key, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225)))
    )
    return ModuleSource(
        TimmTrunk(model).eval(),
        normalisation=Normalisation(mean=mean, std=std),  # type: ignore[arg-type]
        seen=_seen(called if ":" in called else f"{architecture}.{cfg.get('tag') or ''}", cfg),
        weights=f"timm {timm.__version__}, {source}",
        sha256=sha256,
        feature_size=int(getattr(model, "head_hidden_size", None) or model.num_features),
    )


def _check_known(timm: Any, name: str, called: str) -> None:
    architecture = called.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise ValueError(
            f"timm {timm.__version__} has no model named {architecture!r} ({name}){hint}"
        )
    tags = timm.list_pretrained(f"{architecture}*")
    own = sorted(each for each in tags if each.partition(".")[0] == architecture)
    if "." in called and called not in own:
        known = f"it has {', '.join(own[:8])}" if own else "it has none"
        raise ValueError(f"timm has no weights named {called!r} for {architecture}: {known}")
    if not own:
        raise ValueError(
            f"timm has no weights for {name}: save a model of your own to a folder with "
            "timm.models.save_for_hf, and name it timm:local-dir:FOLDER"
        )


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise WeightsNotFoundError(
            f"no model of timm in {folder} (no config.json), which {name} names: write one with "
            "timm.models.save_for_hf"
        )


def _cached(timm: Any, called: str) -> tuple[dict[str, Any], str | None]:
    """Find the weights of a registered model in the cache, so that no network is asked.

    Returns:
        What to lay over timm's configuration, and the commit of the weights; neither if they are
        not there.
    """
    if ":" in called:
        return {}, None
    cfg = timm.get_pretrained_cfg(called)
    repository = getattr(cfg, "hf_hub_id", None)
    if not repository:
        return {}, None
    hub = import_module("huggingface_hub")
    own = getattr(cfg, "hf_hub_filename", None)
    for file in (own,) if own else ("model.safetensors", "pytorch_model.bin"):
        found = hub.try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            # The cache lays a file of a commit to snapshots/COMMIT/FILE; FILE may have folders.
            commit = Path(found).parents[len(Path(file).parts) - 1]
            return {"file": found}, commit.name if commit.parent.name == "snapshots" else None
    return {}, None


def _create(timm: Any, name: str, called: str, overlay: dict[str, Any], **more: Any) -> Any:
    try:
        return timm.create_model(
            called,
            pretrained=True,
            num_classes=0,
            pretrained_cfg_overlay=overlay or None,
            **more,
        ).eval()
    except Exception as error:
        if isinstance(error, (OSError, ConnectionError)) or _of_network(error):
            raise WeightsNotFoundError(
                f"the weights of {name} are in no cache and cannot be fetched ({said(error)}): "
                "run once where there is a network, or save the model to a folder with "
                "timm.models.save_for_hf and name it timm:local-dir:FOLDER"
            ) from error
        raise ValueError(f"timm cannot make {name} ({said(error)})") from error


def _of_network(error: Exception) -> bool:
    """Say whether an error, or what it follows from, is of a library that fetches."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "requests"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _fitted(
    timm: Any, name: str, called: str, overlay: dict[str, Any], model: Any, side: int
) -> Any:
    """Make a model whose size of input is fixed take patches of a side; others take any."""
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "patch_size", None)
    if embedding is None or size is None:
        return model
    step = max(size) if isinstance(size, (tuple, list)) else int(size)
    if side % step:
        near = [s for s in (side - side % step, side - side % step + step) if s in _SIDES]
        raise ValueError(
            f"{name} cannot take patches of {side} pixels, since it divides them into squares of "
            f"{step}: take patch_side={' or '.join(map(str, near))}"
        )
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(side, side))
        elif getattr(embedding, "img_size", None) not in (None, side, (side, side)):
            model = _create(timm, name, called, overlay, img_size=side)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot take patches of {side} pixels ({said(error)})") from error
    return model


def _fingerprint(model: nn.Module, architecture: str) -> str:
    """Hash (hex) of what determines the features: architecture, readout and weights.

    Of the model at its own size of input; how timm prints it does not count.
    """
    pool = getattr(model, "global_pool", "")
    pool = pool if isinstance(pool, str) else type(pool).__name__
    digest = hashlib.sha256(f"timm {architecture} {pool}".encode())
    update_digest(digest, model.state_dict())
    return digest.hexdigest()


def _seen(called: str, cfg: Any) -> str:
    """A sentence on the images the weights were trained on, as far as timm tells."""
    size = cfg.get("input_size") or (3, "?", "?")
    how = (
        f"weights of timm's {called.rpartition('/')[2] if ':' in called else called}, trained at "
        f"{size[1]} x {size[2]} with {cfg.get('interpolation') or 'unknown'} resizing (patches are "
        "resized bilinearly)"
    )
    # A folder may hold anything under the name of the model that it was begun from.
    if not called.startswith("local-dir:") and any(each in called for each in _IMAGENET):
        return f"{how}; by their name {SEEN_IMAGENET}"
    return f"{how}; on which images is not on record: ask who trained them"
