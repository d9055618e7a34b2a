"""Indices of protocols 3 to 5 against Python's own pickle, and files of torch that were saved with them."""

import argparse
import os
import pickle
import pickletools
from collections import OrderedDict

import pytest
import torch

import rqvae
from rqvae.storage.checkpoint import CheckpointError
from rqvae.storage.protocols import in_protocol_2
from rqvae.storage.torch_files import map_torch_file, read_torch_file

PROTOCOLS = [3, 4, 5]
SHARED = ["a text that comes twice", 7]
CONTENT = {"epoch": 3, "loss": 0.25, "big": 2 ** 70, "none": None, "yes": True, "empty": [(), {}, []],
           "twice": [SHARED, SHARED], "again": "a text that comes twice", "collections": "OrderedDict",
           "widths": (2048, 1024, 512, 64), "order": OrderedDict(b=1, a=2), "long": "é\n" * 300,
           "argparse": argparse.Namespace(lr=1e-3, layers=[64, 32], device="cuda:0"), "many": list(range(300))}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_objects_come_out_of_the_older_words(protocol):
    older = in_protocol_2(pickle.dumps(CONTENT, protocol), 2 ** 20)
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(older)) <= 2
    again = pickle.loads(older)
    assert again == CONTENT and again["twice"][0] is again["twice"][1]


def test_what_is_in_protocol_2_is_left_alone():
    index = pickle.dumps(CONTENT, 2)
    assert in_protocol_2(index, 10) is index and in_protocol_2(b"PK", 10) == b"PK"


def test_many_short_words_for_a_long_text_do_not_make_a_long_index():
    index = pickle.dumps(["x" * 10_000] * 100_000, 4)
    assert len(index) < 2 ** 20 < len(in_protocol_2(index, 2 ** 20)) < 2 ** 20 + 20_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_files_of_torch_are_read_whatever_their_protocol(tmp_path, protocol):
    path, weight = tmp_path / "best.pth", torch.randn(4, 3)
    torch.save({**CONTENT, "state_dict": {"a": weight, "tied": weight}}, path, pickle_protocol=protocol)
    found = read_torch_file(path, "cpu")
    assert torch.equal(found["state_dict"]["a"], weight)
    assert found["state_dict"]["a"].data_ptr() == found["state_dict"]["tied"].data_ptr()
    assert found["argparse"] == vars(CONTENT["argparse"])
    assert {**found, "argparse": 0, "state_dict": 0} == {**CONTENT, "argparse": 0, "state_dict": 0}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_features_are_read_whatever_their_protocol(tmp_path, protocol):
    features = torch.randn(20, 6)
    torch.save(features, tmp_path / "f.pt", pickle_protocol=protocol)
    torch.save({"features": features}, tmp_path / "g.pt", pickle_protocol=protocol)
    assert torch.equal(rqvae.open_features(tmp_path / "f.pt").rows(range(20)), features)
    assert torch.equal(map_torch_file(tmp_path / "g.pt")["features"], features)


class Calls:
    def __reduce__(self):
        return os.system, ("touch it",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_refused_in_the_newer_words_too(tmp_path, protocol):
    torch.save({"state_dict": {"a": Calls()}}, tmp_path / "evil.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"asks for \w+\.system, which could run code, so it was not opened"):
        read_torch_file(tmp_path / "evil.pth", "cpu")


@pytest.mark.parametrize("index", [
    b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93.",                              # a line break in a name
    b"\x80\x04\x8c\x05posix\x940\x8c\x06system\x93.",                  # another instruction between
    b"\x80\x04\x93.", b"\x80\x04\x8c\x01a\x93.", b"\x80\x04h\x05\x8c\x01a\x93."])
def test_a_global_that_is_named_in_another_way_stays_for_the_reader_to_refuse(index):
    assert b"\x93" in in_protocol_2(index, 100)
