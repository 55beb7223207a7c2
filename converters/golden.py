"""Golden outputs: what a network gives for a few inputs, to compare with on the device. NumPy, Python 3.6 or later.

    python golden.py MODEL.golden.npz        # what a file holds

A file holds `input` (N, height, width, channels), scaled as the network takes it, `output.NAME` (N, ...) with channels
last, and `meta`, a JSON text with the input's description, the keypoints' names and what each precision may differ by.
"""

import json
import math
import sys

import numpy as np


class Golden:
    """Inputs, outputs and limits of one file."""

    def __init__(self, path):
        with np.load(path) as held:
            self.input = held["input"]
            self.outputs = {key[len("output.") :]: held[key] for key in held.files if key.startswith("output.")}
            self.meta = json.loads(str(held["meta"]))
        if not self.outputs:
            raise ValueError(f"{path} holds no outputs; expected arrays named output.NAME")

    def channels_first(self, shape):
        """Whether a file whose input tensor has this shape has channels first."""
        sides, last = tuple(int(side) for side in shape)[1:], self.input.shape[1:]
        if sides not in (last, (last[2], last[0], last[1])):
            raise ValueError(f"the file takes {tuple(shape)}, the golden inputs are {self.input.shape}")
        return sides != last

    def inputs_for(self, shape):
        """Inputs (1, ...) one by one, as an input tensor of this shape takes them."""
        first = self.channels_first(shape)
        for image in self.input:
            image = image.transpose(2, 0, 1)[None] if first else image[None]
            yield np.ascontiguousarray(image, np.float32)

    def compare(self, got, precision, channels_first=False):
        """Compare outputs by name.

        Args:
            got: Name -> (N, ...).
            precision: Key of the file's limits: float32, float16 or int8.
            channels_first: Whether maps in `got` are (N, channels, height, width).

        Returns:
            One row per output: name, PSNR in dB, largest and mean error as shares of the range, and what is wrong
            (an empty text where nothing is).
        """
        limits = self.meta["limits"]
        if precision not in limits:
            raise ValueError(f"no limits for '{precision}'; the file has {', '.join(sorted(limits))}")
        if set(got) != set(self.outputs):
            raise ValueError(f"the network has outputs {sorted(self.outputs)}, the file {sorted(got)}")
        rows = []
        for name in sorted(self.outputs):
            value = np.asarray(got[name], np.float64)
            if channels_first and value.ndim == 4:
                value = value.transpose(0, 2, 3, 1)
            rows.append(self._row(name, value, limits[precision]))
        return rows

    def _row(self, name, value, limit):
        expected = self.outputs[name].astype(np.float64)
        row = {"output": name, "psnr_db": None, "max_error": None, "mean_error": None, "wrong": ""}
        if value.shape != expected.shape:
            row["wrong"] = f"is {value.shape}, expected {expected.shape}"
            return row
        if not np.isfinite(value).all():
            row["wrong"] = "holds NaN or infinity"
            return row
        span = float(expected.max() - expected.min()) or 1.0
        difference = np.abs(value - expected)
        error = math.sqrt(float((difference**2).mean())) / span
        row["psnr_db"] = -20 * math.log10(max(error, 1e-9))
        row["max_error"] = float(difference.max()) / span
        row["mean_error"] = float(difference.mean()) / span
        if len(value) > 1 and (value == value[:1]).all():
            row["wrong"] = "is the same for every input"
        elif row["psnr_db"] < limit["min_psnr_db"]:
            row["wrong"] = f"PSNR {row['psnr_db']:.1f} dB, at least {limit['min_psnr_db']:.1f} expected"
        elif limit["max_error"] is not None and row["max_error"] > limit["max_error"]:
            largest, allowed = row["max_error"], limit["max_error"]
            row["wrong"] = f"largest error {largest:.4f} of the range, at most {allowed:.4f} allowed"
        return row


def told(rows):
    """Rows of a comparison as lines of text."""
    lines = []
    for row in rows:
        psnr, largest = row["psnr_db"], row["max_error"]
        figures = "" if psnr is None else f"PSNR {psnr:.1f} dB, largest error {largest:.5f} of the range"
        lines.append(f"  {row['output']:16} {figures}  {row['wrong'] or 'ok'}")
    return "\n".join(lines)


def main():
    """Print what a file holds."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    golden = Golden(sys.argv[1])
    print("input", golden.input.shape)
    for name, value in sorted(golden.outputs.items()):
        print("output", name, value.shape, f"from {value.min():.4g} to {value.max():.4g}")
    print(json.dumps(golden.meta, indent=1))


if __name__ == "__main__":
    main()
