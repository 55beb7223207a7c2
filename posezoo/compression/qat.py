"""Quantisation-aware training: a network's twin computes as the int8 file will, and learns to live with it.

(Jacob et al. 2018, arXiv:1712.05877.) Every convolution's kernel is rounded per output channel and every tensor that
the int8 file stores is rounded to 256 levels. Which tensors those are follows from the graph: a convolution, its batch
norm and its ReLU become one operator with one rounding; padding, pooling and enlarging store the levels they were
given; a sigmoid's levels are fixed by TFLite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.compression.keras2 import AFFINE, model_optimization, rebuild
from posezoo.levels import BINS, PICTURES, counts_between, least_error

if TYPE_CHECKING:
    import keras

#: Class of layer -> attribute that holds its kernel, and the kernel's axis of output channels (None: one scale).
KERNELS = {
    "Conv2D": ("kernel", 3), "GroupedConv2D": ("kernel", 3), "SplitConv2D": ("kernel", 3),
    "DepthwiseConv2D": ("depthwise_kernel", 2), "Conv2DTranspose": ("kernel", None), "Dense": ("kernel", None),
}  # fmt: skip
#: Layers whose result has the levels of what they were given.
PASSING = ("ZeroPadding2D", "MaxPooling2D", "Flatten", "Reshape", "Dropout", "ChannelShuffle")
#: Layers that become part of the operator before them.
FUSED = {
    "BatchNormalization": ("Conv2D", "GroupedConv2D", "SplitConv2D", "DepthwiseConv2D", "Dense"),
    "ReLU": (
        "Conv2D", "GroupedConv2D", "SplitConv2D", "DepthwiseConv2D", "Dense", "BatchNormalization", "Add", "Multiply",
    ),
}  # fmt: skip


def _givers(layer) -> list:
    """The layers whose results a layer takes."""
    given = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation for tensor in given]


def _passes(layer) -> bool:
    """Whether a layer's result has the levels of what it was given, and the converter knows it."""
    kind = type(layer).__name__
    bilinear = kind == "UpSampling2D" and layer.interpolation == "bilinear"
    nothing = kind == "Activation" and layer.activation.__name__ == "linear"
    return bilinear or nothing or kind in PASSING


def lonely(network: keras.Model) -> list:
    """Return the batch norms that no convolution can take in: after a sum, or a result that others use too."""
    users = Counter(giver.name for layer in network.layers[1:] for giver in _givers(layer))
    norms = [layer for layer in network.layers if type(layer).__name__ == "BatchNormalization"]
    return [
        norm
        for norm in norms
        if type(_givers(norm)[0]).__name__ not in FUSED["BatchNormalization"] or users[_givers(norm)[0].name] > 1
    ]


def stored(network: keras.Model) -> set[str]:
    """Return the names of the layers whose results the int8 file rounds."""
    consumers: dict[str, list] = {layer.name: [] for layer in network.layers}
    for layer in network.layers[1:]:
        for giver in _givers(layer):
            consumers[giver.name].append(layer)
    outputs = {tensor._keras_history.operation.name for tensor in network.output.values()}
    names = set()
    for layer in network.layers[1:]:
        kind, users = type(layer).__name__, consumers[layer.name]
        if _passes(layer) or (kind == "Activation" and layer.activation.__name__ == "sigmoid"):
            continue
        alone = len(users) == 1 and layer.name not in outputs
        if alone and kind in FUSED.get(type(users[0]).__name__, ()):
            continue
        names.add(layer.name)
    return names


def _rounded_outputs(network: keras.Model) -> set[str]:
    """Return the names of the layers whose rounded results come out, through layers that pass them on or not."""
    names = set()
    for tensor in network.output.values():
        layer = tensor._keras_history.operation
        while _passes(layer):
            (layer,) = _givers(layer)
        names.add(layer.name)
    return names


