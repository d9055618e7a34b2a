"""Interactions from every kind of file: the same events from each, and words for what was left out."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rqvae.items import interactions, user_lists
from rqvae.items.interactions import p5_interactions, read_interactions
from samples import ROOT

LISTS = [[3, 1, 4], [1, 5], [2, 0, 2, 1]]
IDS = [f"B{row:03d}" for row in range(6)]


def lists(found):
    return [found.of(user).tolist() for user in range(len(found.offsets) - 1)]


def write(path, sequences, name=lambda row: row):
    """The same events in the form that the suffix stands for, users mixed in tables, times far from the row order."""
    named = [[name(row) for row in items] for items in sequences]
    if path.suffix == ".json":
        path.write_text(json.dumps({f"u{user}": items for user, items in enumerate(named)}))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(items) + "\n" for items in named))
    elif path.suffix == ".txt":
        path.write_text("".join(f"u{user} {' '.join(map(str, items))}\n" for user, items in enumerate(named)))
    else:
        events = [(f"u{user}", item, 100 - 10 * user + place) for user, items in enumerate(named)
                  for place, item in enumerate(items)]
        mixed = sorted(events, key=lambda event: (event[0] != "u0", -event[2] % 7, event))
        mixed.sort(key=lambda event: event[0], reverse=False) if path.stem == "sorted" else None
        if path.suffix == ".parquet":
            arrow = pytest.importorskip("pyarrow")
            import pyarrow.parquet
            user, item, time = map(list, zip(*mixed))
            pyarrow.parquet.write_table(arrow.table({"user_id": user, "item_id": item, "timestamp": time}), path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            rows = [("user_id", "item_id", "timestamp"), *mixed]
            path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("ids", [None, IDS])
def test_the_same_events_from_every_form_by_row_and_by_id(tmp_path, suffix, ids):
    path = write(tmp_path / f"taken{suffix}", LISTS, (lambda row: row) if ids is None else IDS.__getitem__)
    found = read_interactions(path, 6, ids)
    assert sorted(lists(found)) == sorted(LISTS) and lists(found)[0] == LISTS[0]
    assert found.items.dtype == np.int32 and found.offsets.dtype == np.int64
    assert "3 users took 6 of 6 items 9 times" in found.words and str(path) in found.words
    assert ("named by item ID" if ids else "named by row number from 0") in found.words
    assert ("in the order of 'timestamp'" in found.words) == (suffix in (".csv", ".tsv", ".parquet"))
    assert found.users().tolist() == [user for user, items in enumerate(lists(found)) for _ in items]


def test_rows_are_taken_where_the_file_has_no_item_ids_of_these(tmp_path):
    path = write(tmp_path / "inter.json", LISTS)
    assert lists(read_interactions(path, 6, IDS)) == LISTS
    numbers = ["3", "4", "5", "0", "1", "2"]                # IDs that look like rows are IDs
    assert lists(read_interactions(path, 6, numbers))[0] == [0, 4, 1]


def test_lines_of_p5_count_from_one_unless_there_is_a_zero(tmp_path):
    path = write(tmp_path / "sequential_data.txt", LISTS, lambda row: row + 1)
    assert lists(read_interactions(path, 6)) == LISTS
    assert "named by row number from 1" in read_interactions(path, 6, IDS).words


def test_pairs_are_users_of_two_items(tmp_path):
    np.save(tmp_path / "pairs.npy", np.array([[0, 1], [4, 2], [3, 3]]))
    found = read_interactions(tmp_path / "pairs.npy", 5, IDS[:5])
    assert lists(found) == [[0, 1], [4, 2], [3]] and "1 repeat in a row" in found.words


def test_damaged_headers_and_columns_of_pairs_are_no_trap(tmp_path):
    path = tmp_path / "pairs.npy"
    np.save(path, np.asfortranarray([[0, 1], [4, 2], [3, 1]]))
    assert lists(read_interactions(path, 5)) == [[0, 1], [4, 2], [3, 1]]
    whole = path.read_bytes()
    at = whole.index(b"}") + 1
    path.write_bytes(whole[:at] + "ó\x89[".encode("latin-1") + whole[at + 3:])         # numpy itself raises a TokenError
    try:
        assert lists(read_interactions(path, 5)) == [[0, 1], [4, 2], [3, 1]]
    except ValueError:
        pass
    path.write_bytes(whole.replace(b"<i8", b"<i3"))
    with pytest.raises(ValueError, match="holds dtype <i3 of shape .*; expected integers"):
        read_interactions(path, 5)


def test_strangers_repeats_and_endless_lists_are_left_out_and_said(tmp_path):
    path = tmp_path / "taken.jsonl"
    path.write_text("\n".join(map(json.dumps, [[1, 99, 1, 2, 2], [98], [], list(range(6)) * 3, [0, "x"]])))
    found = read_interactions(path, 6, longest=4)
    assert lists(found) == [[1, 2], [2, 3, 4, 5], [0]]
    assert found.words.endswith("left out: 3 events of items that are not among these, 2 repeats in a row, all but the "
                                "last 4 items of 1 user")


def test_columns_are_found_or_named_and_dates_are_times(tmp_path):
    path = tmp_path / "taken.csv"
    path.write_text("who,parent_asin,day\na,B001,2026-01-03\nb,B002,2026-01-01\na,B000,2026-01-02T10:00:00Z\n")
    with pytest.raises(ValueError, match="no column that is called like users; name it by --user-column, it has who"):
        read_interactions(path, 6, IDS)
    with pytest.raises(ValueError, match="has no column 'whom'; did you mean 'who'"):
        read_interactions(path, 6, IDS, user_column="whom")
    assert lists(read_interactions(path, 6, IDS, user_column="who", time_column="day")) == [[0, 1], [2]]
    found = read_interactions(path, 6, IDS, user_column="who")
    assert lists(found) == [[1, 0], [2]] and "in the order of the file" in found.words
    recbole = tmp_path / "taken.tsv"
    recbole.write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t4\t2.5\nu\t3\t1e0\n")
    assert lists(read_interactions(recbole, 6)) == [[3, 4]]


@pytest.mark.parametrize("name, content, words", [
    ("a.json", '{"u": [1, 2], "v": [3', "damaged at user number 2"),
    ("a.json", '{"u" [1, 2]}', "damaged at user number 1"),
    ("a.json", '{"u": 3}', "user 'u' holds int '3'; expected the list"),
    ("a.json", '{"u": [[1, 2]]}', r"names the item '\[1, 2\]'"),
    ("a.json", '"text"', "is no JSON object of lists"),
    ("a.json", "{}", "holds no interactions"),
    ("a.json", '{"u": ["x1", "x2"]}', "names none of these items: it has 'x1' and the like, the items have the rows 0 to 5"),
    ("a.json", '{"u": [1, 2, 3, 4, 5, 6]}', "numbers items from 1 to 6, but rows are counted from 0"),
    ("a.jsonl", "[1]\n[1, tru\n", "line 2 is not JSON"),
    ("a.csv", "user,item\na\n", "line 2 has not the 2 fields"),
    ("a.csv", "user,item,time\na,1,soon\n", "line 2 has 'soon' for a time"),
    ("a.xlsx", "", "has the suffix '.xlsx'; expected interactions as one of .json"),
])
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_interactions(tmp_path / name, 6)


def test_a_damaged_parquet_is_named(tmp_path):
    path = write(tmp_path / "taken.parquet", LISTS)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for damaged in (whole[:-9], whole[:-8 - footer] + b"\xff" * footer + whole[-8:], b"PAR1" + bytes(50)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="taken.parquet is damaged or incomplete .*save it again"):
            read_interactions(path, 6)


def test_columns_of_a_file_that_has_none_are_refused(tmp_path):
    path = write(tmp_path / "inter.json", LISTS)
    with pytest.raises(ValueError, match="--user-column is who, but .*inter.json has no columns"):
        read_interactions(path, 6, user_column="who")


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_json_in_pieces_of_any_size(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(user_lists, "_PIECE", piece)
    path = tmp_path / "inter.json"
    path.write_text('{"a, ]}": [1, "B00\\u0032", 3],\n "b":[],"c" : [ 0 ]}\n')
    assert list(user_lists.read_lists(path)) == [[1, "B002", 3], [], [0]]
    path.write_text("[[1, 2], [3]]")
    assert list(user_lists.read_lists(path)) == [[1, 2], [3]]


def test_the_training_part_of_p5(tmp_path):
    folder = tmp_path / "raw" / "toys"
    folder.mkdir(parents=True)
    (folder / "datamaps.json").write_text(json.dumps({"item2id": {f"A{n}": str(n) for n in range(1, 6)}}))
    (folder / "sequential_data.txt").write_text("u 1 2 3 4\nv 5 1\nw 2 3 4\n")
    found = p5_interactions(tmp_path, "toys")
    assert lists(found) == [[0, 1], [4, 0], [1]] and "training part of the split toys" in found.words


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_many_users_in_little_memory(tmp_path, suffix):
    """A hundred thousand users of ten: the peak over that of the start stays below 60 bytes an event and some MB."""
    users, path = 100_000, tmp_path / f"many{suffix}"
    with open(path, "w") as file:
        file.write("{" if suffix == ".json" else "user_id,item_id\n")
        for user in range(users):
            items = [(user * 7 + place * 13) % 5000 for place in range(10)]
            if suffix == ".json":
                file.write(f'{"," if user else ""}"{user}": {items}')
            else:
                file.writelines(f"{user},{item}\n" for item in items)
        file.write("}" if suffix == ".json" else "")
    script = (f"import resource; from rqvae.items.interactions import read_interactions as read\n"
              f"peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10\n"
              f"import numpy as np; np.argsort(np.arange(9)); before = peak()\n"
              f"found = read({str(path)!r}, 5000); assert len(found.items) == {users * 10}\nprint(peak() - before)")
    grown = int(subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True).stdout)
    assert grown < 60 * users * 10 + 20e6, grown


def test_the_module_holds_no_more_than_it_says():
    assert interactions.SUFFIXES == (".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".npy")
