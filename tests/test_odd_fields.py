"""Every field of a checkpoint with values of every odd kind, given to each command that reads one: the right result, or one
sentence that names the file. A part of them in every run, all of them in the campaign.
"""

import copy
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from test_faults import origin, place               # noqa: F401
from rqvae import RqVae
from rqvae.storage.torch_files import read_torch_file

VALUES = (None, "", -1, 10 ** 30, float("nan"), [], {}, True, torch.ones(2), "x" * 1000, [[[[1]]]], {"a": {"b": 1}}, [None], 0.5, ["a"])
COMMANDS = {            # of the checkpoint odd.ckpt
    "load": None,
    "infer": (infer, ["--ckpt", "odd.ckpt", "--output", "o.json", "--overwrite"]),
    "report": (infer, ["--ckpt", "odd.ckpt", "--report", "r.html", "--overwrite"]),
    "resume": (train, ["--resume", "odd.ckpt", "--epochs", "3"]),
    "keep": (train, ["--from", "odd.ckpt", "--keep", "ids.json", "--data", "items.npy", "--epochs", "1", "--checkpoint-dir", "kept",
                     "--overwrite"]),
    "config": (train, ["--config", "odd.ckpt", "--epochs", "0", "--checkpoint-dir", "new", "--overwrite"]),
}
SEVERAL = ("held_out", "ancestors", "weights", "key", "texts", "p5", "interactions", "blended", "item_ids")


def fields(content) -> list:
    """The way to each field, down to what a line of history and a part of the optimizer hold."""
    within = [(), ("rqvae",), ("rqvae", "notes"), ("hyper_parameters",), ("rqvae", "history", 0), ("rqvae", "rng"), ("rqvae", "means"),
              ("rqvae", "assign"), ("optimizer_states", 0), ("optimizer_states", 0, "param_groups", 0), ("lr_schedulers", 0)]
    found = [("rqvae", "notes", name) for name in SEVERAL]
    for path in within:
        part = content
        for name in path:
            part = part[name] if isinstance(part, list) and part or isinstance(part, dict) and name in part else {}
        found += [(*path, name) for name in (part if isinstance(part, dict) else ())]
    return list(dict.fromkeys(found))


def odd(content, path, value):
    content = part = copy.deepcopy(content)
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return content


def outcome(command, capsys):
    """"" for the right result or one sentence that names the file, or what happened instead."""
    try:
        if COMMANDS[command] is None:
            RqVae.load_from_checkpoint("odd.ckpt")
            return ""
        script, argv = COMMANDS[command]
        code = script.main(argv)
    except ValueError as error:
        return "" if "odd.ckpt" in str(error) and "\n" not in str(error) else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 0 and not errors or code == 2 and len(errors) == 1 and "odd.ckpt" in errors[0] and "Traceback" not in said:
        return ""
    return f"{code}: {errors}"


def check(command, pairs, content, capsys):
    wrong = []
    for path, value in pairs:
        with open("odd.ckpt", "wb") as file:
            torch.save(odd(content, path, value), file)
        found = outcome(command, capsys)
        if found:
            wrong.append((".".join(map(str, path)), str(value)[:30], found[:300]))
    return wrong


def prepared(command):
    Path("best.ckpt").write_bytes(Path("checkpoints/best.ckpt").read_bytes())
    np.save("items.npy", np.load("items.npy"))
    if command == "keep":           # which needs two levels
        assert train.main(["--data", "items.npy", "--epochs", "1", "--num-embeddings", "8", "--num-quantizers", "2", "--hidden-dim",
                           "16", "--latent-dim", "8", "--batch-size", "64", "--checkpoint-dir", "two", "--quiet"]) == 0
        assert infer.main(["--ckpt", "two/best.ckpt", "--output", "ids.json", "--quiet"]) == 0
    return read_torch_file({"resume": "checkpoints/last.ckpt", "keep": "two/best.ckpt"}.get(command, "checkpoints/best.ckpt"))


@pytest.mark.parametrize("command, count", [("load", 60), ("infer", 20), ("report", 12), ("resume", 20), ("keep", 4), ("config", 12)])
def test_some_odd_fields_of_a_checkpoint_are_one_sentence_that_names_it(place, capsys, command, count):
    content = prepared(command)
    pairs = [(path, value) for path in fields(content) for value in VALUES]
    assert check(command, random.Random(command).sample(pairs, count), content, capsys) == []


