"""A TFLite file as a C header, for TensorFlow Lite Micro."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from posezoo.export.flatbuffer import operators
from posezoo.files import replacing

#: Operators whose function in MicroMutableOpResolver is not `Add` and the name in camel case.
RESOLVER_NAMES = {
    "CONV_2D": "AddConv2D", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "MAX_POOL_2D": "AddMaxPool2D",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
}  # fmt: skip
#: Alignment of tensors in the arena, and what each tensor and operator costs there besides its bytes (TensorFlow Lite
#: Micro's structures, 32-bit, generously).
ALIGNMENT, PER_TENSOR, PER_OPERATOR = 16, 32, 64


def resolver_name(operator: str) -> str:
    """Return the call that registers an operator: `CONV_2D` -> `AddConv2D`."""
    return RESOLVER_NAMES.get(operator, "Add" + "".join(part.capitalize() for part in operator.split("_")))


def arena_bytes(content: bytes) -> int:
    """Estimate the tensor arena: the most bytes of tensors that live at one time, and the interpreter's own structures.

    The runtime's planner may need a few percent more than the live tensors, for it cannot always close gaps.

    Args:
        content: A TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = model.subgraphs[0]
    size_of = {
        schema.TensorType.INT8: 1, schema.TensorType.UINT8: 1, schema.TensorType.INT16: 2, schema.TensorType.FLOAT16: 2,
        schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT64: 8,
    }  # fmt: skip
    constant = {
        i
        for i, t in enumerate(graph.tensors)
        if model.buffers[t.buffer].data is not None and len(model.buffers[t.buffer].data)
    }
    first: dict[int, int] = dict.fromkeys(map(int, graph.inputs), 0)
    last: dict[int, int] = {}
    for step, operator in enumerate(graph.operators):
        for tensor in map(int, operator.outputs):
            first.setdefault(tensor, step)
        for tensor in (int(t) for t in (*operator.inputs, *operator.outputs) if t >= 0):
            last[tensor] = step
    last |= dict.fromkeys(map(int, graph.outputs), len(graph.operators))

    def bytes_of(tensor: int) -> int:
        t = graph.tensors[tensor]
        size = int(np.prod(t.shape)) * size_of[t.type]
        return -(-size // ALIGNMENT) * ALIGNMENT

    live = [
        sum(bytes_of(t) for t, begin in first.items() if t not in constant and begin <= step <= last.get(t, begin))
        for step in range(len(graph.operators))
    ]
    return max(live) + PER_TENSOR * len(graph.tensors) + PER_OPERATOR * len(graph.operators)


def write_c_array(content: bytes, out: Path | str, *, name: str) -> dict:
    """Write a header with the file's bytes, the operators to register and the arena's size.

    Args:
        content: A TFLite file that passed its gates.
        out: The `.h` to write.
        name: C identifier of the array; the length is `NAME_len`.

    Returns:
        `operators`, `arena_bytes`, `bytes` and `sha256`.

    Raises:
        ValueError: `name` is no C identifier.
    """
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"'{name}' is no C identifier; expected letters, digits and underscores, such as hand25d_int8")
    kinds = sorted({operator.split(" ")[0] for operator in operators(content)})
    arena, digest = arena_bytes(content), hashlib.sha256(content).hexdigest()
    rows = [", ".join(f"0x{byte:02x}" for byte in content[i : i + 16]) for i in range(0, len(content), 16)]
    guard = f"POSEZOO_{name.upper()}_H_"
    lines = [
        f"// {name}: TensorFlow Lite model, {len(content)} bytes, SHA-256 {digest}.",
        f"// Tensor arena: about {arena} bytes (estimate; add some and ask interpreter.arena_used_bytes()).",
        f"// tflite::MicroMutableOpResolver<{len(kinds)}> resolver;",
        *(f"// resolver.{resolver_name(kind)}();" for kind in kinds),
        f"#ifndef {guard}", f"#define {guard}", "",
        "#ifdef __cplusplus", "#define POSEZOO_ALIGNED alignas(16)", "#else",
        "#define POSEZOO_ALIGNED _Alignas(16)", "#endif",
        "",
        f"POSEZOO_ALIGNED static const unsigned char {name}[] = {{", *(f"    {row}," for row in rows), "};",
        f"static const unsigned int {name}_len = {len(content)}u;", f"#define {name.upper()}_ARENA_BYTES {arena}", "",
        "#undef POSEZOO_ALIGNED", f"#endif  // {guard}", "",
    ]  # fmt: skip
    with replacing(Path(out)) as path:
        path.write_text("\n".join(lines))
    return {"operators": kinds, "arena_bytes": arena, "bytes": len(content), "sha256": digest}
