"""Run a TFLite file in another Python. NumPy and a TFLite runtime of any age; Python 3.7 and newer.

    python run_tflite.py MODEL INPUTS.npz OUTPUTS.npz

It is started by `posezoo.export.elsewhere` and prints the runtime's name. `INPUTS.npz` holds `input`
`(N, 1, height, width, channels)`; `OUTPUTS.npz` gets `(N, ...)` by tensor name.
"""

import sys


def interpreter_class():
    """The TFLite interpreter that this Python has, and what it is called."""
    try:
        import tflite_runtime
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, "tflite-runtime " + tflite_runtime.__version__
    except ImportError:
        import tensorflow

        return tensorflow.lite.Interpreter, "tensorflow " + tensorflow.__version__


def main():
    import numpy

    Interpreter, version = interpreter_class()  # noqa: N806 (a class)
    model, inputs, outputs = sys.argv[1:4]
    interpreter = Interpreter(model_path=model)
    interpreter.allocate_tensors()
    results = {}
    for tensor in numpy.load(inputs)["input"]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
        interpreter.invoke()
        for output in interpreter.get_output_details():
            results.setdefault(output["name"], []).append(interpreter.get_tensor(output["index"]))
    numpy.savez(outputs, **{name: numpy.stack(values) for name, values in results.items()})
    print(version)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        sys.stderr.write("RUNTIME: %s\n" % str(error).strip().replace("\n", " "))  # noqa: UP031 (Python 3.7)
        sys.exit(3)
