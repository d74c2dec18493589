import itertools
import math

import pytest
import torch
from torch.nn import functional

from agents.configs import TwoDeckConfig
from agents.networks import Memory, ScaledLinear, TwoDeckNetwork, dropout, standardise
from tests.agents.toys import tiny


def make(seed=0, **changes) -> TwoDeckNetwork:
    torch.manual_seed(seed)
    return TwoDeckNetwork(tiny(**changes)).double()


def inputs(config, batch=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    context = torch.rand(batch, config.feature_size, generator=g, dtype=torch.float64)
    glimpses = torch.rand(
        config.num_glimpses,
        batch,
        config.num_resolutions,
        config.feature_size,
        generator=g,
        dtype=torch.float64,
    )
    locations = torch.rand(config.num_glimpses, batch, 2, generator=g, dtype=torch.float64) - 0.5
    return context, glimpses, locations


VARIANTS = list(
    itertools.product(("rnn", "lstm", "gru"), ("concatenate", "multiply"), ("gaussian", "mixture"))
)


@pytest.mark.parametrize(("core", "combine", "density"), VARIANTS)
def test_every_variant_runs_and_trains_all_its_parameters(core, combine, density):
    network = make(core=core, combine=combine, location_density=density)
    context, glimpses, locations = inputs(network.config)
    memory = network.begin(context)
    outputs = []
    for features, location in zip(glimpses, locations, strict=True):
        density_ = network.where(memory)
        outputs += [density_.log_prob(location), density_.mode(), network.value(memory)]
        memory = network.look(features, location, memory)
    log_probs = network.classify(memory)
    assert density_.mode().shape == (4, 2)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    # The baseline starts at 0, without a gradient for its input: give it a weight to see its path.
    loss = log_probs[:, 0].sum() + sum(output.square().sum() for output in outputs)
    (loss + (network.value(memory) - 1.0).square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_one_step_follows_the_equations():
    network = make()
    context, glimpses, locations = inputs(network.config)
    weights = dict(network.named_parameters())

    def linear(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    relu = torch.relu
    r2 = relu(linear("context.linear", context))
    r1 = torch.zeros_like(r2)
    memory = network.begin(context)
    for v, l_n in zip(glimpses, locations, strict=True):
        lhat = linear("location.means", r2 / math.sqrt(r2.shape[1]))
        torch.testing.assert_close(network.where(memory).mode(), lhat)
        what = relu(linear("glimpse.image", v.reshape(len(v), -1)))
        g = relu(
            linear("glimpse.combine", torch.cat((what, relu(linear("glimpse.location", l_n))), 1))
        )
        r1 = relu(linear("core.lower.input", g) + r1 @ weights["core.lower.recurrent.weight"].T)
        r2 = relu(linear("core.upper.input", r1) + r2 @ weights["core.upper.recurrent.weight"].T)
        memory = network.look(v, l_n, memory)
    scores = functional.log_softmax(linear("classification.linear", r1), -1)
    torch.testing.assert_close(network.classify(memory), scores)


def test_multiply_is_the_product_of_what_and_where():
    network = make(combine="multiply")
    _, glimpses, locations = inputs(network.config)
    glimpse = network.glimpse
    expected = torch.relu(glimpse.image(glimpses[0].flatten(1))) * torch.relu(
        glimpse.location(locations[0])
    )
    torch.testing.assert_close(glimpse(glimpses[0], locations[0]), expected)
    at_center = glimpse(glimpses[0], torch.zeros(4, 2, dtype=torch.float64))
    assert at_center.abs().sum() > 0, "a glimpse at the centre must not vanish"


@pytest.mark.parametrize(("core", "combine", "density"), VARIANTS)
def test_the_context_reaches_the_classes_only_through_the_locations(core, combine, density):
    network = make(core=core, combine=combine, location_density=density)
    context, glimpses, locations = inputs(network.config)
    context.requires_grad_()
    held, free = network.begin(context), network.begin(context)
    for features, location in zip(glimpses, locations, strict=True):
        held = network.look(features, location, held)
        free = network.look(features, network.where(free).mode(), free)
    (gradient,) = torch.autograd.grad(
        network.classify(held).square().sum(), context, allow_unused=True
    )
    assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))
    (gradient,) = torch.autograd.grad(network.classify(free).square().sum(), context)
    assert gradient.abs().sum() > 0, "through the locations there must be a way"


def test_the_baseline_trains_only_itself():
    network = make()
    context, glimpses, locations = inputs(network.config)
    memory = network.look(glimpses[0], locations[0], network.begin(context))
    (network.value(memory) - 1.0).square().sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {"baseline.linear.weight", "baseline.linear.bias"}


def test_a_gradient_survives_many_glimpses():
    network = make(num_glimpses=40, hidden_size=64)
    _, glimpses, locations = inputs(network.config)
    features = glimpses[0].clone().requires_grad_()
    memory = network.look(features, locations[0], Memory(None, None), upper=False)
    for later, location in zip(glimpses[1:], locations[1:], strict=True):
        memory = network.look(later, location, memory, upper=False)
    (gradient,) = torch.autograd.grad(network.classify(memory)[:, 0].sum(), features)
    assert 1e-6 < gradient.norm() < 1e3


@pytest.mark.parametrize("hidden_size", (64, 4096))
def test_first_fixations_lie_near_the_center_whatever_the_width(hidden_size):
    torch.manual_seed(0)
    config = TwoDeckConfig(
        feature_size=1024, hidden_size=hidden_size, image_width=8, glimpse_width=8, num_classes=3
    )
    network = TwoDeckNetwork(config)
    features = torch.rand(64, 1024) * 1.5  # as GoogLeNet's: non-negative, mean 0.75
    means = network.where(network.begin(features)).mode()
    assert means.abs().max() < 0.5
    assert means.std() > 1e-3, "not all at one point: images must differ from the start"


@pytest.mark.parametrize("squash", ("linear", "tanh"))
def test_squash_bounds_the_mean_or_not(squash):
    network = make(squash=squash)
    network.location.means.bias.data.fill_(3.0)
    means = network.where(network.begin(inputs(network.config)[0])).mode()
    assert bool((means.abs() < 1).all()) == (squash == "tanh")


def test_mixture_means_start_apart():
    network = make(location_density="mixture", num_components=3)
    means = network.where(network.begin(inputs(network.config)[0])).means[0]
    assert torch.pdist(means).min() > 0.3


def test_scaled_head_moves_as_far_at_any_width():
    """One step of gradient descent moves the output by learning_rate * |r|^2 / N, N falling out."""
    moves = []
    for width in (64, 4096):
        head, r = ScaledLinear(width, 1, gain=0.0), torch.ones(1, width)
        head(r).sum().backward()
        head.weight.data -= 0.01 * head.weight.grad
        moves.append(head(r).item())
    assert moves == pytest.approx([-0.01, -0.01], rel=1e-4)


def test_normalise_features_takes_out_scale_and_offset():
    network = make(normalise_features="layer")
    context, glimpses, locations = inputs(network.config)
    seen = network.look(glimpses[0], locations[0], network.begin(context))
    scaled = network.look(3 * glimpses[0] + 2, locations[0], network.begin(5 * context - 1))
    torch.testing.assert_close(seen.lower[0], scaled.lower[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen.upper[0], scaled.upper[0], rtol=1e-3, atol=1e-3)


def test_root_features_are_the_signed_roots_standardised():
    plain, rooted = make(normalise_features="layer"), make(normalise_features="root")
    context, _, _ = inputs(plain.config)
    signed = torch.where(context < 0, -((-context).sqrt()), context.clamp(min=0).sqrt())
    torch.testing.assert_close(
        rooted.begin(context).upper[0], plain.begin(signed).upper[0], rtol=1e-5, atol=1e-6
    )


def test_roots_are_exact_where_features_are_zero():
    values = torch.tensor([0.0, -0.0, 1e-12, -1e-12, 2.0, -2.0, 6e4, 5.9e-8] * 512)
    values[torch.arange(0, 4096, 3)] = 0.0  # as after a ReLU
    slow = [math.copysign(math.sqrt(abs(v)), v) if v else 0.0 for v in values.tolist()]
    expected = functional.layer_norm(torch.tensor(slow), values.shape)
    torch.testing.assert_close(standardise(values, "root"), expected, rtol=1e-6, atol=1e-7)


def test_dropout_keeps_the_mean_and_replays():
    values = torch.ones(200, 500)
    dropped = dropout(values, 0.3, torch.Generator().manual_seed(0))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    assert (dropped == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(dropped, dropout(values, 0.3, torch.Generator().manual_seed(0)))
    assert dropout(values, 0.3, None) is values


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is at least 1"),
        ({"num_glimpses": 0}, "num_glimpses is at least 1"),
        ({"core": "transformer"}, "core must be one of rnn, lstm, gru"),
        ({"combine": "add"}, "combine must be one of"),
        ({"sigma": 0.0}, "sigma is above 0 and below inf"),
        ({"sigma": math.nan}, "sigma is above 0 and below inf"),
        ({"scale_sigma": -0.5}, "scale_sigma is above 0 and below inf"),
        ({"dropout": 1.0}, "dropout is at least 0 and below 1"),
    ],
)
def test_a_bad_setting_is_named(changes, message):
    # Built without the annotation check, which stops some of these before the config can.
    with pytest.raises(Exception, match=message) as caught:
        TwoDeckConfig(**changes)
    assert caught.type is ValueError


def test_reading_an_empty_deck_says_what_to_do():
    with pytest.raises(ValueError, match=r"begin\(\)"):
        make().where(Memory(None, None))
