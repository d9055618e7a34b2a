"""The command line of infer.py: what it writes, what it shows, and how it refuses."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import clustered, TINY
from rqvae import RqVae, load_semantic_ids
from rqvae.items.tables import FeatureTable


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """Inside an empty folder: 200 items in items.npy and a checkpoint trained on them."""
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    assert train.main(["--data", "items.npy", "--epochs", "2", *TINY]) == 0
    capsys.readouterr()
    return RqVae.load_from_checkpoint("checkpoints/best.ckpt")


def refused(argv, capsys, code=2):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert infer.main(argv) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return lines[0]


def test_one_id_an_item_in_row_order_in_lc_rec_s_form(trained, capsys):
    assert infer.main(["--ckpt", "--unique", "none"]) == 0
    index = json.loads(Path("semantic_ids.json").read_text())
    codes = trained.generate_semantic_ids(clustered(200))
    assert list(index) == [str(row) for row in range(200)]
    assert index["17"] == [f"<{letter}_{code}>" for letter, code in zip("abc", codes[17].tolist())]
    out = capsys.readouterr().out
    for word in ("Encoding 200 items", "codes used", "perplexity", "collision rate", "items that share a prefix",
                 "wrote 200 semantic IDs to semantic_ids.json"):
        assert word in out


@pytest.mark.parametrize("suffix", [".json", ".npy", ".jsonl", ".csv"])
def test_every_output_form_holds_the_same_ids(trained, suffix):
    assert infer.main(["--ckpt", "--output", f"out/ids{suffix}", "--unique", "none"]) == 0
    expected = trained.generate_semantic_ids(clustered(200)).numpy()
    assert np.array_equal(load_semantic_ids(f"out/ids{suffix}").codes, expected)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_other_feature_files_are_read(trained, suffix):
    rows = clustered(60, seed=3)
    np.savez("new.npz", rows=rows.numpy())
    torch.save(rows, "new.pt")
    assert infer.main(["--ckpt", "--data", f"new{suffix}", "--output", "ids.npy", "--unique", "none"]) == 0
    assert np.array_equal(np.load("ids.npy"), trained.generate_semantic_ids(rows).numpy())


def test_the_ids_do_not_depend_on_the_batch_size(trained):
    for batch_size in ("1", "33", "4096"):
        infer.main(["--ckpt", "--output", f"{batch_size}.npy", "--batch-size", batch_size])
    first, *others = (np.load(f"{batch_size}.npy") for batch_size in ("1", "33", "4096"))
    assert all(np.array_equal(first, other) for other in others)


def test_item_ids_become_the_keys_and_the_names_that_are_shown(trained, capsys):
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in range(200)))
    assert infer.main(["--ckpt", "--item-ids", "ids.txt", "--output", "named.json"]) == 0
    assert list(json.loads(Path("named.json").read_text()))[3] == "item-3"
    assert "item-" in capsys.readouterr().out


def test_an_existing_output_is_refused_before_any_work_unless_overwritten(trained, capsys):
    Path("semantic_ids.json").write_text("precious")
    message = refused(["--ckpt"], capsys)
    assert "semantic_ids.json exists" in message and "--overwrite" in message
    assert infer.main(["--ckpt", "--overwrite"]) == 0
    assert len(json.loads(Path("semantic_ids.json").read_text())) == 200


def test_another_width_is_refused_before_any_output(trained, capsys):
    np.save("wide.npy", np.zeros((5, 20), dtype=np.float32))
    message = refused(["--ckpt", "--data", "wide.npy"], capsys)
    assert "the features have 20 columns, checkpoints/best.ckpt expects 12" in message
    assert not os.path.exists("semantic_ids.json")


@pytest.mark.parametrize("content, words", [
    (b"", "empty"),
    (b"<!DOCTYPE html><html>", "HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
])
def test_a_file_that_is_no_checkpoint_is_told_for_what_it_is(trained, capsys, content, words):
    Path("other.ckpt").write_bytes(content)
    message = refused(["--ckpt", "other.ckpt"], capsys)
    assert "other.ckpt" in message and words in message


def test_a_missing_checkpoint_is_answered_with_similar_names(trained, capsys):
    assert "best.ckpt" in refused(["--ckpt", "checkpoints/bets.ckpt"], capsys)


def test_a_row_that_is_not_a_number_is_refused(trained, capsys):
    rows = clustered(30).numpy()
    rows[11, 3] = np.inf
    np.save("bad.npy", rows)
    assert "11" in refused(["--ckpt", "--data", "bad.npy"], capsys)


@pytest.mark.parametrize("argv, words", [
    (["--ckpt", "--output", "ids.xls"], "--output is ids.xls; its suffix must be .json, .jsonl, .csv or .npy"),
    (["--ckpt", "--batch-size", "0"], "--batch-size is 0, must be 1 or more"),
    (["--ckpt", "--batchsize", "4"], "did you mean --batch-size?"),
    (["--ckpt", "--output", "."], "is a folder"),
])
def test_bad_options_are_one_sentence(trained, capsys, argv, words):
    assert words in refused(argv, capsys)


def test_weights_without_notes_need_the_data_named(trained, capsys):
    from rqvae.storage.checkpoint import build_checkpoint, save_checkpoint
    save_checkpoint(build_checkpoint(epoch=0, global_step=0, state_dict=trained.state_dict(),
                                     hyper_parameters=trained.hyper_parameters), "bare.ckpt")
    assert "does not say what it was trained on; name the items by --data" in refused(["--ckpt", "bare.ckpt"], capsys)
    assert infer.main(["--ckpt", "bare.ckpt", "--data", "items.npy"]) == 0


def test_a_feature_file_that_has_changed_since_the_training_is_refused(trained, capsys):
    rows = clustered(200).numpy()
    for other in (rows[::-1].copy(), rows[:150], np.concatenate([rows[:199], rows[:1]])):
        np.save("items.npy", other)
        assert "items.npy does not hold the features any more that checkpoints/best.ckpt was trained on" in refused(
            ["--ckpt"], capsys)
        assert infer.main(["--ckpt", "--data", "items.npy", "--output", "now.npy", "--overwrite"]) == 0
    np.save("items.npy", rows.astype(np.float64))           # the same numbers, stored otherwise
    assert infer.main(["--ckpt"]) == 0


def test_item_ids_that_have_changed_since_the_training_are_refused(trained, capsys):
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in range(200)))
    argv = ["--data", "items.npy", "--item-ids", "ids.txt", "--checkpoint-dir", "named", "--epochs", "1", *TINY]
    assert train.main(argv) == 0
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in reversed(range(200))))
    capsys.readouterr()
    assert "does not hold the item IDs any more that named/best.ckpt was trained on" in refused(
        ["--ckpt", "named/best.ckpt"], capsys)


def test_what_was_trained_on_is_found_from_another_folder_and_moves_with_it(trained, monkeypatch, tmp_path, capsys):
    assert infer.main(["--ckpt", "--output", "first.npy"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert infer.main(["--ckpt", "../checkpoints/best.ckpt", "--output", "second.npy"]) == 0
    (tmp_path / "moved").mkdir()
    (tmp_path / "checkpoints").rename(tmp_path / "moved" / "checkpoints")
    (tmp_path / "items.npy").rename(tmp_path / "moved" / "items.npy")
    assert infer.main(["--ckpt", "../moved/checkpoints/best.ckpt", "--output", "third.npy"]) == 0
    assert np.array_equal(np.load("second.npy"), np.load("third.npy"))
    assert np.array_equal(np.load("second.npy"), np.load("../first.npy"))


def test_an_input_that_is_not_there_is_said_before_an_output_that_is(trained, capsys):
    for name in ("semantic_ids.json", "r.html"):
        Path(name).write_text("kept")
    for argv, missing in ((["--ckpt", "none.ckpt"], "none.ckpt"), (["--ckpt", "--data", "none.npy"], "none.npy"),
                          (["--ckpt", "--data", "items.npy", "--item-ids", "none.txt"], "none.txt"),
                          (["--ckpt", "--names", "none.json"], "none.json"), (["--ckpt", "--data", "items.npy", "--append-to", "none.json"], "none.json"),
                          (["--ids", "none.json", "--report", "r.html"], "none.json")):
        said = refused(argv, capsys)
        assert missing in said and "exists;" not in said
    assert "semantic_ids.json exists; replace it by --overwrite" in refused(["--ckpt"], capsys)


def test_a_report_says_where_its_ids_are_others_than_train_judged(trained, capsys):
    for method, said in (("optimal", True), ("none", False), ("suffix", False)):
        assert infer.main(["--ckpt", "--unique", method, "--output", f"{method}.npy", "--report"]) == 0
        assert ("made unique (what train says is of the IDs before that)" in capsys.readouterr().out) == said


def test_unique_ids_are_written_and_told(trained, capsys):
    assert infer.main(["--ckpt", "--output", "default.npy"]) == 0
    assert infer.main(["--ckpt", "--output", "plain.npy", "--unique", "none"]) == 0
    said = capsys.readouterr().out
    assert said.count("made unique: collision rate") == 1
    for method, levels in (("optimal", 3), ("nearest", 3), ("suffix", 4)):
        capsys.readouterr()
        assert infer.main(["--ckpt", "--unique", method, "--output", f"{method}.npy"]) == 0
        unique = np.load(f"{method}.npy")
        assert unique.shape == (200, levels) and len(np.unique(unique, axis=0)) == 200
        assert "made unique: collision rate" in capsys.readouterr().out
    plain, optimal = np.load("plain.npy"), np.load("optimal.npy")
    assert np.array_equal(plain, trained.generate_semantic_ids(clustered(200)).numpy())
    assert np.array_equal(optimal, np.load("default.npy"))
    alone = [row for row in range(200) if (plain == plain[row]).all(axis=1).sum() == 1]
    assert (plain[alone] == optimal[alone]).all() and (np.load("suffix.npy")[:, :3] == plain).all()


def test_more_items_than_ids_are_refused_before_any_work(trained, capsys):
    np.save("many.npy", clustered(513).numpy())
    assert "513 items cannot all differ among 512 possible IDs" in refused(
        ["--ckpt", "--data", "many.npy", "--unique"], capsys)


def test_more_items_than_ids_get_a_number_more_where_nothing_was_said(trained, capsys):
    np.save("many.npy", clustered(513).numpy())
    assert infer.main(["--ckpt", "--data", "many.npy", "--output", "ids.npy"]) == 0
    err = capsys.readouterr().err
    assert "513 items cannot all differ among 512 possible IDs, so each ID gets one more number" in err
    assert len(np.unique(np.load("ids.npy"), axis=0)) == 513 and np.load("ids.npy").shape == (513, 4)


def test_formats_that_number_collisions_get_bare_codes_unless_a_method_is_named(trained):
    codes = trained.generate_semantic_ids(clustered(200)).numpy()
    assert infer.main(["--ckpt", "--format", "tiger", "grid", "npy", "--output", "mixed"]) == 0
    assert infer.main(["--ckpt", "--format", "tiger", "--output", "alone"]) == 0
    assert infer.main(["--ckpt", "--format", "tiger", "--output", "named", "--unique"]) == 0
    numbered = np.load("mixed/tiger.npy")
    assert np.array_equal(numbered[:, :3], codes) and numbered[:, 3].max() > 0
    assert np.array_equal(torch.load("mixed/grid.pt")[:3].T.numpy(), codes)
    assert np.array_equal(np.load("alone/tiger.npy"), numbered)
    unique = np.load("mixed/semantic_ids.npy")
    assert len(np.unique(unique, axis=0)) == 200
    assert np.array_equal(np.load("named/tiger.npy"), np.column_stack([unique, np.zeros(200, np.int64)]))


def test_new_items_are_added_without_moving_a_published_id(trained, capsys):
    rows = clustered(230, seed=0).numpy()
    np.save("new.npy", rows[200:])
    Path("old.txt").write_text("\n".join(f"item-{row}" for row in range(200)))
    Path("new.txt").write_text("\n".join(f"item-{row}" for row in range(200, 230)))
    named = ["--data", "new.npy", "--item-ids", "new.txt", "--append-to", "pub.json"]
    assert infer.main(["--ckpt", "--item-ids", "old.txt", "--unique", "--output", "pub.json"]) == 0
    assert infer.main(["--ckpt", *named, "--output", "all.json"]) == 0
    published, together = (json.loads(Path(name).read_text()) for name in ("pub.json", "all.json"))
    assert list(together.items())[:200] == list(published.items())
    assert list(together)[200:] == [f"item-{row}" for row in range(200, 230)]
    assert len(set(map(tuple, together.values()))) == 230
    capsys.readouterr()
    assert "--append-to needs the new items" in refused(["--append-to", "pub.json", "--output", "x.json"], capsys)
    assert "--unique is none, but new items get IDs that no item in all.json has" in refused(
        [*named, "--unique", "none", "--append-to", "all.json", "--output", "x.json"], capsys)
    assert "are in all.json already" in refused([*named[:4], "--append-to", "all.json", "--output", "x.json"], capsys)


def test_published_numbers_for_keys_do_not_swallow_the_new_items_own_ids(trained, capsys):
    np.save("new.npy", clustered(230).numpy()[195:])
    np.save("whole.npy", np.arange(195, 230))
    Path("text.txt").write_text("\n".join(f"item-{row}" for row in range(35)))
    for published in ("pub.json", "pub.npy"):
        assert infer.main(["--ckpt", "--unique", "--output", published, "--overwrite"]) == 0
        argv = ["--ckpt", "--data", "new.npy", "--append-to", published, "--output", f"all-{published}.jsonl"]
        assert "knows its items by row number, but the new ones have item IDs such as 'item-0'" in refused(
            [*argv, "--item-ids", "text.txt"], capsys)
        assert infer.main([*argv, "--item-ids", "whole.npy", "--overwrite"]) == 0
        together = load_semantic_ids(argv[-1])
        lines = [json.loads(line) for line in Path(argv[-1]).read_text().splitlines()]
        assert len(together.codes) == 230 and len(np.unique(together.codes, axis=0)) == 230
        assert together.codes[:200].tolist() == load_semantic_ids(published).codes.tolist()
        assert [line.get("item_id") for line in lines][190:205] == list(range(190, 205))
        assert "5 of them are published already and keep their IDs" in capsys.readouterr().out


def test_the_item_ids_beside_a_npy_go_on_with_it(trained, capsys):
    np.save("ids.npy", np.arange(1000, 1200))
    np.save("new.npy", clustered(203).numpy()[200:])
    assert infer.main(["--item-ids", "ids.npy", "--unique", "--output", "pub.npy"]) == 0
    argv = ["--data", "new.npy", "--append-to", "pub.npy", "--output"]
    np.save("more.npy", np.array([5, 6, 1199]))
    assert infer.main([*argv, "all.jsonl", "--item-ids", "more.npy"]) == 0
    assert load_semantic_ids("all.jsonl").item_ids == [*range(1000, 1200), 5, 6]
    assert infer.main(["--item-ids", "pub.item2id", "--output", "again.jsonl"]) == 0        # what we wrote is taken
    assert load_semantic_ids("again.jsonl").item_ids == list(map(str, range(1000, 1200)))
    assert "has item IDs, the new items have none" in refused([*argv, "x.json"], capsys)


def test_integers_out_of_row_order_mean_the_same_item_in_every_file(trained, capsys):
    order = np.random.default_rng(0).permutation(200)
    np.save("order.npy", order)
    assert infer.main(["--item-ids", "order.npy", "--unique", "none", "--format", "json", "jsonl", "lcrec",
                       "tiger", "grid", "--output", "out"]) == 0
    assert ("the item IDs look like row numbers, but stand in another order; json, jsonl: the item IDs are the keys; "
            "lcrec, tiger, grid: the keys are row numbers, and .item2id beside") in capsys.readouterr().out
    by_item = {str(item): tokens for item, tokens in json.loads(Path("out/semantic_ids.json").read_text()).items()}
    by_row = json.loads(Path("out/lcrec.index.json").read_text())
    rows = dict(line.split("\t") for line in Path("out/lcrec.item2id").read_text().splitlines())
    assert all(by_row[rows[item]] == tokens for item, tokens in by_item.items())
    lifts = set()
    for name in ("semantic_ids.json", "semantic_ids.jsonl", "lcrec.index.json", "tiger.npy", "grid.pt"):
        capsys.readouterr()
        assert infer.main(["--ids", f"out/{name}", "--report", "--data", "items.npy", "--item-ids", "order.npy"]) == 0
        lifts |= {" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "lift of neighbours" in line}
    assert len(lifts) == 1, lifts


def test_item_ids_that_a_file_of_lines_cannot_hold_are_refused_before_the_work(trained, capsys):
    Path("odd.json").write_text(json.dumps([f"item\t{row}\n" for row in range(200)]))
    for formats in (["--format", "lcrec"], ["--output", "x.npy"]):
        assert "holds a tab or a line break" in refused(["--item-ids", "odd.json", *formats], capsys)
    assert infer.main(["--item-ids", "odd.json"]) == 0
    assert list(json.loads(Path("semantic_ids.json").read_text()))[7] == "item\t7\n"


def test_parts_merged_are_the_file_of_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(2500).numpy())
    assert train.main(["--data", "items.npy", "--epochs", "1", *TINY]) == 0
    for part in ("1/2", "2/2"):
        assert infer.main(["--shard", part, "--output", "a.json"]) == 0
    for extra in ([], ["--unique", "suffix", "--overwrite"], ["--unique", "none", "--overwrite"]):
        assert infer.main(["--merge", "--output", "a.json", *extra]) == 0
        assert infer.main(["--output", "b.json", *extra]) == 0
        assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_a_shard_reads_its_own_rows_alone_and_in_slices(trained, monkeypatch, capsys):
    features = clustered(2500).numpy()
    features[2400] = np.nan
    np.save("more.npy", features)
    asked, original = [], FeatureTable.rows
    monkeypatch.setattr(FeatureTable, "rows", lambda table, index: asked.append(index) or original(table, index))
    assert infer.main(["--ckpt", "--data", "more.npy", "--shard", "1/2", "--batch-size", "800"]) == 0
    assert asked == [slice(0, 800), slice(800, 1024)]
    assert "more.npy, rows 1024 to 2499, has NaN or Inf in 1 of 1476 rows (2400)" in refused(
        ["--ckpt", "--data", "more.npy", "--shard", "2/2"], capsys)


def test_how_a_run_split_its_items_is_looked_up_for_a_report_only(trained, monkeypatch):
    monkeypatch.delattr("rqvae.cli.infer_plan.trained_and_held_out")
    assert infer.main(["--ckpt"]) == 0


def test_several_formats_in_one_run(trained, capsys):
    Path("names.txt").write_text("\n".join(f"title {row}" for row in range(200)))
    assert infer.main(["--format", "minionerec", "grid", "npy", "--output", "out", "--names", "names.txt"]) == 0
    assert {str(path) for path in Path("out").rglob("*.*") if path.suffix != ".manifest"} == {
        "out/minionerec.index.json", "out/info/minionerec.txt", "out/grid.pt", "out/semantic_ids.npy"}
    assert "\ttitle 7\t7" in Path("out/info/minionerec.txt").read_text()
    assert "there is no format 'lcrek'" in refused(["--format", "lcrek"], capsys)


def test_a_report_writes_no_ids_and_tells_trained_from_held_out(trained, capsys):
    np.save("pairs.npy", np.array([[0, 1], [5, 9]]))
    assert infer.main(["--ckpt", "--report", "--pairs", "pairs.npy"]) == 0
    out = capsys.readouterr().out
    for words in ("error of the 190 items trained on", "error of the 10 items held out", "level 3: perplexity",
                  "collision rate before",
                  "collision rate after resolving", "neighbours found, item to IDs", "lift of neighbours", "lift of the given pairs",
                  "healthy", "first 2 codes"):
        assert words in out, words
    assert not Path("semantic_ids.json").exists()
    assert infer.main(["--report", "--data", "items.npy", "--unique", "--output", "ids.npy"]) == 0
    assert "collision rate after resolving" in capsys.readouterr().out and Path("ids.npy").exists()


def test_a_report_page_has_history_and_names(trained, capsys):
    Path("names.json").write_text(json.dumps([f"<title {row}>" for row in range(200)]))
    assert infer.main(["--report", "out/report.html", "--names", "names.json"]) == 0
    page = Path("out/report.html").read_text("utf-8")
    for words in ("How much of an item does its ID keep?", "2 epochs in", "&lt;title ", "This checkpoint is of epoch"):
        assert words in page
    assert "out/report.html exists" in refused(["--report", "out/report.html"], capsys)
    assert "its suffix must be .html or .png" in refused(["--report", "report.pdf"], capsys)


def test_ids_in_a_file_are_judged_without_a_checkpoint(trained, capsys):
    infer.main(["--ckpt", "--output", "ids.jsonl"])
    Path("checkpoints/best.ckpt").unlink()
    capsys.readouterr()
    assert infer.main(["--ids", "ids.jsonl", "--report"]) == 0
    alone = capsys.readouterr().out
    assert "3 levels of 8 codes, ids.jsonl" in alone and "lift" not in alone.split("What to change")[0]
    assert infer.main(["--ids", "ids.jsonl", "--report", "--data", "items.npy", "--num-embeddings", "16"]) == 0
    out = capsys.readouterr().out
    assert "lift of neighbours" in out and "of 16" in out and "neighbours found," not in out
    np.save("few.npy", np.zeros((5, 12), np.float32))
    assert "ids.jsonl has 200 items" in refused(["--ids", "ids.jsonl", "--report", "--data", "few.npy"], capsys)
    assert "has the code 7" in refused(["--ids", "ids.jsonl", "--report", "--num-embeddings", "4"], capsys)


def test_the_model_is_exported_without_data(trained, capsys):
    Path("items.npy").unlink()
    assert infer.main(["--save-pretrained", "model"]) == 0
    loaded = RqVae.from_pretrained("model").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trained.state_dict().items())
    assert "config.json exists" in refused(["--save-pretrained", "model"], capsys)
    assert not Path("semantic_ids.json").exists()


@pytest.mark.parametrize("argv, words", [
    (["--shard", "1/1", "--unique"], "--unique does not go with --shard: a shard holds bare codes"),
    (["--shard", "3/2"], "--shard is 3/2, must be such as 2/4"),
    (["--merge"], "make the parts by --shard first"),
    (["--ids", "x.json"], "--ids needs --report"),
    (["--pairs", "p.npy"], "--pairs needs --report"),
    (["--ids", "x.json", "--report", "--unique"], "--unique does not go with --ids"),
    (["--ids", "x.json", "--report"], "x.json does not exist"),
    (["--unique", "best"], "invalid choice: 'best'"),
])
def test_options_that_do_not_go_together_are_named(trained, capsys, argv, words):
    assert words in refused(argv, capsys)


def test_the_help_lists_every_format_and_says_no_default_twice(capsys):
    assert infer.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("torcheasyrec", "semantic-id", "minionerec-kmeans"))
    assert out.count("(default: 1024)") == 1 and "None)" not in out


def test_a_folder_of_save_pretrained_is_a_checkpoint_like_any_other(trained, capsys):
    assert infer.main(["--ckpt", "--save-pretrained", "model"]) == 0
    assert infer.main(["--ckpt", "--output", "a.npy"]) == 0
    assert "does not say what it was trained on; name the items by --data" in refused(["--ckpt", "model"], capsys)
    assert infer.main(["--ckpt", "model", "--data", "items.npy", "--output", "b.npy", "--report"]) == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


def test_a_folder_of_something_else_names_the_checkpoint_in_it(trained, capsys):
    assert refused(["--ckpt", "checkpoints"], capsys) == (
        "error: checkpoints is a folder without config.json; name a checkpoint, such as checkpoints/best.ckpt, or a "
        "folder of --save-pretrained")


def test_a_tokenizer_of_another_system_goes_where_a_checkpoint_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    features = clustered(200)
    np.save("items.npy", features.numpy())
    encoder, decoder = (torch.nn.Sequential(torch.nn.Linear(fan_in, 16), torch.nn.ReLU(), torch.nn.Linear(16, fan_out))
                        for fan_in, fan_out in ((12, 4), (4, 12)))
    codebooks = [torch.randn(8, 4) / (level + 1) for level in range(3)]
    state = {f"{part}.mlp_layers.{1 if name[0] == '0' else 4}.{name[2:]}": tensor
             for part, module in (("encoder", encoder), ("decoder", decoder)) for name, tensor in module.state_dict().items()}
    state |= {f"rq.vq_layers.{level}.embedding.weight": codebook for level, codebook in enumerate(codebooks)}
    torch.save({"args": argparse.Namespace(dropout_prob=0.1), "state_dict": state}, "best.pth", pickle_protocol=4)
    residual, expected = encoder(features).detach(), []
    for codebook in codebooks:
        expected.append(torch.cdist(residual, codebook).argmin(1))
        residual = residual - codebook[expected[-1]]
    expected = torch.stack(expected, 1).numpy()

    assert infer.main(["--ckpt", "best.pth", "--data", "items.npy", "--output", "ids.npy", "--unique", "none"]) == 0
    assert np.array_equal(load_semantic_ids("ids.npy").codes, expected)
    assert "best.pth, of LC-Rec, LETTER or MiniOneRec: its dropout of 0.1 is left out" in capsys.readouterr().err
    assert infer.main(["--ckpt", "best.pth", "--data", "items.npy", "--unique", "suffix", "--format", "lcrec", "tiger",
                       "--output", "out", "--report", "--save-pretrained", "model"]) == 0
    assert np.array_equal(np.load("out/tiger.npy")[:, :3], expected)
    assert "Report on 200 items" in capsys.readouterr().out
    assert torch.equal(RqVae.from_pretrained("model").generate_semantic_ids(features), torch.from_numpy(expected))
    assert "does not say what it was trained on" in refused(["--ckpt", "best.pth", "--output", "a.json"], capsys)

    torch.save({"model": {"layers.0.embedding.weight": torch.randn(8, 4)}, "model_config": {"codebook_normalize": True}},
               "unit.pt")
    assert "divides each latent by its length" in refused(["--ckpt", "unit.pt", "--data", "items.npy", "--output", "a.json"],
                                                          capsys)
    torch.save({"weights": 1}, "other.pt")
    assert "other.pt has no 'state_dict'" in refused(["--ckpt", "other.pt", "--data", "items.npy", "--output", "a.json"],
                                                     capsys)


def test_a_run_that_was_stopped_is_not_judged_as_if_it_had_ended(trained, capsys):
    for at, wanted in (("checkpoints/last.ckpt", 9), ("checkpoints/best.ckpt", 9)):
        loaded = torch.load(at, weights_only=True)
        loaded["rqvae"]["notes"]["epochs"] = wanted
        torch.save(loaded, at)
        for more in (["--output", "x.json", "--overwrite"], ["--report"]):
            assert infer.main(["--ckpt", at, *more]) == 0
            assert "WARNING: this run was stopped after 2 of 9 epochs" in capsys.readouterr().out
    Path("checkpoints/metrics.jsonl").unlink()          # best.ckpt alone cannot tell how its run went on
    assert infer.main(["--ckpt", "--report"]) == 0
    assert "stopped" not in capsys.readouterr().out


def test_a_report_on_what_users_took(trained, capsys):
    draw = np.random.default_rng(0)
    Path("inter.json").write_text(json.dumps({user: draw.integers(200, size=5).tolist() for user in range(30)}))
    asked = ["--report", "--interactions", "inter.json"]
    assert infer.main(["--ckpt", *asked, "--unique", "none", "--output", "bare.npy"]) == 0
    out = capsys.readouterr().out
    for words in ("What users did: 30 users took", "named by row number from 0", "What do the IDs say to a recommender?",
                  "events whose item shares its ID", "next item among 10 by shared prefix", "level 3: codes of the",
                  "never taken: under prefixes of the others"):
        assert words in out, words
    assert "R@10 of a recommender" not in out
    assert infer.main(["--ids", "bare.npy", *asked, "--recommender"]) == 0
    out, err = capsys.readouterr()
    assert "R@10 of a recommender, 30 users" in out and " ± " in out and "training a recommender" in err
    assert infer.main(["--ckpt", *asked, "--unique", "suffix", "--output", "suffix.npy", "--report", "page.html"]) == 0
    assert "What do the IDs say to a recommender?" in Path("page.html").read_text("utf-8")
    line = next(line for line in capsys.readouterr().out.split("\n") if "events whose item shares its ID" in line)
    assert "0.00 %" in line and "good" in line
    assert "--recommender needs --interactions" in refused(["--report", "--recommender"], capsys)
    assert "--interactions needs --report" in refused(["--interactions", "inter.json"], capsys)
    assert "--user-column needs --interactions" in refused(["--report", "--user-column", "u"], capsys)


def test_torcheasyrec_gets_alternatives_and_three_code_readers_a_warning(trained, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert infer.main(["--ckpt", "--unique", "none", "--format", "torcheasyrec", "--output", "a"]) == 0
    table = parquet.read_table("a/torcheasyrec.parquet").to_pydict()
    codes = trained.generate_semantic_ids(clustered(200)).tolist()
    assert table["codes"] == codes and len(table["candidate_codes"][0]) == 8 * 3        # all 8 codes of the last level
    assert [row[:3] for row in table["candidate_codes"]] == codes                       # the first is the item's own
    capsys.readouterr()
    assert infer.main(["--ckpt", "--unique", "suffix", "--format", "minionerec", "torcheasyrec", "--output", "b"]) == 0
    assert "warning: MiniOneRec reads the first three codes of an ID, and these have 4: " in capsys.readouterr().err
    assert "candidate_codes" not in parquet.read_table("b/torcheasyrec.parquet").column_names


def test_the_model_and_what_is_known_of_it_are_of_one_reading(trained, monkeypatch):
    """A checkpoint that is replaced between two readings would give the one's model and the other's notes."""
    import rqvae.cli.infer_plan as plan
    read, seen = plan.load_checkpoint, []
    monkeypatch.setattr(plan, "load_checkpoint", lambda path: seen.append(path) or read(path))
    monkeypatch.setattr("rqvae.storage.checkpoint.load_checkpoint", lambda *_: pytest.fail("it is read again"))
    model, known = plan.load_own("checkpoints/best.ckpt")
    assert len(seen) == 1 and known["notes"] and isinstance(model, RqVae)