def _classes():
    """The classes that need tfmot, which is imported when first asked for."""
    import tensorflow as tf

    quantizers: Any = model_optimization().quantization.keras.quantizers
    QuantizeConfig: Any = model_optimization().quantization.keras.QuantizeConfig

    class ChannelQuantizer(quantizers.LastValueQuantizer):
        """Rounds a kernel to int8 with one scale per output channel, whichever axis that is."""

        def __init__(self, axis: int):
            super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)
            self.axis = axis

        def _order(self, rank: int) -> list[int]:
            return [*(i for i in range(rank) if i != self.axis), self.axis]

        def build(self, tensor_shape, name, layer):
            return super().build([tensor_shape[i] for i in self._order(len(tensor_shape))], name, layer)

        def __call__(self, inputs, training, weights, **kwargs):
            order = self._order(len(inputs.shape))
            if order[-1] == order[0] or order == sorted(order):
                return super().__call__(inputs, training, weights, **kwargs)
            rounded = super().__call__(tf.transpose(inputs, order), training, weights, **kwargs)
            return tf.transpose(rounded, np.argsort(order))

        def get_config(self):
            return {"axis": self.axis}

    class Rounding(QuantizeConfig):
        """What one layer rounds: its kernel, its result, both or neither."""

        def __init__(self, kernel: str | None = None, axis: int | None = None, output: bool = False):
            self.kernel, self.axis, self.output = kernel, axis, output
            self.kernel_quantizer = (
                ChannelQuantizer(axis)
                if axis is not None
                else quantizers.LastValueQuantizer(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)
            )

        def get_weights_and_quantizers(self, layer):
            return [(getattr(layer, self.kernel), self.kernel_quantizer)] if self.kernel else []

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            if self.kernel:
                setattr(layer, self.kernel, quantize_weights[0])

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return [HeldRange()] if self.output else []

        def get_config(self):
            return {"kernel": self.kernel, "axis": self.axis, "output": self.output}

    class HeldRange(quantizers.MovingAverageQuantizer):
        """Rounds to 256 levels between ends that training does not move.

        Ends that follow each batch's extremes would go back to where a few large values have nearly all the levels.
        """

        def __init__(self):
            super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)

        def __call__(self, inputs, training, weights, **kwargs):
            return super().__call__(inputs, False, weights, **kwargs)

        def get_config(self):
            return {}

    return Rounding, HeldRange


