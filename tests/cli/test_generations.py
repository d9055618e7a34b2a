"""Generations of IDs: manifests, what is said of edited, swapped, cut off and half-written ones, and --verify."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import infer
import train
from samples import clustered
from rqvae import load_semantic_ids
from rqvae.cli.recorded import pieces_of

SIZES = ["--num-embeddings", "16", "--hidden-dim", "16", "--latent-dim", "8", "--batch-size", "32", "--epochs", "2"]


@pytest.fixture
def published(tmp_path, monkeypatch, capsys):
    """Inside an empty folder: a model of 200 items, their IDs in pub.json and pub.npy, and 30 new items."""
    monkeypatch.chdir(tmp_path)
    rows = clustered(230).numpy()
    np.save("old.npy", rows[:200])
    np.save("old_ids.npy", np.arange(1000, 1200))
    np.save("new.npy", rows[200:])
    np.save("new_ids.npy", np.arange(1200, 1230))
    assert train.main(["--data", "old.npy", "--item-ids", "old_ids.npy", *SIZES]) == 0
    for name in ("pub.json", "pub.npy"):
        assert infer.main(["--unique", "--output", name]) == 0
    capsys.readouterr()


APPEND = ["--data", "new.npy", "--item-ids", "new_ids.npy", "--output", "all.jsonl", "--append-to"]


def said(capsys, argv, code=2):
    assert infer.main(argv) == code
    out, err = capsys.readouterr()
    return err if code == 2 else out


def test_a_generation_says_what_made_it_and_what_it_goes_on_from(published):
    first = json.loads(Path("pub.json.manifest").read_text())
    assert infer.main([*APPEND, "pub.json"]) == 0
    second = json.loads(Path("all.jsonl.manifest").read_text())
    assert (first["items"], first["parent"], first["unique"], first["item_ids"]) == (200, None, "optimal", "integer")
    assert (second["items"], second["published before"], second["added"], second["changed"]) == (230, 200, 30, 0)
    assert second["parent"] == first["generation"] == json.loads(Path("pub.npy.manifest").read_text())["generation"]
    assert set(json.loads(Path("pub.npy.manifest").read_text())["files"]) == {"pub.npy", "pub.item2id"}
    assert load_semantic_ids("all.jsonl").item_ids == list(range(1000, 1230))       # text as keys of JSON, integers again


def test_edited_swapped_cut_off_and_half_written_generations_are_refused_by_name(published, capsys):
    text = Path("pub.json").read_text()
    Path("pub.json").write_text(text.replace("<a_1>", "<a_2>", 1))
    assert "pub.json is not the file that was written with pub.json.manifest: it was edited" in said(capsys, [*APPEND, "pub.json"])
    Path("pub.json").write_text(text[:-40])
    assert "pub.json is cut off: it has" in said(capsys, [*APPEND, "pub.json"])
    Path("pub.json").write_text(text)
    order = np.random.default_rng(0).permutation(200)
    names = Path("pub.item2id").read_text().splitlines()
    Path("pub.item2id").write_text("".join(f"{names[row].split()[0]}\t{place}\n" for place, row in enumerate(order)))
    assert "pub.item2id is not the file that was written with pub.npy.manifest" in said(capsys, [*APPEND, "pub.npy"])
    Path("pub.item2id").unlink()
    assert "pub.item2id is missing, which pub.npy.manifest names" in said(capsys, [*APPEND, "pub.npy"])
    shutil.copy("pub.json.manifest", "kept.manifest")
    assert infer.main(["--unique", "none", "--output", "pub.json", "--overwrite"]) == 0
    shutil.copy("kept.manifest", "pub.json.manifest")           # new IDs that never got their manifest
    err = said(capsys, [*APPEND, "pub.json"])
    assert "is not the file that was written with pub.json.manifest" in err or "pub.json is cut off" in err
    Path("pub.json.manifest").write_text("{\"manifest\": 1")
    assert "pub.json.manifest is cut off or damaged" in said(capsys, [*APPEND, "pub.json"])
    assert not Path("all.jsonl").exists()


def test_ids_without_a_manifest_still_go_on(published):
    Path("pub.json.manifest").unlink()
    assert infer.main([*APPEND, "pub.json"]) == 0
    assert json.loads(Path("all.jsonl.manifest").read_text())["published before"] == 200


def test_a_foreign_model_is_refused_and_one_that_went_on_is_not(published, capsys):
    assert train.main(["--data", "old.npy", "--seed", "7", "--checkpoint-dir", "other", *SIZES]) == 0
    capsys.readouterr()
    assert "pub.json was made by other weights" in said(capsys, ["--ckpt", "other/best.ckpt", *APPEND, "pub.json"])
    keep = ["--from", "other/best.ckpt", "--keep", "pub.json", "--data", "old.npy", "--item-ids", "old_ids.npy"]
    assert train.main([*keep, "--checkpoint-dir", "more"]) == 2
    assert "pub.json was made by other weights" in capsys.readouterr().err
    keep[1] = "checkpoints/best.ckpt"
    assert train.main([*keep, "--checkpoint-dir", "more", "--epochs", "1"]) == 0
    assert infer.main(["--ckpt", "more/best.ckpt", *APPEND, "pub.json"]) == 0


def test_verifying_derives_a_generation_again(published, capsys):
    assert infer.main([*APPEND, "pub.json"]) == 0
    assert infer.main(["--unique", "nearest", "--output", "as_before.json"]) == 0
    capsys.readouterr()
    for name, count in (("pub.json", 200), ("pub.npy", 200), ("all.jsonl", 30), ("as_before.json", 200)):
        assert f"{count} of {count} IDs are what checkpoints/best.ckpt" in said(capsys, ["--verify", name], 0)
        assert "20 of 20 IDs are what" in said(capsys, ["--verify", name, "--sample", "20"], 0)
    manifest, text = Path("pub.json.manifest").read_text(), Path("pub.json").read_text()
    codes = load_semantic_ids("pub.json").codes.copy()
    codes[[3, 4]] = codes[[4, 3]]
    from rqvae.ids.files import save_semantic_ids
    from rqvae.ids.generations import file_checksum
    save_semantic_ids(codes, "pub.json", item_ids=list(range(1000, 1200)), overwrite=True)
    Path("pub.json.manifest").write_text(manifest.replace(
        json.loads(manifest)["files"]["pub.json"]["sha256"], file_checksum("pub.json")))
    out = said(capsys, ["--verify", "pub.json"], 1)
    assert "198 of 200 IDs are what" in out and "1003: " in out and "1004: " in out
    Path("pub.json.manifest").write_text(manifest)
    assert "it was edited" in said(capsys, ["--verify", "pub.json"]) or "cut off" in text
    Path("pub.json").write_text(text)
    np.save("old.npy", np.load("old.npy")[::-1].copy())
    assert "old.npy does not hold the features that pub.json was made from" in said(capsys, ["--verify", "pub.json"])
    Path("pub.json.manifest").unlink()
    assert "pub.json has no pub.json.manifest, so it does not say what made it" in said(capsys, ["--verify", "pub.json"])


def test_two_files_of_ids_are_compared(published, capsys):
    assert infer.main([*APPEND, "pub.json"]) == 0
    out = said(capsys, ["--ids", "all.jsonl", "--against", "pub.json", "--report"], 0)
    assert "all.jsonl against pub.json: 200 items in both, 30 new, 0 gone" in out
    assert any(line.split()[:2] == ["whole", "ID"] and "100" in line for line in out.split("against")[-1].splitlines())
    assert "--against needs --report" in said(capsys, ["--against", "pub.json"])
    said(capsys, ["--ids", "all.jsonl", "--against", "pub.json", "--report", "page.html"], 0)
    page = Path("page.html").read_text().replace("\u00a0", " ")
    assert "What is left of the IDs before?" in page and "200 / 30 / 0" in page and "100.00 % / 100.00 %" in page


def test_a_report_on_new_items_counts_them_among_the_published(published, capsys):
    out = said(capsys, ["--data", "new.npy", "--item-ids", "new_ids.npy", "--report", "page.html", "--against", "pub.json"], 0)
    for text in (out, Path("page.html").read_text().replace("\u00a0", " ")):
        assert "Do the new items find their place among the published?" in text and "on the least used first codes" in text
        assert "under a first code of published items" in text and "before they are told apart" in text
    assert "Do the new items" not in said(capsys, ["--report", "--against", "pub.json"], 0)        # none is new


def test_a_report_on_new_items_says_when_to_retrain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = clustered(2000).numpy()
    part = np.random.default_rng(0).permutation(2000) < 200                 # a random tenth of one catalogue
    np.save("old.npy", rows[~part])
    np.save("tenth.npy", rows[part])
    np.save("other.npy", clustered(200, seed=9).numpy())                    # around other centres
    assert train.main(["--data", "old.npy", *SIZES, "--val-fraction", "0.2"]) == 0
    capsys.readouterr()
    assert "nothing asks for a retraining" in said(capsys, ["--data", "tenth.npy", "--report"], 0)
    out = said(capsys, ["--data", "other.npy", "--report"], 0)
    assert "WARNING: the error of new items is" in out and "a retraining pays" in out
    assert "retraining" not in said(capsys, ["--report"], 0)
    alike = np.sort(((rows - rows[0]) ** 2).sum(1).argsort()[:200])
    np.save("alike.npy", rows[alike])                                       # few codes of a model that is sound
    for data, warned in (("alike.npy", False), ("other.npy", True)):
        out = said(capsys, ["--data", data, "--output", f"{data}.json"], 0)
        assert "collapsed" not in out and ("a retraining pays" in out) == warned, out


def test_generations_of_versions_that_noted_no_pieces_still_know_their_own_features(published, capsys):
    """1.2 noted one checksum, of the items that were added; of a second generation it was passed over."""
    assert infer.main([*APPEND, "pub.json"]) == 0
    manifest = json.loads(Path("all.jsonl.manifest").read_text())
    own = manifest["features"].pop("of items")[1:]
    assert pieces_of(manifest) == own == [[200, 230, manifest["features"]["checksum"]]]
    assert pieces_of({**manifest, "rows": [*range(20)], "items": 220}) == []       # of a table that has others, too


def test_pieces_are_compared_where_they_stand(published, capsys):
    """A generation that does not know what those before it were made of: its first piece is none of theirs."""
    assert train.main(["--data", "old.npy", "--checkpoint-dir", "rows", *SIZES]) == 0
    ckpt = ["--ckpt", "rows/best.ckpt"]
    assert infer.main([*ckpt, "--output", "rows.json"]) == 0
    assert infer.main([*ckpt, "--append-to", "rows.json", "--data", "new.npy", "--output", "more.json"]) == 0
    whole = Path("more.json.manifest").read_text()
    for change, told in ((lambda pieces: pieces, False), (lambda pieces: pieces[1:], False),
                         (lambda pieces: [[0, 200, "3:" + "0" * 32], *pieces[1:]], True)):
        manifest = json.loads(whole)
        manifest["features"]["of items"] = change(manifest["features"]["of items"])
        Path("more.json.manifest").write_text(json.dumps(manifest))
        capsys.readouterr()
        assert infer.main(["--ids", "more.json", "--against", "rows.json", "--report"]) == 0
        assert ("were made from other features" in capsys.readouterr().err) == told
