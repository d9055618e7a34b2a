"""rqvae.storage.checkpoint against Lightning's layout typed out by hand, real damage, and hostile files."""

import argparse
import builtins
import enum
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import rqvae
from rqvae.storage.checkpoint import (LIGHTNING_VERSION, CheckpointError, Progress, build_checkpoint,
                              epochs_done, explain_mismatch, load_checkpoint,
                              require_training_state,
                              save_checkpoint)

FIXTURES = Path(__file__).parents[1] / "fixtures"
FIXTURE = FIXTURES / "lightning.ckpt"
REPOSITORY = Path(rqvae.__file__).resolve().parent.parent
STATE_KEYS = [
    "encoder.layers.0.weight", "encoder.layers.0.bias", "encoder.layers.2.weight",
    "encoder.layers.2.bias", "encoder.layers.4.weight", "encoder.layers.4.bias",
    "quantizer.embeddings.weight",
    "decoder.layers.0.weight", "decoder.layers.0.bias", "decoder.layers.2.weight",
    "decoder.layers.2.bias", "decoder.layers.4.weight", "decoder.layers.4.bias"]


# ---------------------------------------------------------------------------------------- helpers

def equal(a, b):
    """The same types, keys in the same order, numbers, and bits of tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def small_checkpoint(value=1.0, **changes):
    weight = torch.full((3, 2), value)
    arguments = dict(epoch=1, global_step=10, state_dict={"layer.weight": weight},
                     hyper_parameters={"input_dim": 2},
                     optimizer_states=[{"state": {}, "param_groups": []}],
                     lr_schedulers=[{"best": 0.5}],
                     progress=Progress(epochs_done=2, batches_in_epoch=5, val_batches=3))
    return build_checkpoint(**{**arguments, **changes})


def torch_zip(path, index, records=(), compression=zipfile.ZIP_STORED):
    """A torch file with this pickle and these records, every checksum right."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", index)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", sys.byteorder.encode())
        for number, record in enumerate(records):
            archive.writestr(f"archive/data/{number}", record)
    return path


