"""TFLite files as objects: read, changed, and packed again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from posezoo.errors import UserError
from posezoo.export.frozen import blame

#: What every TFLite file bears behind its first four bytes.
IDENTIFIER = b"TFL3"
#: Alignment of constants that the schema asks for.
ALIGNMENT = 16
SIGNATURE = "serving_default"
#: What stands before the name of a layer that was trained to round.
ROUNDED = "quant_"


class FileError(UserError, ValueError):
    """Bytes that are no TFLite file."""


def schema() -> Any:
    """The module of TFLite's schema."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def unpacked(content: bytes) -> Any:
    """Return a file as a `ModelT`, whose fields may be changed.

    Raises:
        FileError: The bytes are no TFLite file.
    """
    if content[4:8] != IDENTIFIER:
        raise FileError("not a TFLite file: bytes 4 to 8 are not 'TFL3'")
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(content))


def packed(model: Any) -> bytes:
    """Return a `ModelT` as a file, its constants aligned as the schema says (Python's own packing does not).

    Zero points that are alike are written once: kernels and biases with a scale for each channel have as many of eight
    bytes, all zero, in a small network a fifth of the file.
    """
    import flatbuffers

    zero_points: dict[tuple, int] = {}

    class Aligned(schema().BufferT):  # type: ignore[misc]
        def Pack(self, builder):  # noqa: N802 (the schema's name)
            if self.data is None or not len(self.data):
                return super().Pack(builder)
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
            schema().BufferStart(builder)
            schema().BufferAddData(builder, data)
            return schema().BufferEnd(builder)

    class Shared(schema().QuantizationParametersT):  # type: ignore[misc]
        def Pack(self, builder):  # noqa: N802 (the schema's name)
            scale = builder.CreateNumpyVector(np.asarray(self.scale, np.float32))
            points = tuple(self.zeroPoint)
            if points not in zero_points:
                zero_points[points] = builder.CreateNumpyVector(np.asarray(points, np.int64))
            schema().QuantizationParametersStart(builder)
            schema().QuantizationParametersAddScale(builder, scale)
            schema().QuantizationParametersAddZeroPoint(builder, zero_points[points])
            schema().QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
            return schema().QuantizationParametersEnd(builder)

    for buffer in model.buffers:
        buffer.__class__ = Aligned
    for about in (tensor.quantization for graph in model.subgraphs for tensor in graph.tensors):
        given = about and {field for field, value in vars(about).items() if value is not None}
        if given and given - {"detailsType", "quantizedDimension"} == {"scale", "zeroPoint"}:
            about.__class__ = Shared
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def kinds_of(model: Any) -> list[tuple[str, int]]:
    """Return kind and version of each of a model's operator codes, such as `("CONV_2D", 3)`."""
    names = {v: k for k, v in vars(schema().BuiltinOperator).items() if isinstance(v, int)}

    def kind(code) -> str:
        # Files from before 2020 hold the number in the older, smaller field alone.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        known = names.get(number, str(number))
        return f"CUSTOM {_text(code.customCode)}" if known == "CUSTOM" else known

    return [(kind(code), code.version) for code in model.operatorCodes]


def operators(content: bytes) -> dict[str, int]:
    """Count a file's operators by name and version, such as `CONV_2D v3`."""
    model = unpacked(content)
    kinds = [f"{name} v{version}" for name, version in kinds_of(model)]
    return dict(sorted(Counter(kinds[op.opcodeIndex] for op in model.subgraphs[0].operators).items()))


def constants_of(model: Any) -> set[int]:
    """Return the indices of the tensors of the first graph that the file holds the values of."""
    filled = {i for i, b in enumerate(model.buffers) if b.data is not None and len(b.data)}
    return {i for i, tensor in enumerate(model.subgraphs[0].tensors) if tensor.buffer in filled}


