"""Pruning: weights of small magnitude become zero while the network trains on (Zhu & Gupta 2017, arXiv:1710.01878).

Zeros shrink the compressed file and, where a runtime has kernels for them, the time; a dense runtime is no faster. With
`structure="2:4"` every four neighbouring input channels keep their two largest weights, the pattern that some
accelerators compute twice as fast.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.compression.keras2 import model_optimization, rebuild

if TYPE_CHECKING:
    import keras

#: Class of layer -> the attribute of its twin that is pruned. Depthwise kernels are few and each matters.
PRUNED = {"Conv2D": "kernel", "GroupedConv2D": "kernel", "Conv2DTranspose": "kernel", "Dense": "kernel"}
#: In 2:4 the neighbours are input channels, which a transposed convolution has on another axis.
STRUCTURED = ("Conv2D", "GroupedConv2D", "Dense")
SCHEDULES, STRUCTURES = ("constant", "polynomial"), ("none", "2:4")
#: Kernels with fewer weights stay dense: there is little to gain, and much is lost.
MIN_WEIGHTS = 512


@dataclass(frozen=True)
class Plan:
    """How much is pruned, and when.

    Attributes:
        sparsity: Share of each kernel that becomes zero at last; of no effect in 2:4, which is a half.
        schedule: `constant`: all at once at the beginning; `polynomial`: from a quarter of it with cubic slow-down over
            the first 70 % of the steps.
        structure: `none` or `2:4`.
        steps: Training steps.

    Raises:
        ValueError: A share outside 0 to 1, no steps, or an unknown schedule or structure.
    """

    sparsity: float
    schedule: str
    structure: str
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity {self.sparsity}: expected a share above 0 and below 1")
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps: pruning happens while the network trains; expected 1 or more")
        for name, known in (("schedule", SCHEDULES), ("structure", STRUCTURES)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} '{getattr(self, name)}'; expected one of {', '.join(known)}")

    def schedule_of_tfmot(self) -> Any:
        """The plan as TensorFlow Model Optimization's schedule."""
        schedules = model_optimization().sparsity.keras
        often = max(self.steps // 50, 1)
        if self.schedule == "constant":
            return schedules.ConstantSparsity(self.sparsity, begin_step=0, frequency=often)
        end = max(int(0.7 * self.steps), 1)
        return schedules.PolynomialDecay(
            self.sparsity / 4, self.sparsity, begin_step=0, end_step=end, power=3, frequency=often
        )


class PrunedTwin:
    """A network's Keras 2 twin whose kernels become sparse while it trains.

    Args:
        network: Keras network on the TensorFlow backend; its weights are where training starts.
        plan: How much, and when.
        keep_dense: Names of layers that are not pruned.
        freeze_statistics: Whether batch norms keep their statistics, which suits short training.

    Attributes:
        model: The `tf_keras.Model` to compile and train.
        pruned: Names of the layers that are pruned.

    Raises:
        BridgeError: Packages are missing, or a layer has no twin.
        ValueError: `keep_dense` names no layer of the network, or nothing is left to prune.
    """

    def __init__(
        self, network: keras.Model, plan: Plan, *, keep_dense: Sequence[str] = (), freeze_statistics: bool = True
    ):
        tools = model_optimization().sparsity.keras
        unknown = set(keep_dense) - {layer.name for layer in network.layers}
        if unknown:
            raise ValueError(f"keep_dense names no layer of {network.name}: {', '.join(sorted(unknown))}")
        self.network, self.plan = network, plan
        self._wrappers: dict[str, Any] = {}
        structured = plan.structure == "2:4"
        pattern = {"sparsity_m_by_n": (2, 4)} if structured else {}

        def wrap(layer, twin) -> Callable:
            kind = type(layer).__name__
            if kind == "BatchNormalization" and freeze_statistics:
                twin.trainable = False
            taken = kind in (STRUCTURED if structured else PRUNED) and layer.name not in keep_dense
            if not taken or np.prod(getattr(twin, PRUNED[kind]).shape) < MIN_WEIGHTS:
                return twin
            wrapper = tools.prune_low_magnitude(twin, pruning_schedule=plan.schedule_of_tfmot(), **pattern)
            self._wrappers[layer.name] = wrapper
            return wrapper

        self._twin = rebuild(network, wrap)
        self.model, self.pruned = self._twin.model, tuple(self._wrappers)
        if not self.pruned:
            raise ValueError(
                f"{network.name} has no kernel of {MIN_WEIGHTS} weights or more to prune ({', '.join(PRUNED)})"
            )
        for wrapper in self._wrappers.values():
            wrapper.pruning_step.assign(0)

    def finish(self) -> None:
        """Set to zero what the last step of training moved away from it."""
        for wrapper in self._wrappers.values():
            wrapper.pruning_obj.weight_mask_op()

    def bring_back(self, network: keras.Model | None = None) -> None:
        """Copy the sparse weights into the network (or another with the same layers)."""
        self.finish()
        self._twin.bring_back(network or self.network)


def sparsity(network: keras.Model, layers: Sequence[str] | None = None) -> float:
    """Return the share of zeros in a network's kernels.

    Args:
        network: Any Keras network.
        layers: Names of the layers to look at; by default all of the kinds that are pruned.
    """
    zeros = count = 0
    for layer in network.layers:
        if layer.name in layers if layers is not None else type(layer).__name__ in PRUNED:
            kernel = np.asarray(layer.kernel)
            zeros, count = zeros + int((kernel == 0).sum()), count + kernel.size
    return zeros / max(count, 1)


def follows_two_of_four(kernel: np.ndarray) -> bool:
    """Whether of every four neighbouring input channels at least two weights are zero.

    Args:
        kernel: `(..., input channels, filters)`.
    """
    channels = kernel.shape[-2] // 4 * 4
    groups = np.moveaxis(kernel, -2, -1)[..., :channels].reshape(*kernel.shape[:-2], kernel.shape[-1], -1, 4)
    return bool(((groups == 0).sum(-1) >= 2).all())


def gzip_bytes(content: bytes) -> int:
    """Size of a file after gzip: what it takes to send it."""
    return len(gzip.compress(content, 9, mtime=0))