def parts(path):
    """-> (pickle, records in order) of a torch file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        folder = names[0].split("/")[0]
        count = sum(name.startswith(f"{folder}/data/") for name in names)
        return (archive.read(f"{folder}/data.pkl"),
                [archive.read(f"{folder}/data/{i}") for i in range(count)])


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "weights_only=False" not in message
    return message


def run_python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)],
                            capture_output=True, text=True, timeout=300,
                            env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# --------------------------------------------------------------------------------- what is written

def counts(ready, completed=None):
    return {"ready": ready, "completed": ready if completed is None else completed,
            "started": ready,
            "processed": ready}


IDLE = {"total": counts(0), "current": counts(0)}


def test_a_file_saved_at_the_end_of_an_epoch_has_exactly_lightnings_layout():
    """Two epochs of five batches and three validation batches, as Lightning 2.6.6 writes them."""
    checkpoint = small_checkpoint(extra={"seed": 0})
    loops = checkpoint.pop("loops")
    assert equal(checkpoint, {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict({"layer.weight": torch.ones(3, 2)}),
        "callbacks": {},
        "hparams_name": "kwargs",
        "hyper_parameters": {"input_dim": 2},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [{"best": 0.5}],
        "rqvae": {"seed": 0},
    })
    assert loops == {
        "fit_loop": {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": 10},
            "epoch_loop.batch_progress": {"total": counts(10), "current": counts(5),
                                          "is_last_batch": True},
            "epoch_loop.scheduler_progress": {"total": {"ready": 2, "completed": 2},
                                              "current": {"ready": 1, "completed": 1}},
            "epoch_loop.automatic_optimization.state_dict": {},
            "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {
                "step": {"total": {"ready": 10, "completed": 10},
                         "current": {"ready": 5, "completed": 5}},
                "zero_grad": {"total": {"ready": 10, "completed": 10, "started": 10},
                              "current": {"ready": 5, "completed": 5, "started": 5}}}},
            "epoch_loop.manual_optimization.state_dict": {},
            "epoch_loop.manual_optimization.optim_step_progress": {
                "total": {"ready": 0, "completed": 0}, "current": {"ready": 0, "completed": 0}},
            "epoch_loop.val_loop.state_dict": {},
            "epoch_loop.val_loop.batch_progress": {"total": counts(3), "current": counts(3),
                                                   "is_last_batch": True},
            "epoch_progress": {"total": counts(2, completed=1), "current": counts(2, completed=1)},
        },
        "validate_loop": {"state_dict": {}, "batch_progress": {**IDLE, "is_last_batch": False}},
        "test_loop": {"state_dict": {}, "batch_progress": {**IDLE, "is_last_batch": False}},
        "predict_loop": {"state_dict": {}, "batch_progress": IDLE},
    }


def test_a_file_saved_within_an_epoch_counts_the_epoch_as_begun_and_no_more():
    """Two epochs of five batches done, then three batches of the third."""
    progress = Progress(epochs_done=2, batches_in_epoch=3, epoch_ended=False, is_last_batch=False,
                        val_batches=3)
    loop = small_checkpoint(epoch=2, global_step=13, progress=progress)["loops"]["fit_loop"]
    assert loop["epoch_progress"]["total"] == {"ready": 3, "completed": 2, "started": 3,
                                               "processed": 2}
    assert loop["epoch_loop.batch_progress"] == {"total": counts(13), "current": counts(3),
                                                 "is_last_batch": False}
    assert loop["epoch_loop.scheduler_progress"] == {"total": {"ready": 2, "completed": 2},
                                                     "current": {"ready": 0, "completed": 0}}
    assert loop["epoch_loop.val_loop.batch_progress"] == {"total": counts(0), "current": counts(3),
                                                          "is_last_batch": True}


def test_an_epoch_that_contradicts_the_progress_is_refused():
    with pytest.raises(ValueError, match=r"epoch 2 does not agree with Progress\(epochs_done=2"):
        small_checkpoint(epoch=2)


def test_a_checkpoint_of_weights_only_says_so_when_training_wants_to_go_on(tmp_path):
    checkpoint = small_checkpoint(optimizer_states=None, lr_schedulers=None, progress=None)
    assert set(checkpoint) == {"epoch", "global_step", "pytorch-lightning_version", "state_dict",
                               "callbacks",
                               "hparams_name", "hyper_parameters"}
    save_checkpoint(checkpoint, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"w\.ckpt holds weights but no optimizer state \("
                       r"optimizer_states, lr_schedulers missing\), so training cannot resume"):
        require_training_state(load_checkpoint(tmp_path / "w.ckpt"), tmp_path / "w.ckpt")
    require_training_state(small_checkpoint(), "x.ckpt")
    with pytest.raises(CheckpointError, match=r"\(optimizer_states missing\)"):
        require_training_state(small_checkpoint(optimizer_states=[]), "x.ckpt")


def test_whole_epochs_are_counted_from_every_kind_of_file():
    assert epochs_done(small_checkpoint()) == 2
    assert epochs_done(small_checkpoint(progress=None)) == 2        # by its epoch, which is 1
    progress = Progress(epochs_done=2, batches_in_epoch=3, epoch_ended=False, is_last_batch=False)
    assert epochs_done(small_checkpoint(epoch=2, progress=progress)) == 2
    assert epochs_done(load_checkpoint(FIXTURE)) == 14


def test_what_is_saved_is_read_back_bit_for_bit_by_us_and_by_plain_torch(tmp_path):
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
             torch.int16, torch.int8, torch.uint8, torch.bool)
    checkpoint = small_checkpoint(
        state_dict={str(dtype): torch.arange(6).to(dtype).reshape(2, 3) for dtype in kinds},
        extra={"rng": torch.get_rng_state(), "empty": torch.empty(0, 4), "zero": torch.tensor(0.0),
               "best": float("inf"), "seed": 2**80, "text": "Ä \ud800", "nothing": None,
               "flags": (True, [1, -1]),
               7: {"order": OrderedDict(b=1, a=2)}})
    save_checkpoint(checkpoint, tmp_path / "new" / "a.ckpt")
    assert equal(load_checkpoint(tmp_path / "new" / "a.ckpt"), checkpoint)
    assert equal(torch.load(tmp_path / "new" / "a.ckpt", weights_only=True), checkpoint)
    assert os.listdir(tmp_path / "new") == ["a.ckpt"]


def test_a_process_that_saves_without_checksums_still_saves_ours_with_them(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(small_checkpoint(), tmp_path / "a.ckpt")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(load_checkpoint(tmp_path / "a.ckpt"), small_checkpoint())


def test_a_built_checkpoint_is_a_snapshot_that_training_cannot_change():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    moments = {"state": {0: {"exp_avg": torch.zeros(4)}}}
    checkpoint = small_checkpoint(state_dict={"w": weight, "row": weight[0]},
                                  optimizer_states=[moments])
    with torch.no_grad():
        weight += 1
        moments["state"][0]["exp_avg"] += 1
    kept = checkpoint["state_dict"]
    assert kept["w"].sum() == 0 and not kept["w"].requires_grad
    assert kept["row"].untyped_storage().nbytes() == 16     # not the whole of w
    assert checkpoint["optimizer_states"][0]["state"][0]["exp_avg"].sum() == 0


def test_paths_numpy_scalars_and_namespaces_become_plain_values():
    class Kind(str, enum.Enum):
        PLATEAU = "plateau"

    class Level(enum.IntEnum):
        THREE = 3

    plain = small_checkpoint(hyper_parameters={
        "data": Path("a") / "b.npy", "lr": np.float64(1e-3), "codes": np.int64(256),
        "on": np.bool_(True), "name": np.str_("x"), "kind": Kind.PLATEAU, "levels": Level.THREE,
        "size": torch.Size([2, 3]), "options": argparse.Namespace(widths=[np.float32(0.5)]),
    })["hyper_parameters"]
    assert equal(plain, {
        "data": os.path.join("a", "b.npy"), "lr": 1e-3, "codes": 256,
        "on": True, "name": "x", "kind": "plateau", "levels": 3,
        "size": (2, 3), "options": {"widths": [0.5]}})


@pytest.mark.parametrize("value, named", [
    (np.zeros(3), "ndarray"), (object(), "object"), ({1, 2}, "set"), (b"x", "bytes"),
    (len, "builtin_function"),
    (torch.zeros(2).to_sparse(), "sparse"), (torch.zeros(2, dtype=torch.complex64), "complex64")])
def test_what_no_safe_reader_accepts_is_refused_with_its_place(value, named):
    with pytest.raises(TypeError,
                       match=rf"checkpoint\['hyper_parameters'\]\['a'\]\[1\] is a .*{named}.*"
                                        "which a checkpoint cannot hold safely"):
        small_checkpoint(hyper_parameters={"a": [1, value]})


def test_a_tuple_as_a_key_is_refused():
    with pytest.raises(TypeError,
                       match=r"checkpoint\['rqvae'\] has the key \(1, 2\); keys in a chec"):
        small_checkpoint(extra={(1, 2): 3})


# --------------------------------------------------------------------------- Lightning's own file

def test_a_file_by_real_lightning_loads_with_documented_keys_and_types():
    checkpoint = load_checkpoint(FIXTURE)
    assert list(checkpoint) == ["epoch", "global_step", "pytorch-lightning_version", "state_dict",
                                "loops",
                                "callbacks", "optimizer_states", "lr_schedulers", "hparams_name",
                                "hyper_parameters"]
    assert checkpoint["pytorch-lightning_version"] == LIGHTNING_VERSION
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (13, 70)
    assert list(checkpoint["state_dict"]) == STATE_KEYS
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values()} == {torch.float32}
    assert checkpoint["state_dict"]["quantizer.embeddings.weight"].shape == (16, 4)
    assert checkpoint["hyper_parameters"] == {
        "input_dim": 12, "hidden_dim": 8, "latent_dim": 4, "num_embeddings": 16,
        "commitment_cost": 0.25,
        "learning_rate": 0.01}
    assert checkpoint["lr_schedulers"][0]["_last_lr"] == [0.005]
    require_training_state(checkpoint, FIXTURE)


def test_weights_of_the_fixture_reproduce_lightnings_outputs():
    """The documented model, written out: two ReLU layers each way, the nearest code between."""
    weights = load_checkpoint(FIXTURE)["state_dict"]
    expected = torch.load(FIXTURES / "lightning_expected.pt", weights_only=True)

    def network(name, x):
        for layer in (0, 2, 4):
            x = torch.nn.functional.linear(x, weights[f"{name}.layers.{layer}.weight"],
                                           weights[f"{name}.layers.{layer}.bias"])
            x = torch.relu(x) if layer < 4 else x
        return x

    encoded = network("encoder", expected["features"])
    codebook = weights["quantizer.embeddings.weight"]
    codes = (encoded[:, None] - codebook[None]).square().sum(-1).argmin(1)
    torch.testing.assert_close(encoded, expected["encoded"])
    assert codes.tolist() == expected["semantic_ids"].tolist() and len(set(codes.tolist())) > 3
    torch.testing.assert_close(network("decoder", codebook[codes]), expected["reconstructed"])


def test_the_loop_counters_of_the_fixture_are_the_ones_that_we_write():
    """14 epochs of 5 batches. Lightning saves before the plateau step: it is one step behind."""
    theirs = load_checkpoint(FIXTURE)["loops"]
    ours = small_checkpoint(epoch=13, global_step=70,
                            progress=Progress(epochs_done=14, batches_in_epoch=5,
                                              val_batches=3))["loops"]
    scheduler = "epoch_loop.scheduler_progress"
    assert theirs["fit_loop"].pop(scheduler) == {"total": {"ready": 13, "completed": 13},
                                                 "current": {"ready": 0, "completed": 0}}
    assert ours["fit_loop"].pop(scheduler) == {"total": {"ready": 14, "completed": 14},
                                               "current": {"ready": 1, "completed": 1}}
    assert ours == theirs


# ------------------------------------------------------------------------------- reading leniently

def test_prefixes_of_wrappers_are_stripped_and_a_clash_is_named(tmp_path):
    w = torch.ones(1)
    torch.save({"state_dict": {"module._orig_mod.a": w, "_orig_mod.module.b": w,
                               "c._orig_mod.d": w, "e": w}},
               tmp_path / "a.ckpt")
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert list(checkpoint["state_dict"]) == ["a", "b", "c.d", "e"]
    assert checkpoint["hyper_parameters"] == {}
    torch.save({"state_dict": {"module.a": w, "a": w}}, tmp_path / "b.ckpt")
    assert "holds the weight a twice, with and without the prefix" in refusal(tmp_path / "b.ckpt")


def test_hyper_parameters_that_begin_with_an_underscore_are_ignored(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {
        "input_dim": 2, "_instantiator": "os.system", "_class_path": "x", 3: 4}},
        tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"] == {"input_dim": 2}


def pretend(monkeypatch, dotted, base=object):
    """A class that pickles under the name of a package that is not there."""
    module, name = dotted.rsplit(".", 1)
    packages = module.split(".")
    for end in range(1, len(packages) + 1):
        package = ".".join(packages[:end])
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    made = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def with_fields(made, **fields):
    made.__dict__.update(fields)
    return made


def test_a_namespace_of_hyper_parameters_is_read_as_a_dict(tmp_path):
    inner = argparse.Namespace(widths=[3, argparse.Namespace(x=1)])
    torch.save({"state_dict": {}, "hyper_parameters": argparse.Namespace(a=1, b=inner, _c=2)},
               tmp_path / "a.ckpt")
    allowed = set(torch.serialization.get_safe_globals())
    hparams = load_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"]
    assert equal(hparams, {"a": 1, "b": {"widths": [3, {"x": 1}]}})
    assert set(torch.serialization.get_safe_globals()) == allowed       # nothing is left behind


@pytest.mark.parametrize("home", ["lightning_fabric.utilities.data",
                                  "lightning.fabric.utilities.data",
                                  "pytorch_lightning.utilities.parsing"])
def test_an_attribute_dict_is_read_as_a_dict_without_lightning(tmp_path, monkeypatch, home):
    kind = pretend(monkeypatch, f"{home}.AttributeDict", dict)
    torch.save({"state_dict": {}, "hyper_parameters": kind(a=1, b=kind(c=2))}, tmp_path / "a.ckpt")
    monkeypatch.undo()
    assert equal(load_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"], {"a": 1, "b": {"c": 2}})


def test_an_omegaconf_is_read_as_plain_values_without_omegaconf(tmp_path, monkeypatch):
    any_node, dict_config, list_config, metadata = (
        pretend(monkeypatch, f"omegaconf.{name}") for name in (
            "nodes.AnyNode", "dictconfig.DictConfig", "listconfig.ListConfig",
            "base.ContainerMetadata"))

    def node(value):
        about = with_fields(metadata(), object_type=dict)
        return with_fields(any_node(), _metadata=about, _val=value)

    config = dict_config()
    widths = with_fields(list_config(), _parent=config, _content=[node(8), node(4)])
    with_fields(config, _metadata=metadata(), _parent=None,
                _content={"lr": node(0.1), "hidden_dim": widths})
    torch.save({"state_dict": {}, "hyper_parameters": config, "hparams_type": dict_config},
               tmp_path / "a.ckpt")
    monkeypatch.undo()
    hparams = load_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"]
    assert equal(hparams, {"lr": 0.1, "hidden_dim": [8, 4]})


def test_a_real_omegaconf_is_read_as_plain_values(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    plain = {"lr": 0.1, "hidden_dim": [8, 4], "opt": {"name": "adam", "on": True, "none": None}}
    config = omegaconf.OmegaConf.create(plain)
    torch.save({"state_dict": {}, "hyper_parameters": config, "hparams_type": type(config)},
               tmp_path / "a.ckpt")
    assert equal(load_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"], plain)


# -------------------------------------------------------------------- files that are something else

def test_a_missing_file_names_the_nearest_names(tmp_path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"lats\.ckpt not found; did you mean last\.ckpt\?"):
        load_checkpoint(tmp_path / "lats.ckpt")
    with pytest.raises(FileNotFoundError, match="not found; the folder .*nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere" / "last.ckpt")


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def npz_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3), b=np.ones(2))
    return buffer.getvalue()


def legacy_bytes():
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("content, words", [
    (b"", "is no checkpoint: the file is empty; pass a .ckpt file written by training"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
     "this is a Git LFS pointer, not the data "
     "itself: run `git lfs pull`"),
    (b"<!DOCTYPE html><html></html>", "this is an HTML page, probably a login or error page"),
    (b"{\"a\": 1}", "this looks like JSON text"),
    (b"\0" * 500, "the file begins with zeros, as one does that was never fully written"),
    (b"hello world, I am text", "starts with b'hello world, I a'"),
    (npy_bytes(), "this is a .npy array"),
    (npz_bytes(),
     "is a zip archive without the one data.pkl that torch.save writes; it holds a.npy, b.npy"),
    (legacy_bytes(),
     "is in the format of torch before 1.6, which has no checksums; convert it once"),
    (FIXTURE.read_bytes()[:5000],
     "is truncated or damaged (File is not a zip file); use another copy of it, or "
     "an earlier one"),
    (pickle.dumps([1, 2]),
     "this is a Python pickle, which can run code when it is read, so it is not opened"),
], ids=["empty", "lfs", "html", "json", "zeros", "text", "npy", "npz", "legacy", "cut", "pickle"])
def test_a_file_that_is_something_else_is_called_what_it_is(tmp_path, content, words):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_directory_and_a_pipe_are_refused_at_once(tmp_path):
    with pytest.raises(CheckpointError, match="is a directory; expected a checkpoint file$"):     # none is invented
        load_checkpoint(tmp_path)
    (tmp_path / "last.ckpt").touch()
    words = f"is a directory; expected a checkpoint file, such as {tmp_path / 'last.ckpt'}"
    assert words in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is a device or pipe; expected a checkpoint file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("content, words", [
    (torch.zeros(3), "holds a Tensor, not a checkpoint dict; pass a .ckpt file"),
    ({"a": torch.zeros(1), "b": 1, "c": 2, "d": 3},
     "has no 'state_dict'; it holds a, b, c, ...; pass a .ckpt"),
    ({"state_dict": [1]}, "the weights are a list, expected a dict of name -> tensor"),
    ({"state_dict": {"w": 3}}, "the weight 'w' is a int, expected a tensor under a name"),
    ({"state_dict": {}, "hyper_parameters": [1]},
     "hyper_parameters is a list, expected a dict of the constr"),
])
def test_a_torch_file_that_is_no_checkpoint_names_what_it_holds(tmp_path, content, words):
    torch.save(content, tmp_path / "a.ckpt")
    assert words in refusal(tmp_path / "a.ckpt")


def test_a_device_that_is_not_there_names_the_way_out(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(CheckpointError,
                       match="cannot be read with map_location='cuda' on this machine; pass map"):
        load_checkpoint(FIXTURE, map_location="cuda")
    assert load_checkpoint(FIXTURE, map_location=None)["epoch"] == 13


# ---------------------------------------------------------------------------------- hostile files

PAYLOADS = {
    "system": (lambda mark: Calls(os.system, f"touch {mark}"), f"{os.system.__module__}.system"),
    "eval": (lambda mark: Calls(builtins.eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
    "popen": (lambda mark: Calls(subprocess.Popen, ["touch", str(mark)]),
              ".Popen"),      # protocol 2 calls it commands.Popen
    "open": (lambda mark: Calls(open, str(mark), "w"), "open"),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_malicious_checkpoint_is_refused_by_name_and_nothing_runs(tmp_path, kind):
    make, name = PAYLOADS[kind]
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"a": make(mark)}}, path)
    message = refusal(path)
    assert name in message and "could run code, so it was not opened and nothing was run" in message
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(make(mark), protocol))
        message = refusal(path)
        assert name in message and "nothing was run" in message
    assert not mark.exists()


def test_every_foreign_name_is_listed_up_to_ten(tmp_path):
    functions = [abs, all, any, ascii, bin, callable, chr, delattr, dir, divmod, eval, exec]
    torch.save({"state_dict": {}, "x": functions}, tmp_path / "a.ckpt")
    assert re.search(r"asks for (\S+, ){9}\S+ and 2 more, which could run code",
                     refusal(tmp_path / "a.ckpt"))


def bombs():
    """name -> (index, records): small files that ask for much memory or for ever."""
    tensor = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
              b"X\x01\0\0\0" b"0X\x03\0\0\0cpu%st%sQK\0%s%s\x89ccollections\nOrderedDict\n)RtR")
    ten, thousand, billion = (b"J" + n.to_bytes(4, "little") for n in (10, 1000, 10**9))
    forty = [torch.arange(10.0).numpy().tobytes()]

    def checkpoint(value):
        return b"\x80\x02}(X\x0a\0\0\0state_dict}X\x01\0\0\0a" + value + b"u."

    return {
        "a plain tensor": (checkpoint(tensor % (ten, b"", ten + b"\x85", b"K\x01\x85")), forty),
        "torch.Tensor(n)": (checkpoint(b"ctorch\nTensor\n" + billion + b"\x85R"), []),
        "bytearray(n)": (checkpoint(b"c__builtin__\nbytearray\n" + billion + b"\x85R"), []),
        "UntypedStorage(n)": (checkpoint(b"ctorch.storage\nUntypedStorage\n" + billion + b"\x85R"),
                              []),
        "a storage longer than its record": (
            checkpoint(tensor % (billion, b"", billion + b"\x85", b"K\x01\x85")), forty),
        "a storage without a record": (
            checkpoint(tensor % (ten, b"", ten + b"\x85", b"K\x01\x85")), []),
        "a tensor longer than its storage": (
            checkpoint(tensor % (ten, b"", billion + b"\x85", b"K\x01\x85")), forty),
        "one number a billion times": (
            checkpoint(tensor % (ten, b"", billion + b"\x85", b"K\0\x85")), forty),
        "one tensor under a thousand names": (
            b"\x80\x02}(K\0" + tensor % (thousand, b"", thousand + b"\x85", b"K\x01\x85") + b"q\0"
            + b"".join(b"M" + i.to_bytes(2, "little") + b"h\0" for i in range(1, 1000)) + b"u.",
            [bytes(4000)]),
        "a size below zero": (
            checkpoint(tensor % (ten, b"", b"J\xff\xff\xff\xff\x85", b"K\x01\x85")), forty),
        "tuples of tuples as a key": (
            b"\x80\x02}K\x01\x85q\0" + b"h\0\x86q\0" * 80 + b"K\x01s.", []),
        "tuples of tuples in an OrderedDict": (
            b"\x80\x02K\x01\x85q\0" + b"h\0\x86q\0" * 80
            + b"ccollections\nOrderedDict\n](h\0K\x01\x86e\x85R.", []),
        "lists of lists, shared": (checkpoint(b"]q\0" + b"](h\0h\0eq\0" * 80), []),
        "a list that holds itself": (checkpoint(b"]q\0h\0a"), []),
        "deep lists": (checkpoint(b"](" * 100_000 + b"e" * 100_000), []),
        "deep tuples": (checkpoint(b")" + b"\x85" * 100_000), []),
        "a call of a tensor": (
            checkpoint(tensor % (ten, b"", ten + b"\x85", b"K\x01\x85") + b")R"), forty),
        "a set": (checkpoint(b"c__builtin__\nset\n](K\x01e\x85R"), []),
        "an empty stack": (b"\x80\x02s.", []),
        "nothing": (b"", []),
        "no end": (b"\x80\x02}", []),
        "text of four gigabytes": (b"\x80\x02X\xff\xff\xff\xffabc.", []),
        "a text posing as a storage": (checkpoint(
            b"(X\x07\0\0\0storageX\x12\0\0\0torch.FloatStorageX\x01\0\0\0"
            b"0X\x03\0\0\0cpuK\x0atQ"), forty),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_small_hostile_file_costs_neither_memory_nor_time(tmp_path, name):
    resource = pytest.importorskip("resource")
    index, records = bombs()[name]
    path = torch_zip(tmp_path / "bomb.ckpt", index, records)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "a plain tensor":        # the template that others are spoiled from is right
        assert load_checkpoint(path)["a"].tolist() == list(range(10))
    else:
        refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000     # KB


@pytest.mark.parametrize("name, words", [
    ("torch.Tensor(n)", "asks for torch.Tensor, which could run code"),
    ("bytearray(n)", "asks for builtins.bytearray"),
    ("a storage longer than its record",
     "promises 4,000,000,000 bytes in the record data/0, which has 40; use"),
    ("a storage without a record", "promises 40 bytes in the record data/0, which is missing; use"),
    ("one number a billion times",
     r"claims 4,000,000,000 bytes of tensors from [0-9,]+ bytes of data"),
    ("one tensor under a thousand names",
     "claims 4,000,000 bytes of tensors from [0-9,]+ bytes of data"),
    ("tuples of tuples as a key", "has dict keys that are neither text nor numbers"),
    ("a list that holds itself", "has lists and dicts within each other very deep"),
    ("deep tuples", "within each other very deep"),
])
def test_what_a_hostile_file_tried_is_said(tmp_path, name, words):
    assert re.search(words, refusal(torch_zip(tmp_path / "bomb.ckpt", *bombs()[name])))


def test_a_zip_bomb_and_overlapping_records_are_refused(tmp_path):
    index, records = parts(FIXTURE)
    torch_zip(tmp_path / "a.ckpt", index, [*records, bytes(50_000_000)], zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.ckpt").stat().st_size < 200_000
    assert "holds compressed or overlapping records, which torch." in refusal(tmp_path / "a.ckpt")
    torch_zip(tmp_path / "b.ckpt", b"\x80\x02}.", [bytes(10_000)])
    raw = (tmp_path / "b.ckpt").read_bytes()
    directory = raw.rindex(b"PK\x01\x02")
    entry = raw[directory:raw.rindex(b"PK\x05\x06")]
    end = bytearray(raw[directory + len(entry):])
    end[8:12] = (103).to_bytes(2, "little") * 2
    end[12:16] = (int.from_bytes(end[12:16], "little") + 99 * len(entry)).to_bytes(4, "little")
    (tmp_path / "b.ckpt").write_bytes(raw[:directory] + entry * 100 + bytes(end))
    assert "holds compressed or overlapping records" in refusal(tmp_path / "b.ckpt")


def test_an_index_of_many_megabytes_is_not_read(tmp_path):
    torch_zip(tmp_path / "a.ckpt", b"\x80\x02}" + bytes(33 << 20))
    words = "has an index of 34,603,011 bytes, above the 33,554,432 that are read"
    assert words in refusal(tmp_path / "a.ckpt")


def test_a_file_of_the_other_byte_order_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    other = "big" if sys.byteorder == "little" else "little"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/byteorder", other)
    words = f"was written in another byte order ({other.encode()!r}, here it is {sys.byteorder})"
    assert words in refusal(path)


# ----------------------------------------------------------------------------- damage and fuzzing

def outcome(path, original):
    """"detected", or "harmless" where the content is the same; anything else fails the test."""
    try:
        content = load_checkpoint(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))
        return "detected"
    assert equal(content, original), "a damaged file loaded with another content"
    return "harmless"


def flip_bits(path, tries, seed):
    original, content = load_checkpoint(FIXTURE), FIXTURE.read_bytes()
    generator, seen = random.Random(seed), {"detected": 0, "harmless": 0}
    for _ in range(tries):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        seen[outcome(path, original)] += 1
    return seen


def cut(path, tries, seed):
    original, content = load_checkpoint(FIXTURE), FIXTURE.read_bytes()
    generator, seen = random.Random(seed), {"detected": 0, "harmless": 0}
    for _ in range(tries):
        path.write_bytes(content[:generator.randrange(len(content))])
        seen[outcome(path, original)] += 1
    return seen


def mutate_index(path, tries, seed):
    """Random bytes in the pickle under a right checksum: success, or our error, nothing else."""
    index, records = parts(FIXTURE)
    generator, seen = random.Random(seed), {"loaded": 0, "refused": 0}
    for _ in range(tries):
        damaged = bytearray(index)
        for _ in range(generator.choice((1, 1, 2, 8))):
            start = generator.randrange(len(damaged))
            length = generator.choice((0, 1, 1, 1, 4))
            damaged[start:start + length] = generator.randbytes(generator.choice((0, 1, 1, 1, 4)))
        torch_zip(path, bytes(damaged), records)
        try:
            load_checkpoint(path)
            seen["loaded"] += 1
        except CheckpointError:
            seen["refused"] += 1
    return seen


def test_a_flipped_bit_is_detected_or_harmless(tmp_path):
    seen = flip_bits(tmp_path / "a.ckpt", 120, seed=0)
    assert seen["detected"] > 40


def test_every_flipped_bit_of_a_weight_is_detected(tmp_path):
    content, path = FIXTURE.read_bytes(), tmp_path / "a.ckpt"
    weight = load_checkpoint(FIXTURE)["state_dict"]["decoder.layers.4.weight"].numpy().tobytes()
    start = content.index(weight)
    for offset in range(start, start + 64):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1:])
        assert re.search(r"is truncated or damaged \(Bad CRC-32 for file '.*/data/\d+'\); "
                         "use another copy of it, or an earlier one", refusal(path))


def test_a_cut_file_is_always_detected(tmp_path):
    assert cut(tmp_path / "a.ckpt", 100, seed=0) == {"detected": 100, "harmless": 0}


def test_a_mutated_index_loads_or_is_refused(tmp_path):
    seen = mutate_index(tmp_path / "a.ckpt", 300, seed=0)
    assert seen["refused"] > 100


@pytest.mark.campaign
def test_campaign_of_damage(tmp_path):
    print(flip_bits(tmp_path / "a.ckpt", 1000, seed=1), cut(tmp_path / "a.ckpt", 500, seed=1),
          mutate_index(tmp_path / "a.ckpt", 5000, seed=1))


# --------------------------------------------------------------------------- faults while saving

FULL_DISK = """
import json, os, resource, signal, sys, torch
from rqvae.storage.checkpoint import save_checkpoint
path = sys.argv[1]
save_checkpoint({"state_dict": {"w": torch.zeros(10)}}, path)
old = open(path, "rb").read()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
weights = {"state_dict": {"w": torch.ones(100_000)}}
try:
    save_checkpoint(weights, path)
    message = None