def with_float_kernels(content: bytes, kind: str) -> bytes:
    """Store the int8 kernels of one kind of operator as float32 where its input is float32.

    Dynamic-range files round all kernels. Of transposed convolutions runtimes before 2024 take that for an error:
    kernel and input must be of one type.
    """
    model = unpacked(content)
    types, graph, constants = schema().TensorType, model.subgraphs[0], constants_of(model)
    codes = {i for i, (name, _) in enumerate(kinds_of(model)) if name == kind}
    of_float = {
        operator.inputs[1]
        for operator in graph.operators
        if operator.opcodeIndex in codes
        and any(graph.tensors[t].type == types.FLOAT32 for t in operator.inputs if t not in constants)
    }
    kernels = [tensor for t in sorted(of_float & constants) if (tensor := graph.tensors[t]).type == types.INT8]
    for kernel in kernels:
        levels = np.asarray(model.buffers[kernel.buffer].data, np.uint8).view(np.int8).reshape(kernel.shape)
        scale, axes = np.asarray(kernel.quantization.scale, np.float32), [1] * levels.ndim
        axes[kernel.quantization.quantizedDimension] = scale.size
        floats = schema().BufferT()
        floats.data = np.frombuffer((levels * scale.reshape(axes)).astype(np.float32).tobytes(), np.uint8)
        before, kernel.buffer = kernel.buffer, len(model.buffers)
        model.buffers.append(floats)
        kernel.type, kernel.quantization = types.FLOAT32, None
        if all(tensor.buffer != before for tensor in graph.tensors):
            model.buffers[before].data = None
    return packed(model) if kernels else content


def name_tensors(model: Any, layers: Collection[str]) -> None:
    """Give tensors the names of their layers instead of paths through the graph, which can be half of a small file.

    An operator's result is named after the last layer that became part of it, constants `LAYER/0`, `LAYER/1`…

    Args:
        model: A `ModelT`, changed in place.
        layers: Names of the network's layers; tensors of none of them keep theirs.
    """
    graph, constants, known = model.subgraphs[0], constants_of(model), set(layers)
    taken: set[str] = set()

    def unique(name: str) -> str:
        others = (f"{name}:{i}" for i in range(1, len(graph.tensors) + 1))
        chosen = next(n for n in (name, *others) if n not in taken)
        taken.add(chosen)
        return chosen

    for operator in graph.operators:
        layer = None
        for output in operator.outputs:
            layer = layer_of(_text(graph.tensors[output].name), known)
            graph.tensors[output].name = unique(layer or _text(graph.tensors[output].name))
        for place, given in enumerate(i for i in operator.inputs if i in constants):
            tensor = graph.tensors[given]
            if _text(tensor.name) not in taken:
                own = layer_of(_text(tensor.name), known) or layer
                tensor.name = unique(f"{own}/{place}" if own else _text(tensor.name))


def layer_names(network: Any) -> list[str]:
    """Names of a network's layers, as in the network that it is the quantisation-aware twin of."""
    return [layer.name.removeprefix(ROUNDED) for layer in network.layers]


def layer_of(tensor: str, layers: Collection[str]) -> str | None:
    """Return the layer that a tensor's name comes from.

    Args:
        tensor: Such as `net_1/stem_act_1/Relu6;net_1/stem_bn_1/batchnorm/add_1`: the last layer stands first, numbered
            where it was called again, and `quant_` before it where it was trained to round.
        layers: Names of the network's layers.
    """
    for path in tensor.split(";"):
        plain = re.sub(rf"(^|/){ROUNDED}", r"\1", path)
        if (found := blame(plain, tuple(layers))) != plain:
            return found
    return path if (path := tensor.split(";")[0]) in layers else None


def add_signature(content: bytes, input_name: str, output_names: Sequence[str], layers: Collection[str] = ()) -> bytes:
    """Name the input and the outputs of a TFLite file, which a frozen function loses.

    Args:
        content: The file.
        input_name: Name of its only input.
        output_names: Names of its outputs, in the subgraph's order.
        layers: Names of the network's layers, see `name_tensors`; none leaves the other tensors' names.
    """
    model = unpacked(content)
    graph = model.subgraphs[0]
    if layers:
        name_tensors(model, layers)

    def tensor_map(name, index):
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name, index
        graph.tensors[index].name = name
        return entry

    ends = dict(zip([*graph.inputs, *graph.outputs], [input_name, *output_names], strict=True))
    for i, tensor in enumerate(graph.tensors):
        if i not in ends and _text(tensor.name) in ends.values():
            tensor.name = f"{_text(tensor.name)}:inside"
    signature = schema().SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [tensor_map(input_name, graph.inputs[0])]
    signature.outputs = [tensor_map(n, i) for n, i in zip(output_names, graph.outputs, strict=True)]
    model.signatureDefs = [signature]
    return packed(model)


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
