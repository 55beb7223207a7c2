"""Every card against its network, its files, and the schema."""

import re
from pathlib import Path

import pytest
import yaml

import posezoo
from posezoo.cards import CardError, all_cards, read_card
from posezoo.cards.card import FOLDER, parse_card
from posezoo.codecs import make_codec
from posezoo.commands.catalogue import describe
from posezoo.weights import PACKAGED, sha256
from posezoo.zoo import released_card

NAMES = sorted(all_cards())


@pytest.fixture(scope="module", params=NAMES)
def built(request):
    """A card and its network; every network is built once for all tests of it."""
    keras = pytest.importorskip("keras")
    keras.backend.clear_session()
    return read_card(request.param), posezoo.build(request.param)


def test_card_matches_network(built):
    from posezoo import counts

    card, network = built
    assert counts.params(network) == card.size["params"]
    assert counts.macs(network) == card.size["macs"]
    assert network.input_shape == (None, *card.input.shape)
    assert network.inputs[0].name == card.input.name
    if not card.skeleton.num_keypoints:
        return
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    assert set(codec.outputs) <= set(network.output)


def test_network_can_have_a_keras_2_twin(built):
    """What `posezoo.compression.keras2.rebuild` asks of a network."""
    from posezoo.compression.keras2 import TWINS

    _, network = built
    image, *layers = network.layers
    assert type(image).__name__ == "InputLayer" and len(network.inputs) == 1
    kinds = {layer.name: type(layer).__name__ for layer in layers}
    assert {name: kind for name, kind in kinds.items() if kind not in TWINS} == {}
    assert [layer.name for layer in layers if len(layer._inbound_nodes) != 1] == []
    assert isinstance(network.output, dict)


@pytest.mark.parametrize("name", NAMES)
def test_card_matches_its_files(name):
    for weights in read_card(name).weights.values():
        path = PACKAGED / weights.file
        if not path.exists():
            assert weights.urls, f"{weights.file} is neither packaged nor on a host"
            continue
        assert path.stat().st_size == weights.bytes
        assert sha256(path) == weights.sha256


@pytest.mark.parametrize("name", [n for n in NAMES if "int8" in read_card(n).weights])
def test_released_int8_file_has_the_cards_input(name):
    from posezoo.inference.runners import TFLiteRunner
    from posezoo.weights import fetch

    runner = TFLiteRunner(fetch(read_card(name).weights["int8"]), released_card(name).input, threads=1)
    assert posezoo.load(name, runtime="tflite").card.input == runner.spec


def test_every_packaged_file_is_on_a_card():
    named = {w.file for card in all_cards().values() for w in card.weights.values()}
    assert {p.name for p in PACKAGED.iterdir() if p.suffix in (".h5", ".tflite")} == named


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name):
    card = read_card(name)
    assert set(card.licences) == {"code", "weights", "data"}
    assert card.limits
    assert card.paper
    _, script, *flags = card.recipe.split()
    assert (Path(__file__).parents[1] / script).exists()
    if card.weights:
        assert card.accuracy, "released weights need a measured accuracy"
        assert "none" not in card.licences["data"]
    for row in card.accuracy:
        assert row.value is None or row.command, f"{name}: no number without the command that made it"
    for row in card.latency:
        assert row.device
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row.date)
    assert card.name in describe(card)


def test_the_recipe_of_hrnet_trains_what_its_card_decodes():
    card = read_card("hrnet_w32")
    flags = card.recipe.split()
    assert float(flags[flags.index("--sigma") + 1]) == card.codec["sigma"]
    # There is no trained backbone to freeze.
    assert flags[flags.index("--frozen-steps") + 1] == "0"


def valid() -> dict:
    return yaml.safe_load((FOLDER / f"{NAMES[0]}.yaml").read_text())


def test_misspelt_entry_is_told():
    card = valid()
    card["licenses"] = card.pop("licences")
    with pytest.raises(CardError, match="unknown entry 'licenses'; did you mean 'licences'"):
        parse_card(card, "x.yaml")


def test_missing_entry_is_told():
    card = valid()
    del card["paper"]
    with pytest.raises(CardError, match="missing paper"):
        parse_card(card, "x.yaml")


def test_unknown_skeleton_is_told():
    with pytest.raises(CardError, match="unknown skeleton 'cat9'"):
        parse_card(valid() | {"skeleton": "cat9"}, "x.yaml")


def test_unknown_model_suggests_a_name():
    with pytest.raises(KeyError) as caught:
        posezoo.info("mobilenet_splt_224")
    assert "unknown model 'mobilenet_splt_224'; did you mean 'mobilenet_split_224'" in str(caught.value)


def test_filters():
    everything = posezoo.list_models()
    assert posezoo.list_models("*_regression*") == [n for n in everything if "_regression" in n]
    small = posezoo.list_models(max_params=6e5)
    assert "mobilenet_split_050_192" in small
    assert "mobilenet_split_224" not in small
    assert set(posezoo.list_models(released=True)).isdisjoint(posezoo.list_models(released=False))
    assert set(posezoo.list_models(runtime="tflite")) <= set(posezoo.list_models(released=True))
    assert posezoo.list_models("nothing*") == []
