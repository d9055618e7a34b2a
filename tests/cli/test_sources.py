"""What a command names becomes items: each source, its description, and what does not go together."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY, clustered
from rqvae import RqVae, load_semantic_ids
from rqvae.items import texts
from rqvae.items.blending import BlendedTable
from rqvae.cli.sources import open_interactions, open_items
from rqvae.items.texts import DEFAULT_ENCODER
from rqvae.storage.checkpoint import load_checkpoint


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with texts and a P5 split, and an encoder that counts letters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def encode(written, model_name=DEFAULT_ENCODER, **options):
        calls.append(model_name)
        return torch.tensor([[float(text.lower().count(letter)) for letter in "abcdefgh"] for text in written])

    monkeypatch.setattr(texts, "encode_texts", encode)
    names = [f"Cabbage {'egg ' * (n % 5)}bad {'h' * n}" for n in range(60)]
    Path("items.csv").write_text("sku,title\n" + "".join(f"s{n},{name}\n" for n, name in enumerate(names)))
    raw = Path("amazon/raw/beauty")
    raw.mkdir(parents=True)
    (raw / "datamaps.json").write_text(json.dumps({"item2id": {f"B{n:03d}": str(n + 1) for n in range(60)}}))
    with gzip.open(raw / "meta.json.gz", "wt") as file:
        for n, name in enumerate(names[:-1]):            # the last has none
            file.write(repr({"asin": f"B{n:03d}", "title": name, "brand": "O'Fab"}) + "\n")
    (raw / "sequential_data.txt").write_text("1 1 2 3\n")
    return calls


def test_texts_are_encoded_once_and_carry_ids_and_names(place):
    for _ in range(2):
        items = open_items(texts="items.csv", text_columns=["title"], id_column="sku", encoder="letters")
    assert place == ["letters"]                          # the second time they were kept
    assert items.description == "60 items of 8 features from items.csv, encoded by letters"
    assert items.dataset.table.item_ids[3] == "s3" and items.dataset.names[2].startswith("Cabbage egg egg")


@pytest.mark.filterwarnings("ignore:.*no metadata")
def test_train_and_infer_run_on_texts_and_on_p5_with_nothing_said_twice(place, capsys):
    sources = (["--texts", "items.csv", "--text-columns", "title", "--id-column", "sku"], ["--p5", "amazon", "--split", "beauty"])
    for number, source in enumerate(sources):
        assert train.main([*source, "--epochs", "1", "--checkpoint-dir", f"run{number}", *TINY]) == 0
        assert infer.main(["--ckpt", f"run{number}/best.ckpt", "--output", f"ids{number}.json"]) == 0
    assert list(json.loads(Path("ids0.json").read_text()))[5] == "s5"
    assert list(json.loads(Path("ids1.json").read_text()))[59] == "B059"
    assert "60 items of 8 features from the split beauty of amazon" in capsys.readouterr().out
    assert len(place) == 2 and list(Path("amazon/processed").glob("*.npy"))


@pytest.mark.filterwarnings("ignore:.*no metadata")
def test_items_of_p5_know_the_training_part_of_its_sequences(place):
    Path("amazon/raw/beauty/sequential_data.txt").write_text("1 1 2 3 4\n2 5 1 9 9\n")
    assert train.main(["--p5", "amazon", "--epochs", "1", *TINY]) == 0
    assert infer.main(["--unique", "none", "--output", "ids.npy"]) == 0
    assert infer.main(["--p5", "amazon", "--unique", "none", "--output", "again.npy"]) == 0
    table = BlendedTable(open_items(p5="amazon").dataset.table, open_interactions(60, None, p5="amazon"))
    codes = RqVae.load_from_checkpoint("checkpoints/best.ckpt").generate_semantic_ids(table.rows(slice(None)))
    assert np.array_equal(np.load("ids.npy"), codes) and np.array_equal(np.load("again.npy"), codes)
    own = open_items(p5="amazon").dataset.table.rows(slice(None))
    assert torch.nonzero((table.rows(slice(None)) != own).any(dim=1))[:, 0].tolist() == [0, 1, 4]


@pytest.mark.filterwarnings("ignore:.*no metadata")
def test_p5_brings_the_training_part_of_its_sequences_where_it_has_some(place):
    sequences = Path("amazon/raw/beauty/sequential_data.txt")
    found = open_interactions(60, None, p5="amazon")
    assert found.items.tolist() == [0] and "1 user took 1 of 60 items 1 time, in the training part" in found.words
    sequences.write_text("")
    assert open_interactions(60, None, p5="amazon") is None
    sequences.unlink()
    assert open_interactions(60, None, p5="amazon") is None and open_interactions(60, None) is None


@pytest.mark.filterwarnings("ignore:.*no metadata")
def test_the_text_style_of_the_run_is_taken_and_another_one_refused(place, capsys):
    p5 = ["--p5", "amazon", "--text-style", "genrec"]
    assert train.main([*p5, "--epochs", "1", *TINY]) == 0
    assert len(place) == 1 and load_checkpoint("checkpoints/best.ckpt")["rqvae"]["notes"]["text_style"] == "genrec"
    assert infer.main(["--ckpt", "--p5", "amazon", "--output", "a.json"]) == 0
    assert len(place) == 1                                                      # the texts are those that are kept
    capsys.readouterr()
    assert infer.main(["--ckpt", "--p5", "amazon", "--text-style", "plain", "--output", "b.json"]) == 2
    assert "--text-style is plain, but checkpoints/best.ckpt was trained with genrec" in capsys.readouterr().err
    assert infer.main(["--ckpt", "--p5", "amazon", "--text-style", "poem", "--output", "b.json"]) == 2
    assert "--text-style" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*no metadata")
def test_p5_takes_embeddings_made_elsewhere(place):
    np.save("made.npy", np.arange(240.0, dtype=np.float32).reshape(60, 4))
    items = open_items(p5="amazon", data="made.npy")
    assert items.dataset.table.shape == (60, 4) and place == []


@pytest.mark.parametrize("options, words", [
    ({"texts": "items.csv", "data": "x.npy"}, "--data does not go with --texts"),
    ({"p5": "amazon", "texts": "items.csv"}, "does not go with"),
    ({"key": "a"}, "--key needs --data"),
    ({"split": "toys"}, "--split needs --p5"),
    ({"text_style": "genrec"}, "--text-style needs --p5"),
    ({"encoder": "x", "data": "x.npy"}, "--encoder needs --texts or --p5"),
])
def test_options_of_different_sources_are_refused(place, options, words):
    with pytest.raises(ValueError, match=words):
        open_items(**options)


def test_interactions_are_opened_by_the_items_ids_and_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(60).numpy())
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in range(60)))
    Path("taken.csv").write_text("who,item\n" + "".join(f"{row % 7},item-{row}\n" for row in range(60)))
    named = ["--data", "items.npy", "--item-ids", "ids.txt", "--epochs", "1", *TINY]
    taken = ["--interactions", "taken.csv", "--user-column", "who"]
    assert train.main([*named, *taken]) == 0
    assert "7 users took 60 of 60 items 60 times, in taken.csv, named by item ID" in capsys.readouterr().out
    notes = load_checkpoint("checkpoints/best.ckpt")["rqvae"]["notes"]
    assert notes["interactions"] == "taken.csv" and notes["user_column"] == "who"
    for argv, words in (([*named, *taken[2:]], "--user-column needs --interactions"),
                        ([*named, *taken, "--preset", "documented"], "--interactions does not go with --preset documented"),
                        ([*named, "--interactions", "taken.jsn"], "taken.jsn does not exist")):
        assert train.main([*argv, "--overwrite"]) == 2
        assert words in capsys.readouterr().err


def test_infer_takes_the_columns_of_the_run_and_refuses_other_vectors(place, capsys):
    train.main(["--texts", "items.csv", "--text-columns", "title", "--id-column", "sku", "--epochs", "1", *TINY])
    Path("new.csv").write_text("sku,title,brand\n" + "".join(f"n{n},bad egg {n},x\n" for n in range(9)))
    new = ["--texts", "new.csv", "--id-column", "sku"]
    assert infer.main([*new, "--output", "new.json"]) == 0
    assert place[-1] == DEFAULT_ENCODER and list(json.loads(Path("new.json").read_text()))[0] == "n0"
    capsys.readouterr()
    for wrong, words in ((["--text-columns", "brand"], "--text-columns is brand, but checkpoints/best.ckpt was trained with "
                                                       "title"),
                         (["--encoder", "other"], f"--encoder is other, but checkpoints/best.ckpt was trained with "
                                                  f"{DEFAULT_ENCODER}")):
        assert infer.main([*new, *wrong, "--output", "x.json"]) == 2
        assert words in capsys.readouterr().err and not Path("x.json").exists()
    assert infer.main(["--p5", "amazon", "--output", "x.json"]) == 2
    assert "was trained on the texts of --texts: they are put together in another way" in capsys.readouterr().err


def test_an_encoder_that_a_checkpoint_names_is_asked_for_and_not_obeyed(place, capsys):
    train.main(["--texts", "items.csv", "--text-columns", "title", "--encoder", "mine", "--epochs", "1", *TINY])
    Path("new.csv").write_text("title\n" + "".join(f"bad egg {n}\n" for n in range(9)))
    capsys.readouterr()
    assert infer.main(["--texts", "new.csv", "--output", "new.json"]) == 2
    assert "trained on features of the encoder mine; " in capsys.readouterr().err
    assert infer.main(["--texts", "new.csv", "--encoder", "sentence-transformers/mine", "--output", "new.json"]) == 0


def test_features_of_another_kind_are_called_that(place, capsys):
    rows = torch.nn.functional.normalize(torch.randn(300, 8)) + torch.tensor([3.0] + [0.0] * 7)
    np.save("items.npy", rows.numpy())
    np.save("other.npy", -rows.numpy())
    train.main(["--data", "items.npy", "--epochs", "3", *TINY])
    capsys.readouterr()
    assert infer.main(["--output", "a.json"]) == 0 and "other features" not in capsys.readouterr().out
    assert infer.main(["--data", "other.npy", "--output", "b.json"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: these are other features than the model's" in out and "train again" not in out


def test_the_key_of_the_run_is_taken_and_another_one_of_its_file_refused(place, capsys):
    rows = torch.randn(300, 8)
    for name in ("items.npz", "more.npz"):
        np.savez(name, text=rows.numpy(), image=-rows.numpy())
    train.main(["--data", "items.npz", "--key", "text", "--epochs", "1", *TINY])
    assert infer.main(["--output", "a.npy"]) == infer.main(["--data", "more.npz", "--output", "b.npy"]) == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    capsys.readouterr()
    assert infer.main(["--data", "items.npz", "--key", "image", "--output", "c.npy"]) == 2
    assert "--key is image, but checkpoints/best.ckpt was trained with text" in capsys.readouterr().err


def test_what_a_run_had_together_is_found_together(place, monkeypatch, capsys):
    """A file here of the name of one of them was taken for it, and the others were blamed."""
    np.save("items.npy", clustered(60).numpy())
    Path("ids.txt").write_text("".join(f"B{row}\n" for row in range(60)))
    assert train.main(["--data", "items.npy", "--item-ids", "ids.txt", "--epochs", "1", *TINY]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    Path("ids.txt").write_text("".join(f"C{row}\n" for row in range(60)))
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "ids.json"]) == 0
    assert load_semantic_ids("ids.json").item_ids[:2] == ["B0", "B1"]
    np.save("items.npy", np.load("../items.npy"))           # now both are here, and the IDs are of others
    capsys.readouterr()
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "x.json"]) == 2
    assert "items.npy does not hold the item IDs any more" in capsys.readouterr().err
    Path("ids.txt").unlink(), Path("../items.npy").unlink()
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "x.json"]) == 2
    assert "ids.txt, which ../checkpoints/best.ckpt was trained on, is not here" in capsys.readouterr().err


def test_a_run_s_items_are_found_from_another_folder(place, monkeypatch, capsys):
    np.save("items.npy", clustered(60).numpy())
    assert train.main(["--data", "items.npy", "--epochs", "1", *TINY]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "ids.json"]) == 0
    assert train.main(["--resume", "../checkpoints/last.ckpt", "--epochs", "2"]) == 0
    Path("../items.npy").rename("../moved.npy")
    capsys.readouterr()
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "x.json"]) == 2
    assert "items.npy, which ../checkpoints/best.ckpt was trained on, is not here" in capsys.readouterr().err
    assert train.main(["--resume", "../checkpoints/last.ckpt", "--epochs", "3", "--data", "../moved.npy"]) == 0
