"""Networks that are not of the zoo: a user's own `.keras` file or SavedModel, described by a card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posezoo.cards import Card
from posezoo.codecs import CODECS
from posezoo.errors import UserError

if TYPE_CHECKING:
    import keras


class NetworkError(UserError, ValueError):
    """A file that holds no network, or one that does not fit its card."""


def open_network(path: Path | str, card: Card) -> keras.Model:
    """Open a network and name its outputs.

    Args:
        path: A `.keras` file, or the folder of a SavedModel.
        card: Says what goes in. An only output gets the name that the card's codec reads.

    Returns:
        A network from `(batch, height, width, channels)` to a dict of outputs. Networks that were layers of a `.keras`
        file's network, such as a backbone, are written out.

    Raises:
        NetworkError: No such file, not one of the two kinds, or its input is not the card's.
    """
    import keras

    import posezoo.layers  # noqa: F401  (its layers may be in the file)
    from posezoo.export.simplify import flattened

    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _from_saved_model(path, card)
    if path.suffix != ".keras" or not path.is_file():
        raise NetworkError(f"{path}: expected a .keras file or the folder of a SavedModel")
    try:
        network = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise NetworkError(
            f"{path}: Keras cannot open it ({str(error).splitlines()[0]}); a network with layers of your own is taken "
            "as a SavedModel: network.export(FOLDER)"
        ) from error
    if isinstance(network, keras.Sequential) and network.built:
        network = keras.Model(network.inputs, network.outputs, name=network.name)
    if not hasattr(network, "operations") or len(network.inputs) != 1:
        raise NetworkError(
            f"{path}: expected a functional network or a sequential one that was built, with one input; build it with "
            "keras.Input as its first layer, or give a SavedModel: network.export(FOLDER)"
        )
    _check_input(tuple(network.inputs[0].shape[1:]), card, path)
    outputs = network.output
    if not isinstance(outputs, dict):
        tensors = keras.tree.flatten(outputs)
        names = _names([_layer_name(network, tensor) for tensor in tensors], card)
        network = keras.Model(network.inputs[0], dict(zip(names, tensors, strict=True)), name=network.name)
    return flattened(network)


def _layer_name(network: keras.Model, tensor: object) -> str:
    return next((layer.name for layer in network.layers if layer.output is tensor), "output")


def _names(found: list[str], card: Card) -> list[str]:
    """Names of outputs: the codec's for an only one, else their layers', told apart."""
    codec = CODECS.get(card.codec["type"])
    if len(found) == 1 and isinstance(getattr(codec, "output", None), str):
        return [codec.output]  # type: ignore[union-attr]
    return [name if found.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(found)]


def _from_saved_model(path: Path, card: Card) -> keras.Model:
    """A SavedModel's serving signature as a Keras network of one layer."""
    import keras

    try:
        layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default", name="saved_model")
    except (ValueError, OSError) as error:
        raise NetworkError(f"{path}: no SavedModel with the signature serving_default ({error})") from error
    image = keras.Input(card.input.shape, batch_size=1, name=card.input.name)
    try:
        outputs = layer(image)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"{path}: does not take {(1, *card.input.shape)} as the card says ({error})") from error
    names = _names(list(outputs), card)
    return keras.Model(image, dict(zip(names, outputs.values(), strict=True)), name="saved_model_network")


def _check_input(shape: tuple, card: Card, path: Path) -> None:
    if (
        any(side not in (None, wanted) for side, wanted in zip(shape, card.input.shape, strict=False))
        or len(shape) != 3
    ):
        raise NetworkError(f"{path}: takes {shape}, the card says {card.input.shape}")
