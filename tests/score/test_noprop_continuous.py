"""Against the discrete form's limit, and the exact flow between one-dimensional mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lossbench.score import (
    NoPropGamma,
    noprop_continuous_loss,
    noprop_denoise,
    noprop_diffusion_sample,
    noprop_flow_loss,
    noprop_flow_sample,
    noprop_gamma,
    noprop_gamma_init,
    noprop_velocity,
)

KEY = jax.random.key(0)
EMBEDDINGS = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
LABELS = jnp.array([0, 1, 2, 1, 0])
TARGETS = EMBEDDINGS[LABELS]
X = jax.random.normal(KEY, (5, 2))


def line(t):
    return 4 - 8 * t


def sure(z):
    return 1e3 * jax.nn.one_hot(LABELS, len(EMBEDDINGS))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Schedule


def test_schedule_is_its_formula_between_its_ends():
    rng = np.random.default_rng(0)
    params = NoPropGamma(*(rng.normal(size=shape).astype(np.float32) for shape in ((), 4, 4, 4)))
    t = np.linspace(0, 1, 9)

    def rise(t):
        slope, heights, rates = (np.log1p(np.exp(each)) for each in params[:3])
        return slope * t + sigmoid(np.outer(t, rates) + params.offsets) @ heights

    low, high = rise(np.array([0.0, 1.0]))
    expected = 5 + (-3 - 5) * (rise(t) - low) / (high - low)
    got = noprop_gamma(params, t.astype(np.float32), start=5.0, end=-3.0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.all(np.diff(got) < 0)
    np.testing.assert_allclose(got[jnp.array([0, -1])], [5, -3], rtol=1e-6)


def test_schedule_starts_near_a_line():
    t = jnp.linspace(0, 1, 20)
    np.testing.assert_allclose(noprop_gamma(noprop_gamma_init(), t), line(t), atol=0.2)


# Diffusion


def test_loss_of_each_row_is_the_formula_at_its_time():
    seen = []

    def net(z, x, t):
        seen.append((z, t))
        return 0.5 * z

    def bent(t):
        return 4 - 2 * t - 6 * t**2

    loss = noprop_continuous_loss(KEY, net, sure, EMBEDDINGS, X, LABELS, gamma_fn=bent, eta=0.7)
    ((z, t),) = seen
    z, t = np.asarray(z, np.float64), np.asarray(t, np.float64)
    assert len(np.unique(t)) == len(t)
    slope = (2 + 12 * t) * np.exp(-bent(t))
    targets = np.asarray(TARGETS, np.float64)
    block = 0.7 / 2 * slope * np.sum((0.5 * z - targets) ** 2, axis=1)
    mean, variance = np.sqrt(sigmoid(-4)) * targets, 1 - sigmoid(-4)
    prior = np.sum((variance + mean**2 - 1 - np.log(variance)) / 2, axis=1)
    np.testing.assert_allclose(loss, block + prior, rtol=1e-4)


def test_losss_noised_embeddings_have_their_times_moments():
    num = 100_000
    labels = jnp.zeros(num, jnp.int32)
    seen = []

    def net(z, x, t):
        seen.append((z, t))
        return z

    noprop_continuous_loss(
        KEY, net, lambda z: 0 * z, EMBEDDINGS, labels[:, None] * 1.0, labels, gamma_fn=line
    )
    ((z, t),) = seen
    share = sigmoid(-line(np.asarray(t)))[:, None]
    noise = (np.asarray(z) - np.sqrt(share) * EMBEDDINGS[0]) / np.sqrt(1 - share)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(np.asarray(t), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:, 0], t)[0, 1]) < 0.02


def test_the_learned_schedule_has_a_gradient():
    def loss(gamma):
        return noprop_continuous_loss(
            KEY,
            lambda z, x, t: 0.5 * z,
            sure,
            EMBEDDINGS.astype(jnp.float64),
            X,
            LABELS,
            gamma_fn=lambda t: noprop_gamma(gamma, t),
        ).mean()

    with jax.enable_x64(True):
        gamma = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), noprop_gamma_init(4))
        gradient = jax.grad(loss)(gamma)
        for i, name in enumerate(gamma._fields):
            step = 1e-5
            ahead, behind = (
                loss(gamma._replace(**{name: gamma[i] + sign * step})) for sign in (1, -1)
            )
            np.testing.assert_allclose(
                jnp.sum(gradient[i]), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-9
            )
            assert np.all(gradient[i] != 0)


def two_classes(z, x, t):
    """E[u | z] of u = 1 or -1, as likely."""
    share = jax.nn.sigmoid(-line(t))[:, None]
    return jnp.tanh(jnp.sqrt(share) * z / (1 - share))


def mixture_cdf(z, t):
    share = sigmoid(-line(t))
    both = [stats.norm(side * np.sqrt(share), np.sqrt(1 - share)).cdf(z) for side in (1, -1)]
    return np.mean(both, axis=0)


def test_flow_carries_the_quantiles_of_the_noised_classes():
    """In one dimension a flow keeps the distribution function's value along each path."""
    with jax.enable_x64(True):
        z = jnp.linspace(-2, 2, 41, dtype=jnp.float64)[:, None]
        end = noprop_flow_sample(
            lambda z, x, t: noprop_velocity(two_classes, z, x, t, gamma_fn=line, field="flow"),
            z,
            z,
            num_steps=400,
            method="heun",
        )
    np.testing.assert_allclose(mixture_cdf(end, 1.0), mixture_cdf(z, 0.0), atol=2e-4)


