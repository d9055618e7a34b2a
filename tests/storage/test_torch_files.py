"""Files of torch against torch's own reader, in every pickle protocol; what claims more than it has; checkpoints: test_checkpoint.py."""

import argparse
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch

import rqvae
from rqvae.storage.checkpoint import CheckpointError
from rqvae.storage import torch_files, torch_index
from rqvae.storage.torch_files import find_torch_tensors, read_torch_file

PROTOCOLS = [2, 3, 4, 5]
SHARED = ["a text that comes twice", 7]
CONTENT = {"epoch": 3, "loss": 0.25, "big": 2 ** 70, "none": None, "yes": True, "empty": [(), {}, []],
           "twice": [SHARED, SHARED], "again": "a text that comes twice", "collections": "OrderedDict",
           "widths": (2048, 1024, 512, 64), "order": OrderedDict(b=1, a=2), "long": "é\n" * 300,
           "argparse": argparse.Namespace(lr=1e-3, layers=[64, 32], device="cuda:0"), "many": list(range(300))}


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
    found = find_torch_tensors(tmp_path / "g.pt")["features"]
    assert (found.shape, found.dtype, found.is_contiguous()) == ((20, 6), torch.float32, True)
    assert (tmp_path / "g.pt").read_bytes()[found.start:found.start + 480] == features.numpy().tobytes()


class Calls:
    def __reduce__(self):
        return os.system, ("touch it",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_refused_in_the_newer_words_too(tmp_path, protocol):
    torch.save({"state_dict": {"a": Calls()}}, tmp_path / "evil.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"asks for \w+\.system, which could run code, so it was not opened"):
        read_torch_file(tmp_path / "evil.pth", "cpu")



@pytest.mark.parametrize("view", [
    lambda x: x.T, lambda x: x[:, ::2], lambda x: x[3:, 1:4], lambda x: x[:1], lambda x: x[:0],
    lambda x: x.bfloat16(), lambda x: x.double(), lambda x: x > 0, lambda x: (x * 100).long(), lambda x: x[0, 0]])
def test_views_and_types_are_what_torch_reads(tmp_path, view):
    tensor = view(torch.randn(9, 6))
    torch.save([tensor, tensor], tmp_path / "a.pt")
    ours, theirs = read_torch_file(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True)
    assert ours[0].dtype == theirs[0].dtype and torch.equal(ours[0], theirs[0])
    assert ours[0].stride() == theirs[0].stride() and ours[0].data_ptr() == ours[1].data_ptr()


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, ::2], lambda x: x[3:, 1:4],
                                  lambda x: x.bfloat16(), lambda x: x[5:]])
def test_views_are_read_as_features(tmp_path, view):
    tensor = view(torch.randn(9, 6))
    torch.save(tensor, tmp_path / "a.pt")
    table = rqvae.open_features(tmp_path / "a.pt")
    assert torch.equal(table.rows(range(len(tensor))), tensor.float())
    assert torch.equal(table.rows([2, 0]), tensor[[2, 0]].float())


def two_indices(path):
    """A zip whose archive at the end is honest, and whose index, as torch's own reader finds it, claims 1 GB."""
    torch.save({"state_dict": {"w": torch.zeros(4)}}, path)
    honest = path.read_bytes()
    torch.save({"state_dict": {"w": torch.zeros(1).expand(2 ** 28)}}, path)
    path.write_bytes(path.read_bytes() + honest)


def test_of_two_archives_in_a_file_the_one_that_was_verified_is_read(tmp_path):
    two_indices(tmp_path / "a.pt")
    assert read_torch_file(tmp_path / "a.pt")["state_dict"]["w"].tolist() == [0, 0, 0, 0]


def test_nothing_is_read_by_torch_itself():
    for module in (torch_files, torch_index):
        source = open(module.__file__).read()
        assert "torch.load(" not in source.split('"""', 2)[2].replace("torch.load(old", "")


MEMORY = """
import resource, sys
from rqvae.storage.torch_files import read_torch_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(type(read_torch_file(sys.argv[1])).__name__)
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("index, words", [
    (b"\x80\x02" + b"}" * 600_000 + b".", "more than 500,000 lists, dicts and tensors"),
    (b"\x80\x04]" + b"\x94h\x00" * 300_000 + b".", "or notes more than it says"),
    (b"\x80\x04]" + b"\x8c\x03abc\x94" * 100_000 + b".", "str"),
], ids=["dicts", "memo", "texts"])       # pytest hands the name of a test on to the processes that it starts
def test_an_index_makes_no_more_memory_than_some_times_its_length(tmp_path, index, words):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", index)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "a.pt")], text=True, capture_output=True,
                          cwd=os.path.dirname(os.path.dirname(rqvae.__file__)))
    first, grown = done.stdout.splitlines()
    assert words in first and int(grown) < 150, done.stdout


@pytest.mark.parametrize("call", [
    lambda storage: (storage, 0, (2 ** 40,), (1,)), lambda storage: (storage, 9, (2,), (1,)),
    lambda storage: (storage, -1, (2,), (1,)), lambda storage: (storage, 0, (2, 2), (1,)),
    lambda storage: (storage, 0, (True, 2), (1, 1)), lambda storage: (storage, 0, (2 ** 61, 2 ** 61), (0, 0))])
def test_a_tensor_has_no_number_outside_its_storage(call):
    storage = torch_index._Storage(torch.float32, 10, torch.zeros(40, dtype=torch.uint8))
    with pytest.raises((TypeError, ValueError)):
        torch_index._tensor(*call(storage), None)