class QuantisedTwin:
    """A network's quantisation-aware Keras 2 twin.

    Args:
        network: Keras network on the TensorFlow backend; its weights are where training starts.
        calibration: Batches of network inputs `(N, height, width, channels)` that set the first ranges.
        keep_float: Names of layers whose kernel and result are not rounded.
        freeze_statistics: Whether batch norms keep their statistics, which suits short training.
        keep_zeros: Whether weights of kernels that are zero stay so: of a pruned network.

    Attributes:
        model: The `tf_keras.Model` to compile and fit.

    Raises:
        BridgeError: Packages are missing, or a layer has no twin.
        ValueError: `keep_float` names no layer of the network, or there is no calibration.
    """

    def __init__(
        self,
        network: keras.Model,
        calibration: Iterable[np.ndarray],
        *,
        keep_float: Sequence[str] = (),
        freeze_statistics: bool = True,
        keep_zeros: bool = False,
    ):
        model_optimization()
        from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer
        from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapperV2

        unknown = set(keep_float) - {layer.name for layer in network.layers}
        if unknown:
            raise ValueError(f"keep_float names no layer of {network.name}: {', '.join(sorted(unknown))}")
        rounding, range_quantizer = _classes()
        self.network = network
        self._stored = stored(network) - set(keep_float)
        self._wrappers: dict[str, Any] = {}
        alone = {norm.name for norm in lonely(network)}
        if alone and not freeze_statistics:
            raise ValueError(
                f"batch norms {', '.join(sorted(alone))} are not behind a convolution; they need freeze_statistics=True"
            )
        self._entry = QuantizeLayer(range_quantizer(), name="image_levels")

        def wrap(layer, twin) -> Callable:
            kind = type(layer).__name__
            kernel, axis = KERNELS.get(kind, (None, None)) if layer.name not in keep_float else (None, None)
            if layer.name in alone:
                kernel, axis = (KERNELS["DepthwiseConv2D"]) if layer.name not in keep_float else (None, None)
            elif kind == "BatchNormalization" and freeze_statistics:
                twin.trainable = False
            if keep_zeros and kind in KERNELS:
                _keep_zeros(getattr(twin, KERNELS[kind][0]))
            wrapper = QuantizeWrapperV2(twin, rounding(kernel, axis, layer.name in self._stored))
            self._wrappers[layer.name] = wrapper
            return wrapper

        self._twin = rebuild(network, wrap, begin=self._entry, special=dict.fromkeys(alone, AFFINE))
        self.model = self._twin.model
        self._set_ranges(list(calibration))

    def _set_ranges(self, batches: list[np.ndarray]) -> None:
        """Put every range where rounding the float network on the calibration inputs loses the least.

        Input and outputs keep their extremes, as in files that calibration makes.
        """
        import keras

        if not batches:
            raise ValueError("calibration holds no batch; give at least one, better a hundred pictures")
        entry = {v.name.split("/")[-1].split(":")[0]: v for v in self._entry.weights}
        _assign(entry, "_min", min(*(float(np.min(batch)) for batch in batches), 0.0))
        _assign(entry, "_max", max(*(float(np.max(batch)) for batch in batches), 0.0))
        watched = [layer for layer in self.network.layers if layer.name in self._stored]
        inside = keras.Model(self.network.inputs, [layer.output for layer in watched])
        outputs = _rounded_outputs(self.network)
        low, high = _extremes(inside, batches)
        counts = _counts(inside, batches, low, high)
        for layer, count, smallest, largest in zip(watched, counts, low, high, strict=True):
            if layer.name not in outputs:
                smallest, largest = least_error(count, smallest, largest)
            ranges = self._wrappers[layer.name]._output_quantizer_vars
            ranges["min_var"].assign(min(smallest, 0.0))
            ranges["max_var"].assign(max(largest, 0.0, min(smallest, 0.0) + 1e-6))
        self._set_kernel_ranges()

    def _set_kernel_ranges(self) -> None:
        """Let every kernel's levels reach its largest weight."""
        for wrapper in self._wrappers.values():
            for weight, quantizer, ranges in wrapper._weight_vars:
                axis = getattr(quantizer, "axis", None)
                others = tuple(i for i in range(len(weight.shape)) if i != axis)
                peak = np.maximum(np.abs(weight.numpy()).max(axis=others), 1e-6)
                ranges["min_var"].assign(-peak)
                ranges["max_var"].assign(peak)

    def bring_back(self, network: keras.Model | None = None) -> None:
        """Copy the trained weights into the network (or another with the same layers)."""
        self._twin.bring_back(network or self.network)


def _outputs(inside: keras.Model, batch: np.ndarray) -> list[np.ndarray]:
    """A network's outputs as a list, which Keras gives of several alone."""
    found = inside([batch], training=False)
    return [np.asarray(value) for value in (found if isinstance(found, (list, tuple)) else [found])]


def _extremes(inside: keras.Model, batches: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each of a network's outputs `(n,)`."""
    ends = [[(float(np.min(v)), float(np.max(v))) for v in _outputs(inside, batch)] for batch in batches]
    return np.min(ends, axis=0)[:, 0], np.max(ends, axis=0)[:, 1]


def _counts(inside: keras.Model, batches: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many values of each of a network's outputs lie in equal parts of its range `(n, BINS)`."""
    counts = np.zeros((len(low), BINS))
    for batch in batches:
        for picture in batch[: max(PICTURES // len(batches), 1)]:
            for i, value in enumerate(_outputs(inside, picture[None])):
                counts[i] += counts_between(value, low[i], high[i])
    return counts


def _keep_zeros(kernel: Any) -> None:
    """Let the optimiser set what is zero now back to zero after every step."""
    import tensorflow as tf

    mask = tf.constant((kernel.numpy() != 0).astype(np.float32))
    before = kernel.constraint
    kernel._constraint = lambda w: (before(w) if before else w) * mask


def _assign(variables: dict, ending: str, value: float) -> None:
    next(v for name, v in variables.items() if name.endswith(ending)).assign(value)
