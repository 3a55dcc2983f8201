import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.classification import (
    spherical_softmax_from_statistics,
    spherical_softmax_loss,
    spherical_squared_error_from_statistics,
    spherical_statistics,
    taylor_softmax_from_statistics,
    taylor_softmax_loss,
    z_loss,
    z_loss_from_statistics,
)

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 9)) * 2 + 1
LABELS = rng.integers(0, 9, 6)
TARGET = LOGITS[np.arange(6), LABELS]


def test_z_loss_is_the_definition():
    score = (TARGET - LOGITS.mean(1)) / LOGITS.std(1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(z_loss(LOGITS, LABELS), np.log1p(np.exp(-score)), rtol=1e-12)
        found = z_loss(LOGITS, LABELS, sharpness=3.0, location=1.5)
        np.testing.assert_allclose(found, np.log1p(np.exp(3 * (1.5 - score))) / 3, rtol=1e-12)
        from_statistics = z_loss_from_statistics(
            *spherical_statistics(LOGITS, LABELS), num_classes=9, sharpness=3.0, location=1.5
        )
    np.testing.assert_allclose(from_statistics, found, rtol=1e-10)


def test_z_loss_is_free_of_shift_and_scale_and_its_gradient_shows_it():
    with jax.enable_x64(True):
        value = z_loss(LOGITS, LABELS)
        np.testing.assert_allclose(z_loss(1e-6 * LOGITS + 300, LABELS), value, rtol=1e-5)
        np.testing.assert_allclose(z_loss(1e200 * LOGITS, LABELS), value, rtol=1e-12)
        assert np.abs(z_loss(-LOGITS, LABELS) - value).max() > 0.1
        gradient = jax.grad(lambda o: z_loss(o, LABELS).sum())(jnp.asarray(LOGITS))
        np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-12)
        np.testing.assert_allclose(np.sum(gradient * LOGITS, 1), 0, atol=1e-12)
        # The closed form of the paper.
        z = (LOGITS - LOGITS.mean(1, keepdims=True)) / LOGITS.std(1, keepdims=True)
        own = np.take_along_axis(z, LABELS[:, None], 1)
        pull = 1 / (1 + np.exp(own)) / LOGITS.std(1, keepdims=True)
        expected = -pull * (np.eye(9)[LABELS] - 1 / 9 - own * z / 9)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_two_classes_and_equal_logits_have_no_gradient():
    for logits in (jnp.array([[0.3, -1.0]]), jnp.full((1, 5), 2.0)):
        value, gradient = jax.value_and_grad(lambda o: z_loss(o, jnp.array([0])).sum())(logits)
        assert np.isfinite(value)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_softmax_by_taylor_and_by_squares():
    taylor = 1 + LOGITS + LOGITS**2 / 2
    squares = LOGITS**2 + 0.05
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            taylor_softmax_loss(LOGITS, LABELS),
            -np.log(taylor[np.arange(6), LABELS] / taylor.sum(1)),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            spherical_softmax_loss(LOGITS, LABELS, epsilon=0.05),
            -np.log(squares[np.arange(6), LABELS] / squares.sum(1)),
            rtol=1e-12,
        )
        statistics = spherical_statistics(LOGITS, LABELS)
        np.testing.assert_allclose(
            spherical_squared_error_from_statistics(*statistics, num_classes=9),
            np.sum((LOGITS - np.eye(9)[LABELS]) ** 2, 1),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            taylor_softmax_from_statistics(*statistics, num_classes=9),
            taylor_softmax_loss(LOGITS, LABELS),
        )
        np.testing.assert_allclose(
            spherical_softmax_from_statistics(*statistics, num_classes=9),
            spherical_softmax_loss(LOGITS, LABELS),
        )


def test_labels_out_of_range_are_reported():
    import lossbench

    with pytest.raises(ValueError, match="labels must lie in"):
        lossbench.checked(z_loss)(jnp.zeros((1, 3)), jnp.array([3]))