except OSError as error:
    message = str(error)
intact, names = open(path, "rb").read() == old, os.listdir(os.path.dirname(path))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
save_checkpoint(weights, path)
print(json.dumps([message, intact, names, os.path.getsize(path)]))
"""


def test_a_full_disk_leaves_the_old_file_and_a_retry_succeeds(tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "last.ckpt"
    message, intact, names, size = run_python(FULL_DISK, path)
    assert str(path) in message and "File too large" in message
    assert intact and names == ["last.ckpt"] and size > 400_000


KILLED_SAVES = """
import json, os, random, signal, sys, time, torch
from rqvae.storage.checkpoint import load_checkpoint, save_checkpoint
from rqvae.storage.files import remove_stale_temporaries
torch.set_num_threads(1)            # a forked child cannot use its parent's threads
path, kills = sys.argv[1], int(sys.argv[2])
folder, seen, random = os.path.dirname(path), [], random.Random(0)
save_checkpoint({"state_dict": {"w": torch.zeros(300_000)}}, path)
stale = 0
for attempt in range(kills):
    before = os.stat(path).st_mtime_ns
    child = os.fork()
    if child == 0:
        value = 0
        while True:
            value += 1
            save_checkpoint({"state_dict": {"w": torch.full((300_000,), float(value))}}, path)
    deadline = time.monotonic() + 20
    while os.stat(path).st_mtime_ns == before and time.monotonic() < deadline:      # until it has saved once
        time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    weight = load_checkpoint(path)["state_dict"]["w"]
    assert weight.shape == (300_000,) and (weight == weight[0]).all()
    seen.append(float(weight[0]))
    stale += len(os.listdir(folder)) - 1
    remove_stale_temporaries(folder)
    assert os.listdir(folder) == [os.path.basename(path)]
