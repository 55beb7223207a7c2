"""Finding and verifying files: damage, wrong hashes, truncation, several processes at once."""

import hashlib
import http.server
import multiprocessing
import threading

import numpy as np
import pytest

from posezoo import weights
from posezoo.cards import WeightFile
from posezoo.weights import WeightsError, fetch

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on this machine that serves `CONTENT`, a truncated copy, a wrong file and an HTML page."""
    monkeypatch.setenv("POSEZOO_CACHE", str(tmp_path / "cache"))
    served = {
        "/good.h5": CONTENT,
        "/short.h5": CONTENT[:1000],
        "/wrong.h5": CONTENT[::-1],
        "/page.h5": b"<html>404</html>",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list = []

        def do_GET(self):
            self.asked.append(self.path)
            if self.path not in served:
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served[self.path])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked = Handler.asked
    yield server
    server.shutdown()


def spec(host, *paths) -> WeightFile:
    urls = tuple(f"{host.url}/{p}" for p in paths)
    return WeightFile(
        "some.weights.h5", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "python recipes/some.py", urls
    )


def test_fetches_once_then_uses_the_cache(host):
    path = fetch(spec(host, "good.h5"))
    assert path.read_bytes() == CONTENT
    assert fetch(spec(host, "good.h5")) == path
    assert host.asked == ["/good.h5"]


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_damaged_cache_is_replaced(host, damage):
    path = fetch(spec(host, "good.h5"))
    path.write_bytes(damage)
    assert fetch(spec(host, "good.h5")).read_bytes() == CONTENT


@pytest.mark.parametrize("bad", ["short.h5", "wrong.h5", "page.h5", "missing.h5"])
def test_bad_file_is_never_used_and_leaves_nothing(host, bad):
    with pytest.raises(WeightsError, match="no valid some.weights.h5 .*make it with: python recipes/some.py"):
        fetch(spec(host, bad))
    assert list(weights.cache_dir().iterdir()) == []


def test_next_host_is_asked(host):
    assert fetch(spec(host, "page.h5", "missing.h5", "good.h5")).read_bytes() == CONTENT


def test_no_host_names_the_recipe(host):
    with pytest.raises(WeightsError, match="the card names no host"):
        fetch(spec(host))


def test_damaged_package_is_told(host, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PACKAGED", tmp_path)
    (tmp_path / "some.weights.h5").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="damaged.*reinstall posezoo"):
        fetch(spec(host))
    assert fetch(spec(host, "good.h5")).read_bytes() == CONTENT


def _fetch_in_process(given, results):
    results.put(fetch(given).read_bytes() == CONTENT)


def test_processes_at_once_all_get_the_whole_file(host):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_fetch_in_process, args=(spec(host, "good.h5"), results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert len(list(weights.cache_dir().iterdir())) == 1


def small_network():
    keras = pytest.importorskip("keras")
    return keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="c"), keras.layers.BatchNormalization()]
    )


def test_float16_weights_load_like_any_other(tmp_path):
    network = small_network()
    network.set_weights(
        [np.random.default_rng(i).uniform(0.5, 2, w.shape) for i, w in enumerate(network.get_weights())]
    )
    weights.save_float16(network, tmp_path / "half.weights.h5")
    again = small_network()
    again.load_weights(tmp_path / "half.weights.h5")
    for a, b in zip(again.get_weights(), network.get_weights(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_arrays_too_large_for_float16_stay_in_float32(tmp_path):
    network = small_network()
    network.set_weights([w * 0 + (1e6 if w.ndim == 1 else 1.0) for w in network.get_weights()])
    weights.save_float16(network, tmp_path / "half.weights.h5")
    again = small_network()
    again.load_weights(tmp_path / "half.weights.h5")
    for a, b in zip(again.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_a_diverged_network_are_refused(tmp_path):
    network = small_network()
    network.set_weights([w * np.nan for w in network.get_weights()])
    with pytest.raises(WeightsError, match="holds NaN or infinity: the training diverged"):
        weights.save_float16(network, tmp_path / "half.weights.h5")
    assert list(tmp_path.iterdir()) == []
