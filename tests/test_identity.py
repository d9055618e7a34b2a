"""What things were made of: every part, changed, is found, in whatever record it stands, and nothing else is."""

import copy

import numpy as np
import pytest
import torch

from rqvae import RqVae, identity, open_features
from rqvae.items.batches import FeatureLoader
from rqvae.items.checksums import FORMS
from rqvae.storage.item_ids import ids_checksum

ROWS = np.random.default_rng(0).normal(size=(2500, 6)).astype(np.float32)
IDS = [f"B{row}" for row in range(len(ROWS))]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RqVae(6, 8, 4, 16, num_quantizers=2)


@pytest.mark.parametrize("kind", identity.RECORDS)
def test_a_record_gives_back_what_was_put_into_it_and_of_odd_ones_nothing(kind):
    parts = {part: f"the {part}" for part in identity.RECORDS[kind]}
    record = identity.as_record(kind, parts)
    assert identity.recorded(kind, record) == parts
    for part in parts:
        fewer = {name: value for name, value in parts.items() if name != part}
        assert identity.recorded(kind, identity.as_record(kind, fewer)) == fewer
    assert all(identity.recorded(kind, odd) == {} for odd in (None, [], "x", 3, {}, {"notes": 3, "checkpoint": [1]}))


def test_where_records_keep_their_parts_is_what_files_of_before_have():
    assert identity.as_record("checkpoint", {"features": "a", "item IDs": "b", "batches": "c"}) == {
        "notes": {"features_checksum": "a", "item_ids_checksum": "b"}, "fingerprint": "c"}
    assert identity.as_record("manifest", {"weights": "a", "options": {}, "features": "b"}) == {
        "checkpoint": {"weights": "a", "options": {}}, "features": {"checksum": "b"}}
    assert identity.as_record("part", {"weights": "a", "item IDs": "b"}) == {"model": "a", "item_ids": "b"}


def test_each_part_that_is_another_is_named_and_what_is_not_known_is_not(model):
    table = open_features(ROWS, item_ids=IDS)
    then = {**identity.of_model(model), **identity.of_items(table), "codes": "x"}
    assert identity.compared(then, {"codes": "x"}, model=model, table=table) == dict.fromkeys(then, True)
    assert identity.compared({**then, "weights": None, "rows": [0, 1]}, {"codes": None}, model=model) == {"options": True}
    assert identity.differences(then, {"codes": "y"}) == ["codes"]
    assert identity.differences(then, table=open_features(ROWS[::-1].copy(), item_ids=IDS)) == ["features"]
    assert identity.differences(then, table=open_features(ROWS, item_ids=IDS[::-1])) == ["item IDs"]
    assert identity.differences(then, table=open_features(ROWS)) == ["item IDs"]
    edited = copy.deepcopy(model)
    edited.hyper_parameters["activation"] = "gelu"
    assert identity.differences(then, model=edited) == ["options"]
    with torch.no_grad():
        next(edited.parameters()).view(-1)[3] += 1e-7
    assert identity.differences(then, model=edited) == ["weights", "options"]
    own = identity.of_model(edited)["weights"]
    assert identity.differences({"weights": own}, model=model) == ["weights"]
    assert identity.differences({"weights": own}, model=model, ancestors=["other", own]) == []


@pytest.mark.parametrize("odd", [[], "relu", 3, {"activation": None}])
def test_odd_options_are_others(model, odd):
    assert identity.differences({"options": odd}, model=model) == ["options"]


def test_options_that_one_side_does_not_know_are_not_compared():
    assert identity.unlike({"activation": "relu", "parts": None, "new": 1}, {"activation": "gelu", "parts": [3, 3]}) == [
        "activation", "parts"]


@pytest.mark.parametrize("form", FORMS)
def test_features_are_compared_in_the_form_that_was_recorded_whole_and_in_part(form):
    table, other = open_features(ROWS), open_features(np.where(np.arange(2500)[:, None] == 2000, -ROWS, ROWS))
    whole, part = (table.checksum(rows, form=form) for rows in (None, range(1024, 2048)))
    assert identity.differences({"features": whole}, table=table) == []
    assert identity.differences({"features": whole}, table=other) == ["features"]
    assert identity.differences({"features": part}, table=table, rows=range(1024, 2048)) == []
    assert identity.differences({"features": part}, table=other, rows=range(1024, 2048)) == ["features"]
    assert identity.differences({"features": part}, table=table, rows=range(0, 1024)) == ["features"]


def test_batches_are_compared_where_the_loader_can_say():
    loader = FeatureLoader(ROWS, 64, shuffle=True, seed=3)
    then = {"batches": loader.fingerprint()}
    assert identity.compared(then, loader=loader) == {"batches": True}
    assert all(identity.compared({"batches": earlier}, loader=loader) == {"batches": True}
               for earlier in loader.earlier_fingerprints())
    for other in (FeatureLoader(ROWS, 64, shuffle=True, seed=4), FeatureLoader(ROWS, 65, shuffle=True, seed=3),
                  FeatureLoader(ROWS[1:], 64, shuffle=True, seed=3)):
        assert identity.differences(then, loader=other) == ["batches"]
    plain = torch.utils.data.DataLoader([{"features": row} for row in torch.from_numpy(ROWS[:4])])
    assert identity.compared(then, loader=plain) == {} and identity.fingerprint(plain) is None


def test_item_ids_count_by_their_text_and_order():
    then = {"item IDs": ids_checksum(list(range(2500)))}
    assert identity.differences(then, table=open_features(ROWS, item_ids=list(map(str, range(2500))))) == []
    assert identity.differences(then, table=open_features(ROWS, item_ids=IDS)) == ["item IDs"]