print(json.dumps([seen, stale]))
"""


def kill_saves(path, kills):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    seen, stale = run_python(KILLED_SAVES, path, kills)
    assert len(seen) == kills and min(seen) >= 1
    return stale


def test_a_save_killed_at_a_random_moment_leaves_a_whole_file(tmp_path):
    kill_saves(tmp_path / "last.ckpt", 12)


@pytest.mark.campaign
def test_campaign_of_kills(tmp_path):
    assert kill_saves(tmp_path / "last.ckpt", 60) > 0       # some were hit while they wrote


# ---------------------------------------------------------------------------------- architectures

def test_a_mismatch_is_explained_field_by_field_with_the_first_three_keys():
    text = explain_mismatch(
        {"hidden_dim": 512, "num_quantizers": 1, "lr": 0.1},
        {"hidden_dim": [8, 4], "lr": 0.1, "old": "x"},
        missing=["a", "b", "c", "d"], unexpected=["e"],
        mismatched=[("w", torch.Size([2, 3]), (4, 3))])
    assert text == (
        "hidden_dim is [8, 4] in the file, 512 in the model; "
        "num_quantizers is not set in the file, 1 in the model; "
        "old is 'x' in the file, not set in the model; "
        "4 weights missing (a, b, c, ...); 1 weight unexpected (e); "
        "1 weight of another shape (w: (2, 3) in the file, (4, 3) in the model)")
    assert explain_mismatch({"a": 1}, {"a": 1}) == ""


# ---------------------------------------------------------------------------------- live Lightning

@pytest.fixture
def lightning():
    pytest.importorskip("pytorch_lightning")
    import lightning_reference
    return lightning_reference


class Run:
    """The documented training as a plain loop in Lightning's order; saves by build_checkpoint."""

    def __init__(self, lightning, shuffled):
        train, val = lightning.clustered_items(40, 20)
        self.train = lightning.loader(train, 8, shuffle_seed=0 if shuffled else None)
        self.val = lightning.loader(val, 8)
        torch.manual_seed(3)
        self.model = lightning.RqVae(12, 8, 4, 16, learning_rate=0.01)
        configured = self.model.configure_optimizers()
        self.optimizer = configured["optimizer"]
        self.scheduler = configured["lr_scheduler"]["scheduler"]
        self.steps = 0

    def epochs(self, count):
        for _ in range(count):
            self.batches(len(self.train))
            with torch.no_grad():
                losses = [(self.model.losses(batch)[0], len(batch["features"]))
                          for batch in self.val]
            self.scheduler.step(sum(loss * size for loss, size in losses)
                                / sum(size for _, size in losses))
        return self

    def batches(self, count):
        for _, batch in zip(range(count),
                            self.train):      # as Lightning: asks for no batch beyond the last
            self.optimizer.zero_grad()
            self.model.losses(batch)[0].backward()
            self.optimizer.step()
            self.steps += 1
        return self

    def save(self, path, epoch, progress):
        save_checkpoint(build_checkpoint(
            epoch=epoch, global_step=self.steps, state_dict=self.model.state_dict(),
            hyper_parameters=dict(self.model.hparams),
            optimizer_states=[self.optimizer.state_dict()],
            lr_schedulers=[self.scheduler.state_dict()], progress=progress, extra={"seed": 0}),
            path)
        return path