def test_diffusion_ends_at_the_noised_classes():
    num = 4000
    z = jax.random.normal(KEY, (num, 1))
    end = noprop_diffusion_sample(
        jax.random.key(1), two_classes, z, z, gamma_fn=line, num_steps=500
    )
    test = stats.kstest(np.asarray(end)[:, 0], lambda z: mixture_cdf(z, 1.0))
    assert test.statistic < 2 / np.sqrt(num)


def test_discrete_blocks_tend_to_the_continuous_velocity():
    z = jax.random.normal(KEY, (6, 1))

    def apart(num_blocks):
        times = jnp.linspace(0, 1, num_blocks + 1)
        path = noprop_denoise(
            KEY,
            lambda t, z, x: two_classes(z, x, jnp.full(len(z), t)),
            times[:-1],
            z,
            z,
            alpha_bar=jax.nn.sigmoid(-line(times)),
            stochastic=False,
        )
        exact = noprop_flow_sample(
            lambda z, x, t: noprop_velocity(two_classes, z, x, t, gamma_fn=line),
            z,
            z,
            num_steps=800,
            method="heun",
        )
        return float(jnp.abs(path[-1] - exact).max())

    coarse, fine = apart(100), apart(400)
    assert fine < 0.02
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.25)


# Flow matching


def test_flow_loss_of_each_row_is_the_formula_at_its_time():
    seen = []

    def velocity(z, x, t):
        seen.append((z, t))
        return jnp.cos(z)

    loss = noprop_flow_loss(KEY, velocity, EMBEDDINGS, X, LABELS)
    ((z, t),) = seen
    z, t = np.asarray(z, np.float64), np.asarray(t, np.float64)[:, None]
    start = (z - t * TARGETS) / (1 - t)
    expected = np.mean((np.cos(z) - (TARGETS - start)) ** 2, axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)

    readout = noprop_flow_loss(
        KEY, velocity, EMBEDDINGS, X, LABELS, readout_fn=lambda z: 2 * z, readout_weight=0.3
    )
    logits = 2 * (z + (1 - t) * np.cos(z))
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), LABELS]
    np.testing.assert_allclose(readout - loss, 0.3 * entropy, rtol=1e-3)


def test_flow_samples_are_of_their_order():
    """dz / dt = z + t has the solution (z_0 + 1) e - 2 at 1."""
    with jax.enable_x64(True):
        z = jnp.array([[0.3], [-1.0]])
        exact = (z + 1) * np.e - 2

        def apart(method, num_steps):
            end = noprop_flow_sample(
                lambda z, x, t: z + t[:, None], z, z, num_steps=num_steps, method=method
            )
            return float(jnp.abs(end - exact).max())

        for method, order in (("euler", 1), ("heun", 2)):
            ratio = apart(method, 100) / apart(method, 200)
            np.testing.assert_allclose(np.log2(ratio), order, atol=0.05)
