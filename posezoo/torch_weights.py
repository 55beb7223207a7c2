"""PyTorch checkpoints into Keras networks, without running the code that a pickle may hold.

A family file maps its layers to modules of the public PyTorch code in `torch_modules(network)`; this
module reads checkpoints, turns tensors into Keras's layout and refuses what does not fit. Tensors that the
public code never uses are `TORCH_UNUSED` there, those that it stores under two names `TORCH_ALIASES`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.errors import UserError

if TYPE_CHECKING:
    import keras

#: Entries of training checkpoints that hold the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")

#: Weights of a PyTorch module, in the order of the Keras layer's own, and the axes that bring a kernel over.
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "Conv2D": (("weight", "bias"), (2, 3, 1, 0)),
    "GroupedConv2D": (("weight", "bias"), (2, 3, 1, 0)),
    "DepthwiseConv2D": (("weight", "bias"), (2, 3, 0, 1)),
    "Conv2DTranspose": (("weight", "bias"), (2, 3, 1, 0)),
    "Dense": (("weight", "bias"), (1, 0)),
    "BatchNormalization": (("weight", "bias", "running_mean", "running_var"), ()),
}


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be read, or does not fit the network."""


def read_checkpoint(path: Path | str) -> dict[str, np.ndarray]:
    """Read the state dict of a `.pth`, `.pt`, `.bin` or `.safetensors` file; pickled code is not run.

    Returns:
        Tensor name to array; prefixes that wrapping in `DataParallel` leaves are gone.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file holds no tensors by name, or more than tensors.
        ImportError: PyTorch, or safetensors, is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    while isinstance(state, Mapping) and not _tensors(state):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not _tensors(state):
        keys = ", ".join(map(str, list(state)[:5])) if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"{path}: no state dict of named tensors; the file holds {keys or 'nothing'}")
    return {str(k).removeprefix("module."): _array(v) for k, v in state.items() if hasattr(v, "shape")}


def _read_torch(path: Path):
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"reading {path.suffix} needs PyTorch: pip install 'posezoo[torch]'; .safetensors does not"
        ) from None
    import pickle

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors alone ({str(error).splitlines()[0]}); save its state_dict() "
            "with torch.save, or as .safetensors, where you trust it"
        ) from error


def _read_safetensors(path: Path):
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ImportError("reading .safetensors needs: pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def _tensors(state: Mapping) -> bool:
    return any(hasattr(value, "shape") for value in state.values())


def _array(tensor) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    return tensor.detach().float().numpy() if tensor.is_floating_point() else tensor.detach().numpy()


def load_torch(network: keras.Model, state: Mapping[str, np.ndarray], *, family: str) -> None:
    """Fill a network from a state dict; nothing is changed unless everything fits.

    Args:
        network: Built by the family, at any input size.
        state: Tensor name to array, see `read_checkpoint`. A common first component, as of a
            surrounding module, is taken off when only that makes the names fit.
        family: Name of the family file in `posezoo.models`, whose `torch_modules` names the tensors.

    Raises:
        CheckpointError: Tensors are missing, left over, or of another shape; the message lists them.
    """
    module = importlib.import_module(f"posezoo.models.{family}")
    if not hasattr(module, "torch_modules"):
        raise CheckpointError(f"family '{family}' has no public PyTorch code to import from")
    modules = module.torch_modules(network)
    unused = [re.compile(pattern) for pattern in getattr(module, "TORCH_UNUSED", ())]
    aliases = [(re.compile(pattern), other) for pattern, other in getattr(module, "TORCH_ALIASES", ())]
    state = _without_prefix(state, modules)
    missing, wrong, used = [], [], set()
    values: dict[keras.layers.Layer, list[np.ndarray]] = {}
    for layer in network.layers:
        if layer.name not in modules:
            continue
        path, outputs, inputs = _part(modules[layer.name], layer)
        names, axes = LAYOUTS[type(layer).__name__]
        values[layer] = []
        for weight, name in zip(layer.weights, names, strict=False):
            key = _stored(f"{path}.{name}", state, aliases)
            used.add(key)
            if key not in state:
                missing.append(key)
                continue
            value = state[key]
            # PyTorch's transposed convolutions lead with the inputs, all else with the outputs.
            leading = (inputs, outputs) if type(layer).__name__ == "Conv2DTranspose" else (outputs, inputs)
            value = value[leading[: value.ndim]]
            if axes and name == "weight" and value.ndim == len(axes):
                value = value.transpose(axes)
            if value.shape != tuple(weight.shape):
                wrong.append(f"{key} is {value.shape}, {layer.name} needs {tuple(weight.shape)}")
            values[layer].append(value)
    extra = [
        key for key in state
        if key not in used and not key.endswith("num_batches_tracked") and not any(p.fullmatch(key) for p in unused)
    ]  # fmt: skip
    if missing or extra or wrong:
        lists = (("missing", missing), ("left over", extra), ("of another shape", wrong))
        told = "; ".join(f"{len(names)} {what}: {_shortened(names)}" for what, names in lists if names)
        raise CheckpointError(f"the checkpoint does not fit {network.name}: {told}")
    for layer, arrays in values.items():
        layer.set_weights(arrays)


def _stored(key: str, state: Mapping, aliases: list[tuple[re.Pattern, str]]) -> str:
    """The name under which a tensor is stored: its own, or else that of the same tensor elsewhere."""
    names = [key, *(m.expand(other) for pattern, other in aliases if (m := pattern.fullmatch(key)))]
    return next((name for name in names if name in state), key)


def _part(module, layer) -> tuple[str, slice, slice]:
    if module is None:
        raise CheckpointError(f"layer '{layer.name}' has no counterpart in the public PyTorch code")
    return (module, slice(None), slice(None)) if isinstance(module, str) else module


def _without_prefix(state: Mapping[str, np.ndarray], modules: Mapping) -> Mapping[str, np.ndarray]:
    """Take a first component off that every tensor has and no module."""
    first = {key.split(".")[0] for key in state}
    wanted = {(m if isinstance(m, str) else m[0]).split(".")[0] for m in modules.values() if m}
    if len(first) != 1 or first <= wanted:
        return state
    return {key.split(".", 1)[1]: value for key, value in state.items() if "." in key}


def _shortened(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