def states(trainer):
    """What training has made: weights, moments, scheduler and every loop counter."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers",
                                             "loops")}


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("done", [3, 7])
def test_lightning_continues_our_file_bit_equal_to_a_straight_run(
        tmp_path, lightning, shuffled, done):
    """The rate falls at the end of the seventh epoch, which Lightning's own file would lose."""
    ours = Run(lightning, shuffled)
    straight = Run(lightning, shuffled)
    _, trainer, history = lightning.run_lightning(straight.model, straight.train, straight.val, 12)
    assert [epoch["lr"] for epoch in history] == [0.01] * 7 + [0.005] * 5
    ours.epochs(done)
    path = ours.save(tmp_path / "ours.ckpt", done - 1,
                     Progress(epochs_done=done, batches_in_epoch=5, val_batches=3))
    fresh = lightning.RqVae(12, 8, 4, 16, learning_rate=0.01)
    _, resumed, rest = lightning.run_lightning(fresh, ours.train, ours.val, 12, ckpt_path=path)
    assert rest == history[done:] and [epoch["epoch"] for epoch in rest] == list(range(done, 12))
    assert equal(states(resumed), states(trainer))


def test_lightning_continues_a_file_saved_within_an_epoch_at_that_batch(tmp_path, lightning):
    """It keeps no data order, so only the counts can be right: 6 x 5 + 2 of 9 x 5 batches."""
    run = Run(lightning, shuffled=False).epochs(6).batches(2)
    path = run.save(tmp_path / "mid.ckpt", 6, Progress(epochs_done=6, batches_in_epoch=2,
                                                       epoch_ended=False,
                                                       is_last_batch=False, val_batches=3))
    seen = []

    class Watch(lightning.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((trainer.current_epoch, batch_idx, trainer.global_step))

    _, trainer, history = lightning.run_lightning(run.model, run.train, run.val, 9, ckpt_path=path,
                                                  callbacks=[Watch()])
    assert seen[:4] == [(6, 2, 33), (6, 3, 34), (6, 4, 35), (7, 0, 36)] and len(seen) == 13
    assert (trainer.current_epoch, trainer.global_step) == (9, 45)
    assert all("val_loss" in row for row in history)


@pytest.mark.parametrize("steps, progress", [
    (0, Progress(epochs_done=0, batches_in_epoch=0, epoch_ended=False, is_last_batch=False)),
    (5, Progress(epochs_done=0, batches_in_epoch=5, epoch_ended=False)),
], ids=["no batch", "before validation"])
def test_lightning_continues_files_saved_at_the_rims_of_an_epoch(
        tmp_path, lightning, steps, progress):
    run = Run(lightning, shuffled=False).batches(steps)
    path = run.save(tmp_path / "rim.ckpt", 0, progress)
    _, trainer, _ = lightning.run_lightning(run.model, run.train, run.val, 2, ckpt_path=path)
    assert (trainer.current_epoch, trainer.global_step) == (2, 10)


def test_the_documented_module_loads_our_file(tmp_path, lightning):
    run = Run(lightning, shuffled=False).epochs(1)
    path = run.save(tmp_path / "ours.ckpt", 0, Progress(epochs_done=1, batches_in_epoch=5,
                                                        val_batches=3))
    loaded = lightning.RqVae.load_from_checkpoint(path)
    assert dict(loaded.hparams) == dict(run.model.hparams) and loaded.hparams.latent_dim == 4
    features, = lightning.clustered_items(10, seed=2)
    assert equal(loaded(features), run.model(features))


def test_every_file_that_lightning_writes_is_read(tmp_path, lightning):
    run = Run(lightning, shuffled=True)
    _, trainer, _ = lightning.run_lightning(run.model, run.train, run.val, 2, dirpath=tmp_path)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert sorted(os.listdir(tmp_path)) == ["end.ckpt", "epoch=0.ckpt", "epoch=1.ckpt",
                                            "weights.ckpt"]
    for name in os.listdir(tmp_path):
        assert equal(load_checkpoint(tmp_path / name),
                     torch.load(tmp_path / name, weights_only=True))
    found = load_checkpoint(tmp_path / "epoch=1.ckpt")
    assert list(found["state_dict"]) == STATE_KEYS
    assert found["hyper_parameters"] == dict(run.model.hparams)
    assert found["epoch"] == 1 and epochs_done(found) == 2
    ended = load_checkpoint(tmp_path / "end.ckpt")
    assert ended["epoch"] == 2 and epochs_done(ended) == 2
    with pytest.raises(CheckpointError, match="weights.ckpt holds weights but no optimizer state"):
        require_training_state(load_checkpoint(tmp_path / "weights.ckpt"), "weights.ckpt")


def test_our_loop_counters_are_those_of_live_lightning(tmp_path, lightning):
    """After the plateau step of the second epoch, whose end `Trainer` has meanwhile counted."""
    run = Run(lightning, shuffled=False)
    _, trainer, _ = lightning.run_lightning(run.model, run.train, run.val, 2)
    theirs = states(trainer)["loops"]
    for which in ("total", "current"):
        theirs["fit_loop"]["epoch_progress"][which]["completed"] -= 1
    assert small_checkpoint()["loops"] == theirs
