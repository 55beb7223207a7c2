"""Parameters and multiply-accumulates of a Keras network, by the rules of the papers.

Parameters are the trainable scalars. MACs are those of convolutions, transposed convolutions (at input
positions) and dense layers; normalisation, activations, pooling and resizing count nothing. A layer of
our own says its MACs itself, in `macs(output_shape)`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def params(network: keras.Model) -> int:
    """Return the number of trainable scalars, whether or not the layers are frozen."""
    moving = ("moving_mean", "moving_variance")
    return sum(
        math.prod(v.shape)
        for v in network.weights
        if v.name not in moving and not v.path.endswith("seed_generator_state")
    )


def macs(network: keras.Model) -> int:
    """Return the multiply-accumulates for one picture of the network's input size.

    Raises:
        ValueError: The network has no fixed input size.
    """
    if None in network.inputs[0].shape[1:]:
        raise ValueError(f"{network.name} has no fixed input size {network.inputs[0].shape}; build it with input_px=")
    return sum(layer_macs(layer) for layer in network.layers)


def layer_macs(layer) -> int:
    """Return the multiply-accumulates of one layer; 0 for those that do not multiply."""
    if hasattr(layer, "macs"):
        return layer.macs(layer.output.shape)
    kind = type(layer).__name__
    if kind == "Dense":
        return math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    if kind in ("Conv2D", "GroupedConv2D", "DepthwiseConv2D"):
        return math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    if kind == "Conv2DTranspose":
        return math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
    return 0
