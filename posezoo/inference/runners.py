"""The same network on different runtimes: pictures in, named float arrays out.

Pictures are RGB uint8 `(height, width, 3)`; of networks that look at depth float32 metres `(height, width, 1)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from posezoo.errors import UserError

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec


#: How many other input sizes of a Keras network are kept ready.
SIZES_KEPT = 8


class RunnerError(UserError, RuntimeError):
    """A file that the runtime refuses, or that is not one of ours."""


class Runner(Protocol):
    """A network on some runtime."""

    name: str

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run images `(batch, height, width, channels)`; return float32 outputs by name."""


class KerasRunner:
    """A Keras network on any backend.

    Args:
        network: The network.
        spec: Size and scaling of its input.
    """

    name = "keras"

    def __init__(self, network: keras.Model, spec: InputSpec):
        self.network, self.spec = network, spec
        self._sizes: dict[tuple[int, int], KerasRunner] = {}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self.network.predict_on_batch(normalise(images, self.spec))
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

    def at_size(self, input_wh: tuple[int, int]) -> KerasRunner:
        """Return the network for another input size, with copies of the weights; the last sizes are kept."""
        if input_wh == self.spec.wh:
            return self
        if input_wh not in self._sizes:
            import keras

            width, height = input_wh
            shape = (height, width, self.spec.shape[2])
            # Cloning a compiled network would copy its losses too, which may be functions without a name.
            plain = keras.Model(self.network.input, self.network.output, name=self.network.name)
            network = keras.models.clone_model(plain, keras.Input(shape, name=self.spec.name))
            network.set_weights(plain.get_weights())
            while len(self._sizes) >= SIZES_KEPT:
                self._sizes.pop(next(iter(self._sizes)))
            self._sizes[input_wh] = KerasRunner(network, replace(self.spec, shape=shape))
        return self._sizes[input_wh]


