"""Modules that users bring, of every make: features as the module's own, or one sentence."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encoders.inference import make_encoder

MODULES: dict[str, Callable[[], Any]] = {}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {}


def works(make: Callable[[], Any]) -> Callable[[], Any]:
    MODULES[make.__name__] = make
    return make


def refused(message: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        REFUSED[make.__name__] = make, message
        return make

    return register


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)
        )


def batch(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(1))


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Tapped(nn.Module):
    """Features of an inner layer, caught by a hook of the given kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = network()
        self.caught: dict[str, Tensor] = {}
        hooks = {
            "method": self.keep,
            "self": lambda module, given, found: self.keep(module, given, found),
            "dict": lambda module, given, found, caught=self.caught: caught.update(x=found),
        }
        self.net[1].register_forward_hook(hooks[kind])

    def keep(self, module: nn.Module, given: Any, found: Tensor) -> None:
        self.caught["x"] = found

    def forward(self, x: Tensor) -> Tensor:
        self.net(x)
        return self.caught["x"].flatten(1)


class Scaled(nn.Module):
    """A hook keeps something whose shape does not tell of which batch it is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.scale = torch.ones(())
        self.net[1].register_forward_hook(
            lambda module, given, found: setattr(self, "scale", found.max().detach())
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


# -- what works --------------------------------------------------------------------------------


@works
def plain() -> Any:
    return network()


@works
def torchscript() -> Any:
    return torch.jit.script(network())


@works
def traced() -> Any:
    return torch.jit.trace(network().eval(), batch())


@works
def torchscript_frozen() -> Any:
    return torch.jit.freeze(torch.jit.script(network().eval()))


@works
def exported_with_any_batch() -> Any:
    return torch.export.export(
        network(), (batch(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )


@works
def module_of_an_exported_program() -> Any:
    return exported_with_any_batch().module()


@works
def symbolically_traced() -> Any:
    return torch.fx.symbolic_trace(network())


@works
def compiled() -> Any:
    return torch.compile(network())


@works
def data_parallel() -> Any:
    return nn.DataParallel(network())


@works
def weight_norm_in_a_hook() -> Any:
    module = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have the parametrisation
        torch.nn.utils.weight_norm(module[3])
    module(batch())
    return module


@works
def weight_norm() -> Any:
    module = network()
    torch.nn.utils.parametrizations.weight_norm(module[3])
    return module


@works
def spectral_norm() -> Any:
    module = network()
    torch.nn.utils.parametrizations.spectral_norm(module[3])
    return module


@works
def pruned() -> Any:
    from torch.nn.utils import prune

    module = network()
    prune.l1_unstructured(module[3], "weight", amount=0.5)
    return module


@works
def lazy_that_has_run() -> Any:
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    module(batch())
    return module


@works
def hooked() -> Any:
    module = network()
    module[0].register_forward_pre_hook(lambda module, given: (given[0] - 0.5,))
    module[0].register_forward_hook(lambda module, given, found: 2 * found)
    module.register_full_backward_hook(lambda *_: None)
    return module


@works
def tapped_by_a_method() -> Any:
    return Tapped("method")


@works
def tapped_by_a_method_that_has_run() -> Any:
    module = Tapped("method")
    module(batch(5))
    return module


@works
def double_precision() -> Any:
    return network().double()


@works
def made_in_inference_mode() -> Any:
    with torch.inference_mode():
        return network()


@works
def with_a_sparse_buffer_and_a_flag() -> Any:
    module = network()
    module.register_buffer("table", torch.eye(3).to_sparse())
    module.register_buffer("flag", torch.tensor(True))
    return module


@works
def without_parameters() -> Any:
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten())


# -- what is refused ---------------------------------------------------------------------------


@refused("dynamic_shapes")
def exported_with_one_batch() -> Any:
    return torch.export.export(network(), (batch(),))


@refused("dynamic_shapes")
def module_exported_with_one_batch() -> Any:
    return exported_with_one_batch().module()


@refused("is lazy, and '1.weight' has no values")
def lazy() -> Any:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))


@refused("'0.weight' of the encoder module has no values")
def on_the_meta_device() -> Any:
    return network().to("meta")


@refused("register a bound method")
def tapped_by_a_closure() -> Any:
    return Tapped("self")


@refused("register a bound method")
def tapped_by_a_closure_that_has_run() -> Any:
    module = Tapped("self")
    module(batch())
    return module


@refused("register a bound method")
def tapped_into_a_dict_that_has_run() -> Any:
    module = Tapped("dict")
    module(batch())
    return module


@refused("different features.*register a bound method")
def scaled_by_a_closure() -> Any:
    return Scaled()


@refused("cannot be copied .*lock")
def with_a_lock() -> Any:
    module = network()
    module.lock = threading.Lock()  # type: ignore[assignment]
    return module


@refused("fails with RuntimeError: mat1 and mat2")
def for_larger_patches() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 5))


@refused("must map .* N=2 it gave dict")
def of_named_outputs() -> Any:
    return Function(lambda x: {"features": x.flatten(1)})


@refused(r"must map .* N=2 it gave \(2, 3, 9216\)")
def of_rows() -> Any:
    return Function(lambda x: x.flatten(2))


@refused("must map .* N=1 it gave")
def squeezing() -> Any:
    return Function(lambda x: x.mean((2, 3)).squeeze())


@refused("the class Linear itself; make one")
def a_class() -> Any:
    return nn.Linear


@refused("not function")
def a_function() -> Any:
    return lambda x: x.flatten(1)


# -- the tests ---------------------------------------------------------------------------------


def make(build: Callable[[], Any]) -> Any:
    """Make a module; kinds that this version of torch does not know are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return build()
        except (AttributeError, NotImplementedError) as error:
            pytest.skip(f"this torch cannot make it: {error}")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_its_own_features(name: str) -> None:
    given = make(MODULES[name])
    module = given.module() if isinstance(given, torch.export.ExportedProgram) else given
    patches = torch.randint(
        0, 256, (7, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    encoder = make_encoder(given, device="cpu")
    found = encoder(patches)
    if module is given and not isinstance(given, torch.fx.GraphModule):
        module.eval()
    held = next(module.parameters(), torch.zeros(()))
    with torch.no_grad():
        expected = module((patches.permute(0, 3, 1, 2) / 255).to(held.dtype)).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(encoder(patches[:1]), found[:1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(copy.deepcopy(encoder)(patches), found)
    assert not found.requires_grad


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_serve_is_refused_in_one_sentence(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make_encoder(make(build), device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 420


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_torchscript_from_a_file(tmp_path: Path) -> None:
    torch.jit.script(network()).save(str(tmp_path / "encoder.pt"))
    loaded = torch.jit.load(str(tmp_path / "encoder.pt"))
    patches = torch.full((1, 96, 96, 3), 51, dtype=torch.uint8)
    expected = network()(torch.full((1, 3, 96, 96), 0.2)).detach()
    torch.testing.assert_close(make_encoder(loaded, device="cpu")(patches), expected)


def test_trying_a_module_leaves_it_as_it_is() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), *network(), nn.Dropout()).train()
    module[1].eval()
    module[0].register_forward_hook(lambda module, given, found: found)
    before = copy.deepcopy(module.state_dict())
    make_encoder(module, device="cpu")
    assert module.training and module[0].training and not module[1].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    "function",
    [lambda x: x.flatten(1)[:, :5] - x.mean(), lambda x: x.flatten(1)[:, :5] + torch.rand(5)],
    ids=["of the batch", "of chance"],
)
def test_features_that_depend_on_the_batch_or_on_chance_are_warned_of(function: Any) -> None:
    with pytest.warns(UserWarning, match="other patches"):
        make_encoder(Function(function), device="cpu")


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_the_code_of_torchscript_counts_in_its_fingerprint() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :4]

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, 1:5]

    First.__qualname__ = Second.__qualname__ = "Encoder"
    modules = [torch.jit.script(kind()) for kind in (First, First, Second)]
    prints = [make_encoder(module, device="cpu").fingerprint for module in modules]
    assert prints[0] == prints[1] != prints[2]


def test_an_address_in_a_modules_description_is_not_in_its_fingerprint() -> None:
    class Described(Function):
        def extra_repr(self) -> str:
            return repr(object())

    module = Described(lambda x: x.flatten(1))
    prints = {make_encoder(module, device="cpu").fingerprint for _ in range(3)}
    assert len(prints) == 1