KNOWN = {       # each went wrong once
    "report": [(("rqvae", "history", 0, "epoch"), None), (("rqvae", "history", 0, "epoch"), 10 ** 30), (("rqvae", "history", 0, "seconds"), []),
               (("rqvae", "history", 0, "perplexity"), -1), (("rqvae", "history", 0, "lr"), -1),
               (("rqvae", "history", 0, "perplexity"), [1.0]), (("rqvae", "history", 0, "codes_used"), [1] * 9)],
    "infer": [(("rqvae", "notes", "data"), []), (("rqvae", "notes", "data"), [None]), (("rqvae", "notes", "key"), ""),
              (("rqvae", "notes", "text_style"), 0.5), (("rqvae", "notes", "blended"), torch.ones(2))],
    "resume": [(("rqvae", "notes", "seed"), None), (("rqvae", "notes", "val_fraction"), 10 ** 30), (("rqvae", "assign", "prices"), 10 ** 30),
               (("hyper_parameters", "standardize"), torch.ones(2)), (("hyper_parameters", "commitment_cost"), 10 ** 30)],
    "keep": [(("hyper_parameters", name), value) for name in ("latent_norm", "parts", "activation")
             for value in VALUES] + [(("hyper_parameters", "learning_rate"), True),
                                     (("hyper_parameters", "rotation_trick"), torch.ones(2))],
    "config": [(("rqvae", "notes", "activation"), ""), (("rqvae", "notes", "data"), ["a"]), (("rqvae", "notes", "learning_rate"), -1)],
}


@pytest.mark.parametrize("command", KNOWN)
def test_odd_fields_that_went_wrong_once(place, capsys, command):
    content = prepared(command)
    assert check(command, [(path, value) for path, value in KNOWN[command] if path in fields(content)], content, capsys) == []


def test_a_configuration_of_odd_values_is_one_sentence_that_names_its_folder(tmp_path):
    RqVae(5, 6, 4, 8, num_quantizers=2).save_pretrained(tmp_path / "model", safe_serialization=False)
    path = tmp_path / "model" / "config.json"
    whole = json.loads(path.read_text())
    for name in whole:
        for value in VALUES:
            if not isinstance(value, torch.Tensor):
                path.write_text(json.dumps({**whole, name: value}))
                try:
                    RqVae.from_pretrained(tmp_path / "model")
                except ValueError as error:
                    assert "model" in str(error) and "\n" not in str(error) and len(str(error)) < 800, (name, value)


MANIFEST_COMMANDS = {           # of the manifest of ids.json, and of the config.json of a model folder
    "verify": (infer, ["--verify", "ids.json"]),
    "append": (infer, ["--append-to", "ids.json", "--data", "items.npy", "--output", "o.json", "--overwrite"]),
    "against": (infer, ["--ids", "ids.json", "--report", "--against", "ids.json"]),
    "held to": (train, ["--from", "two/best.ckpt", "--keep", "ids.json", "--data", "items.npy", "--epochs", "0", "--checkpoint-dir", "kept",
                        "--overwrite"]),
    "folder": (infer, ["--ckpt", "model", "--data", "items.npy", "--output", "o.json", "--overwrite"]),
}


def check_json(command, capsys, count=None):
    """(what was tried, what went wrong) of the fields of a file of JSON, and of the dicts in it."""
    prepared("keep")
    assert infer.main(["--ckpt", "two/best.ckpt", "--save-pretrained", "model", "--quiet"]) == 0
    path = Path("model/config.json" if command == "folder" else "ids.json.manifest")
    whole, (script, argv) = json.loads(path.read_text()), MANIFEST_COMMANDS[command]
    places = [(name,) for name in whole] + [(name, inner) for name, part in whole.items() if isinstance(part, dict) for inner in part]
    pairs = [(place, value) for place in places for value in VALUES if not isinstance(value, torch.Tensor)]
    pairs, wrong = random.Random(command).sample(pairs, min(count or len(pairs), len(pairs))), []
    for place, value in pairs:
        path.write_text(json.dumps(odd(whole, place, value)))
        capsys.readouterr()
        try:
            code = script.main(argv)
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        if not (code in (0, 1) and not errors or code == 2 and len(errors) == 1 and ("model" if command == "folder" else "ids.json") in errors[0]):
            wrong.append((place, str(value)[:30], code, errors))
    return len(pairs), wrong


@pytest.mark.parametrize("command", MANIFEST_COMMANDS)
def test_some_odd_fields_of_a_manifest_or_configuration_are_one_sentence(place, capsys, command):
    assert check_json(command, capsys, 8)[1] == []


@pytest.mark.campaign
@pytest.mark.parametrize("command", MANIFEST_COMMANDS)
def test_every_odd_field_of_a_manifest_or_configuration_is_one_sentence(place, capsys, command):
    began = time.process_time()
    tried, wrong = check_json(command, capsys)
    with capsys.disabled():
        print(f"\n{command}: {tried} odd fields, {len(wrong)} wrong, {time.process_time() - began:.0f} CPU s")
    assert wrong == []


@pytest.mark.campaign
@pytest.mark.parametrize("command", COMMANDS)
def test_every_odd_field_of_a_checkpoint_is_one_sentence_that_names_it(place, capsys, command):
    content, began = prepared(command), time.process_time()
    pairs = [(path, value) for path in fields(content) for value in VALUES]
    wrong = check(command, pairs, content, capsys)
    with capsys.disabled():
        print(f"\n{command}: {len(pairs)} odd fields, {len(wrong)} wrong, {time.process_time() - began:.0f} CPU s")
    assert wrong == []
