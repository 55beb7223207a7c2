"""Ranges of int8 tensors that lose the least."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from posezoo.export.flatbuffer import unpacked  # noqa: E402
from posezoo.export.gates import compare  # noqa: E402
from posezoo.export.tflite import to_tflite  # noqa: E402
from posezoo.inference.runners import KerasRunner, TFLiteRunner  # noqa: E402
from posezoo.levels import BINS, COUNTED, counts_between, least_error  # noqa: E402


def rounding_error(values, low, high):
    """What 256 levels between two ends lose, computed the plain way."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    return float(np.mean((np.clip(np.round((values - low) / step), 0, 255) * step + low - values) ** 2))


def ends_of(values):
    low, high = float(values.min()), float(values.max())
    return low, high, *least_error(np.histogram(values[values != 0], BINS, (low, high))[0], low, high)


@pytest.mark.parametrize("both_sides", [True, False])
def test_long_tails_are_clipped_where_that_loses_less(both_sides):
    values = np.random.default_rng(0).standard_t(4, 300_000)
    values = values if both_sides else np.maximum(values, 0)
    low, high, below, above = ends_of(values)
    assert low <= below <= 0 < above < high
    assert rounding_error(values, below, above) < 0.97 * rounding_error(values, low, high)
    # No other pair of ends is much better.
    others = [
        rounding_error(values, low * a, high * b) for a in np.linspace(0.02, 1, 40) for b in np.linspace(0.02, 1, 40)
    ]
    assert rounding_error(values, below, above) < 1.1 * min(others)


def test_even_values_keep_their_extremes():
    low, high, below, above = ends_of(np.random.default_rng(0).uniform(-3, 5, 100_000))
    assert (below, above) == (low, high)


@pytest.mark.parametrize("channels", [1, 17, 34, 96])
def test_every_channel_of_a_large_tensor_is_counted(channels):
    values = np.broadcast_to(np.arange(1.0, channels + 1), (1, 256, 256, channels))
    counts = counts_between(values, 0.0, channels + 1.0)
    assert np.count_nonzero(counts) == channels
    assert COUNTED / 2 < counts.sum() < 3 * COUNTED


@pytest.mark.parametrize("width", [0.0, 1e-42, 1e-7])
def test_values_that_hardly_differ_are_counted_or_left(width):
    """As of networks that nobody trained, where a map is constant but for rounding."""
    values = np.linspace(1.0, 1.0 + width, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    counts = counts_between(values, float(values.min()), float(values.max()))
    assert counts.shape == (BINS,)
    assert counts.sum() in (0, 64)


def test_ranges_without_values_or_width_stay():
    assert least_error(np.zeros(BINS), -1.0, 2.0) == (-1.0, 2.0)
    assert least_error(np.ones(BINS), 0.0, 0.0) == (0.0, 0.0)


@pytest.fixture
def spiky_network(tiny_spec):
    """A network of features that reach far where the picture is brightest, which its end does not look at."""
    keras.utils.set_random_seed(3)
    image = keras.Input(tiny_spec.shape, name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="features", bias_initializer="ones")(image)
    x = keras.layers.Multiply(name="square")([x, x])
    x = keras.layers.Multiply(name="spike")([x, x])
    x = keras.layers.ReLU(1.0, name="held")(keras.layers.ZeroPadding2D(1, name="pad")(x))
    return keras.Model(image, {"heatmaps": keras.layers.Conv2D(4, 1, name="heatmaps")(x)})


def test_int8_file_with_long_tails_agrees_better(spiky_network, tiny_spec, tiny_pictures):
    expected = KerasRunner(spiky_network, tiny_spec)(tiny_pictures[:4])

    def made(ranges):
        content = to_tflite(spiky_network, tiny_spec, tiny_pictures, ranges=ranges)
        runner = TFLiteRunner(content, tiny_spec)
        tensors = unpacked(content).subgraphs[0].tensors
        scales = {t.name.decode(): float(t.quantization.scale[0]) for t in tensors if len(t.shape) == 4}
        return compare(expected, runner(tiny_pictures[:4]), kernels="")[0].psnr_db, scales, runner.quantisation

    (plain, extremes, ends), (least, scales, ends_now) = made("minmax"), made("mse")
    assert least > plain
    assert scales["spike"] < extremes["spike"]
    assert ends == ends_now, "input and output keep their extremes"


def test_unknown_ranges_are_refused(tiny_network, tiny_spec, tiny_pictures):
    with pytest.raises(ValueError, match="unknown ranges 'entropy'; expected one of minmax, mse"):
        to_tflite(tiny_network, tiny_spec, tiny_pictures[:2], ranges="entropy")
