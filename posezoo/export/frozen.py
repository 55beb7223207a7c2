"""A network as one TensorFlow graph of constants, batch 1: where ONNX files and reports of operators begin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posezoo.errors import UserError

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec

#: What marks a function as "compile me": Keras sends a grouped convolution through one, converters refuse it.
COMPILE_MARKS = ("_XlaMustCompile", "_noinline", "_XlaHasReferenceVars")


@dataclass(frozen=True)
class Frozen:
    """A frozen graph.

    Attributes:
        graph: GraphDef, its variables constants, calls of functions written out.
        input: Name of the input tensor.
        outputs: Name of the network's output -> name of the tensor.
        ranks: Name of the network's output -> number of dimensions.
        layers: Names of the network's layers, for blame.
    """

    graph: Any
    input: str
    outputs: dict[str, str]
    ranks: dict[str, int]
    layers: tuple[str, ...] = ()

    def layer_of(self, node: str) -> str:
        """Return the layer that a node belongs to, or the node's own name where none fits."""
        return blame(node, self.layers)

    def operators(self) -> dict[str, list[str]]:
        """Return kind of operation -> names of its nodes; constants and what only passes on are left out."""
        silent = {"Const", "Identity", "Placeholder", "NoOp"}
        found: dict[str, list[str]] = {}
        for node in self.graph.node:
            if node.op not in silent:
                found.setdefault(node.op, []).append(node.name)
        return dict(sorted(found.items()))

    def grouped(self) -> dict[str, int]:
        """Return name of a convolution with groups -> how many."""
        import tensorflow as tf

        with tf.Graph().as_default() as graph:
            tf.import_graph_def(self.graph, name="")
        groups = {}
        for node in self.operators().get("Conv2D", ()):
            image, kernel = (tensor.shape for tensor in graph.get_operation_by_name(node).inputs)
            if image[-1] != kernel[2]:
                groups[node] = image[-1] // kernel[2]
        return groups


def blame(node: str, layers: tuple[str, ...] | list[str]) -> str:
    """Return the layer whose name is part of a node's name such as `tiny_1/half_conv_1/convolution`.

    Keras numbers the scope of a layer that is called again. Where two names fit, the last wins: it is the inner one.
    """
    known = set(layers)
    found = node
    for part in node.split("/"):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in known:
                found = name
                break
    return found


def operations(graph: Any) -> dict[str, str]:
    """Return name of a node -> its operation, without writing a TensorFlow graph and its weights out."""
    return {operation.name: operation.type for operation in graph.get_operations()}


def control_flow(nodes: Mapping[str, str], layers: Sequence[str], *, branches: bool = True) -> list[str]:
    """Return what in a frozen graph repeats or branches as it runs, such as `'saved_model' (while)`.

    Args:
        nodes: Name of a node -> its operation.
        layers: Names of the network's layers.
        branches: Branches too; else loops alone.
    """
    # Freezing writes loops and branches in the form of TensorFlow 1: values join, and leave a loop by an exit.
    joins = {"Merge", "Exit"} if branches else {"Exit"}
    found = {node.rsplit("/", 2)[0] for node, operation in nodes.items() if operation in joins}
    return sorted({f"'{blame(node, tuple(layers))}' ({node.rsplit('/', 1)[-1]})" for node in found})


class UnsupportedLayerError(UserError, ValueError):
    """A layer that the target has no operation for."""


class BackendError(UserError, RuntimeError):
    """Keras runs on another backend than TensorFlow."""


def frozen_function(network: Any, spec: InputSpec, *, groups: str = "whole") -> tuple[Any, list[str]]:
    """Freeze a network at batch 1.

    Args:
        network: Keras network on the TensorFlow backend, or a Keras 2 twin, with a dict of outputs.
        spec: Size of its input.
        groups: `whole` writes a grouped convolution as one operation, whatever this machine has kernels for, as
            converters want it; `apart` each group by itself, for files that TensorFlow runs on any machine.

    Returns:
        TensorFlow's function, its variables constants, and the names of its outputs in order.

    Raises:
        BackendError: Keras runs on another backend than TensorFlow.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from posezoo.layers import convolutions_written

    if keras.backend.backend() != "tensorflow":
        raise BackendError("conversion needs Keras on TensorFlow; unset KERAS_BACKEND and start again")
    with convolutions_written(groups):
        function = tf.function(lambda image: network(image, training=False)).get_concrete_function(
            tf.TensorSpec((1, *spec.shape), tf.float32, name=spec.name)
        )
    return convert_variables_to_constants_v2(function), sorted(function.structured_outputs)


def freeze(network: keras.Model, spec: InputSpec, *, groups: str = "whole") -> Frozen:
    """Freeze a network at batch 1 and let TensorFlow simplify the graph.

    Args: as `frozen_function`.

    Raises:
        BackendError: As `frozen_function`.
        UnsupportedLayerError: A layer repeats as it runs.
    """
    frozen, names = frozen_function(network, spec, groups=groups)
    layers = tuple(layer.name for layer in network.layers)
    if loops := control_flow(operations(frozen.graph), layers, branches=False):
        raise UnsupportedLayerError(
            f"layer {', '.join(loops)} repeats as it runs, which the frozen graph cannot hold; write the rounds out, "
            "or convert to TFLite in float32 or float16"
        )
    outputs = {name: tensor.name for name, tensor in zip(names, frozen.outputs, strict=True)}
    ranks = {name: len(tensor.shape) for name, tensor in zip(names, frozen.outputs, strict=True)}
    definition = _without_compile_marks(frozen.graph.as_graph_def())
    source = frozen.inputs[0].name
    graph = _not_waiting(_optimised(definition, source, list(outputs.values())), source)
    return Frozen(graph, source, outputs, ranks, layers)


def _without_compile_marks(definition: Any) -> Any:
    """Let calls of compiled functions be plain calls, which TensorFlow then writes out."""
    nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
    for holder in (*nodes, *definition.library.function):
        for mark in COMPILE_MARKS:
            if mark in holder.attr:
                del holder.attr[mark]
    return definition


def _not_waiting(definition: Any, source: str) -> Any:
    """Let no node wait for the input without reading it, as constants do that came out of a SavedModel's function.

    Such waiting changes no number, but another input cannot be put in its place: who imports the graph with one of his
    own would still be asked for this one.
    """
    waiting = f"^{source.split(':')[0]}"
    for node in definition.node:
        if waiting in node.input:
            node.input[:] = [name for name in node.input if name != waiting]
    return definition


def _optimised(definition: Any, source: str, results: list[str]) -> Any:
    """Fold constants, write out function calls and drop what no output needs."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.framework import meta_graph
    from tensorflow.python.grappler import tf_optimizer

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        meta = meta_graph.create_meta_graph_def(graph=graph)
    fetch = meta_graph_pb2.CollectionDef()
    fetch.node_list.value.extend([source, *results])
    meta.collection_def["train_op"].CopyFrom(fetch)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers[:] = ["function", "constfold", "dependency"]
    rewrite.meta_optimizer_iterations = config.graph_options.rewrite_options.ONE
    # Graphs with fewer nodes are left alone by default.
    rewrite.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta)
