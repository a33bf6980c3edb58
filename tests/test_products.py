"""Products in pieces are the products."""

import numpy as np
import pytest

from linnet.errors import ConfigError
from linnet.products import product


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1000, 201, 128),  # log-mel: pieces of 10 rows, none left
        (1003, 201, 128),  # and 3 rows left
        (7, 201, 128),  # less than one piece
        (5, 600, 700),  # one row is above the limit
        (1, 1, 1),
        (0, 4, 3),
    ],
)
def test_equals_the_product_in_double_precision(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(m)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32).T
    found = product(a, b)
    assert found.shape == (m, n) and found.dtype == np.float32
    expected = a.astype(np.float64) @ b.astype(np.float64)
    # Rounding of k float32 products: 6e-8 each, relative to sums of a few √k.
    np.testing.assert_allclose(found, expected, atol=6e-8 * k * 8)


def test_a_row_does_not_depend_on_how_many_come_with_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 321), np.float32), rng.standard_normal((321, 80), np.float32)
    whole = product(a, b)
    assert np.array_equal(whole[:30], product(a[:30], b))


@pytest.mark.parametrize(("a", "b"), [((3, 4), (5, 2)), ((4,), (4, 2)), ((2, 3, 4), (4, 2))])
def test_shapes_that_do_not_fit_are_named(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="have no product"):
        product(np.zeros(a, np.float32), np.zeros(b, np.float32))
