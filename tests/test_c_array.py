"""TFLite files as C headers."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

pytest.importorskip("ai_edge_litert")

from posezoo.export.c_array import arena_bytes, resolver_name, write_c_array  # noqa: E402


def test_header_holds_the_file_its_operators_and_the_arena(tiny_int8, tmp_path):
    told = write_c_array(tiny_int8, tmp_path / "model.h", name="tiny_int8")
    text = (tmp_path / "model.h").read_text()
    body = text[text.index("{") : text.index("};")]
    assert bytes(int(v, 16) for v in re.findall(r"0x([0-9a-f]{2})", body)) == tiny_int8
    assert "resolver.AddConv2D();" in text
    assert "resolver.AddDepthwiseConv2D();" in text
    assert f"MicroMutableOpResolver<{len(told['operators'])}>" in text
    assert f"#define TINY_INT8_ARENA_BYTES {told['arena_bytes']}" in text
    # 64 x 64 x 3 bytes go in, and the first convolution's 32 x 32 x 8 or more are there at the same time
    assert 64 * 64 * 3 + 32 * 32 * 8 <= arena_bytes(tiny_int8) < 400_000


def test_header_compiles_as_c_and_cpp(tiny_int8, tmp_path):
    write_c_array(tiny_int8, tmp_path / "model.h", name="tiny")
    source = "#include \"model.h\"\nint main(void) { return tiny_len == sizeof(tiny) && tiny[4] == 'T' ? 0 : 1; }\n"
    compilers = [(c, suffix) for c, suffix in (("cc", "c"), ("c++", "cpp")) if shutil.which(c)]
    if not compilers:
        pytest.skip("no C compiler")
    for compiler, suffix in compilers:
        (tmp_path / f"main.{suffix}").write_text(source)
        subprocess.run([compiler, str(tmp_path / f"main.{suffix}"), "-o", str(tmp_path / "program")], check=True)
        subprocess.run([str(tmp_path / "program")], check=True)


@pytest.mark.parametrize("operator, call", [
    ("CONV_2D", "AddConv2D"), ("RESIZE_BILINEAR", "AddResizeBilinear"), ("MEAN", "AddMean"),
    ("MAX_POOL_2D", "AddMaxPool2D"), ("FULLY_CONNECTED", "AddFullyConnected"),
])  # fmt: skip
def test_names_of_the_resolver(operator, call):
    assert resolver_name(operator) == call


def test_a_name_that_c_does_not_take_is_told(tiny_int8, tmp_path):
    with pytest.raises(ValueError, match="'hand-25d' is no C identifier"):
        write_c_array(tiny_int8, tmp_path / "x.h", name="hand-25d")
    assert not list(tmp_path.iterdir())