def normalise(images: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Scale pixels or metres as the network expects: `(pixel - mean) / std`, float32."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return (images.astype(np.float32) - mean) / std


class TFLiteRunner:
    """A TFLite file with float32, int8 or uint8 input and outputs, batch 1.

    Args:
        model: Path or content of the file.
        spec: Size and scaling of the network's input.
        threads: Number of threads; the runtime's choice by default.
        kernels: `default` (XNNPACK) or `builtin` (the kernels that every phone falls back to).

    Raises:
        RunnerError: The file is no TFLite model, has no signature, or takes another input size.
    """

    name = "tflite"

    def __init__(
        self, model: Path | str | bytes, spec: InputSpec, *, threads: int | None = None, kernels: str = "default"
    ):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolvers = {
            "default": OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
        if kernels not in resolvers:
            raise ValueError(f"unknown kernels '{kernels}'; expected one of {', '.join(resolvers)}")
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        told = "the given bytes" if isinstance(model, bytes) else str(model)
        try:
            self._interpreter = Interpreter(
                model_content=content, num_threads=threads, experimental_op_resolver_type=resolvers[kernels]
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise RunnerError(f"{told}: not a TFLite model that this runtime can load ({error})") from error
        signatures = self._interpreter.get_signature_list()
        if not signatures:
            raise RunnerError(f"{told}: the file has no signature; posezoo reads outputs by name")
        self._run = self._interpreter.get_signature_runner(next(iter(signatures)))
        (self._input_name, details), *others = self._run.get_input_details().items()
        expected = (1, *spec.shape)
        takes = tuple(int(side) for side in details["shape"])
        if others or takes != expected:
            raise RunnerError(f"{told}: takes {takes}, the card says {expected}")
        self._outputs = self._run.get_output_details()
        #: Name -> (type, scale, zero point) of the input and the outputs.
        self.quantisation = {
            name: (np.dtype(d["dtype"]).name, *map(float, d["quantization"]))
            for name, d in {self._input_name: details, **self._outputs}.items()
        }
        self._details = details
        self._table = None if spec.depth else _pixel_table(spec, details)
        self.spec = spec

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        results = [self.finish(self.invoke(self.prepare(image))) for image in images]
        return {name: np.concatenate([r[name] for r in results]) for name in self._outputs}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """A picture `(height, width, channels)` to the file's own input tensor `(1, height, width, channels)`."""
        if self._table is None:
            return _quantised(normalise(image, self.spec), self._details)[None]
        if self._table.shape[1] == 1:
            return self._table[:, 0][image][None]
        return np.stack([self._table[:, c][image[..., c]] for c in range(image.shape[-1])], axis=-1)[None]

    def finish(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's own outputs to float32."""
        return {name: dequantise(raw[name], details) for name, details in self._outputs.items()}

    def invoke(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """Run a prepared tensor; return the outputs as the file holds them."""
        return self._run(**{self._input_name: tensor})


def _pixel_table(spec: InputSpec, details: dict) -> np.ndarray:
    """Scaling and quantisation of every pixel value: `(256, channels)`, or one column if all are alike."""
    pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(spec.shape[2], axis=1)
    table = _quantised(normalise(pixels, spec), details)
    return table[:, :1] if (table == table[:, :1]).all() else table


def _quantised(real: np.ndarray, details: dict) -> np.ndarray:
    """Scaled values as the file's input holds them."""
    scale, zero = details["quantization"]
    kind = np.dtype(details["dtype"])
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        real = np.clip(np.rint(real / scale) + zero, limits.min, limits.max)
    return real.astype(kind)


def dequantise(value: np.ndarray, details: dict) -> np.ndarray:
    """Return float32 values of an output tensor."""
    scale, zero = details["quantization"]
    if np.dtype(details["dtype"]).kind not in "iu":
        return value.astype(np.float32)
    return (value.astype(np.float32) - zero) * np.float32(scale)


class OnnxRunner:
    """An ONNX file on onnxruntime, batch 1, channels first or last.

    Args:
        model: Path of the file.
        spec: Size and scaling of the network's input.
        threads: Number of threads; the runtime's choice by default.

    Raises:
        ImportError: onnxruntime is not installed.
        RunnerError: The file is no ONNX model, or takes another input size.
    """

    name = "onnx"

    def __init__(self, model: Path | str, spec: InputSpec, *, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError:
            raise ImportError("ONNX files need onnxruntime: pip install 'posezoo[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds have no common base of their own
            raise RunnerError(f"{model}: not an ONNX model that this runtime can load ({error})") from error
        (given, *others), self.spec = self._session.get_inputs(), spec
        self._input, self._outputs = given.name, [output.name for output in self._session.get_outputs()]
        self._channels_first = _layout(given.shape, spec, str(model), extra=len(others))

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        results = []
        for image in normalise(images, self.spec):
            values = self._session.run(self._outputs, {self._input: _arranged(image[None], self._channels_first)})
            results.append(dict(zip(self._outputs, values, strict=True)))
        return _joined(results, self._channels_first)


class OpenVinoRunner:
    """An OpenVINO IR (`.xml`), or any file that OpenVINO reads, on the CPU in float32, batch 1.

    Args:
        model: Path of the file.
        spec: Size and scaling of the network's input.
        threads: Number of threads; the runtime's choice by default.

    Raises:
        ImportError: OpenVINO is not installed.
        RunnerError: The file is none that OpenVINO reads, or takes another input size.
    """

    name = "openvino"

    def __init__(self, model: Path | str, spec: InputSpec, *, threads: int | None = None):
        try:
            import openvino
        except ImportError:
            raise ImportError("OpenVINO files need openvino: pip install 'posezoo[openvino]'") from None
        settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            read = openvino.Core().read_model(str(model))
            # Compiled, an output may also have the name of what computes it, as a map of one channel has.
            self._names = [output.get_any_name() for output in read.outputs]
            self._model = openvino.Core().compile_model(read, "CPU", settings)
        except RuntimeError as error:
            raise RunnerError(f"{model}: not a model that OpenVINO can load ({error})") from error
        self.spec = spec
        shape = [int(side) for side in self._model.inputs[0].shape]
        self._channels_first = _layout(shape, spec, str(model), extra=len(self._model.inputs) - 1)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        results = []
        for image in normalise(images, self.spec):
            values = self._model(_arranged(image[None], self._channels_first))
            outputs = zip(self._names, self._model.outputs, strict=True)
            results.append({name: values[output] for name, output in outputs})
        return _joined(results, self._channels_first)


def _layout(shape: Sequence, spec: InputSpec, told: str, *, extra: int) -> bool:
    """Whether a file takes channels first.

    Raises:
        RunnerError: It takes neither layout of the card's input.
    """
    height, width, channels = spec.shape
    sides = tuple(shape[1:])
    if extra or sides not in ((height, width, channels), (channels, height, width)):
        raise RunnerError(f"{told}: takes {tuple(shape)}, the card says {(1, *spec.shape)}, or channels first")
    return sides != (height, width, channels)


def _arranged(images: np.ndarray, channels_first: bool) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_first else images


def _joined(results: list[dict[str, np.ndarray]], channels_first: bool) -> dict[str, np.ndarray]:
    """Outputs of single pictures as one batch, maps with channels last."""
    joined = {name: np.concatenate([r[name] for r in results]).astype(np.float32) for name in results[0]}
    if not channels_first:
        return joined
    return {name: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for name, v in joined.items()}
