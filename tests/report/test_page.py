"""The report page: well-formed, closed to the network, deaf to hostile names, right in numbers."""

import math
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from rqvae import open_features
from rqvae.report.page import write_page
from rqvae.report.plane import plane

VOID = {"meta"}
TAGS = set("html head meta title style body header h1 h2 h3 p nav a main section dl div dt dd "
           "figure figcaption svg desc path rect span details summary table caption thead tbody "
           "tr th td ul li code b bdi i".split())
PREFIXES = "Items that share the start of their ID"
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>',
           "</bdi></details></main><h1>owned", "<!-- a comment", "Tom & Jerry's \"best\" &lt;3",
           "<style>*{display:none}</style>"]


class Page(HTMLParser):
    """Checks nesting while it reads; keeps what the tests ask for."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text("utf-8")
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.tables, self.codes, self.tiles, self.names, self.charts = {}, [], [], [], {}
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "details" and ("class", "code") in attrs:
            self.codes.append({"open": ("open", None) in attrs, "text": "", "groups": []})
        if tag == "h3" and self.inside("details"):
            self.codes[-1]["groups"].append("")
        if tag == "bdi":
            self.names.append("")
        if tag == "path" and self.inside("svg"):
            self.chart["paths"].append(dict(attrs))
        if tag == "figure":
            self.chart = {"paths": [], "text": "", "hits": [], "labels": []}
        if tag == "span" and self.inside("figure"):
            self.chart["labels"].append([dict(attrs), ""])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag
        if tag == "table":
            self.tables[self.rows_caption] = self.rows
        if tag == "figure":
            self.charts[self.chart["name"]] = self.chart

    def handle_data(self, data):
        tag, attrs = self.open[-1] if self.open else ("", {})
        if tag == "style":
            return
        self.text += data
        if tag == "caption":
            self.rows_caption = data
        if self.inside("td") or self.inside("th"):
            self.rows[-1][-1] += data
        if self.inside("summary") and self.codes and not self.inside("h3"):
            self.codes[-1]["text"] += data + "|"
        if self.inside("h3") and self.inside("details"):
            self.codes[-1]["groups"][-1] += data + "|"
        if tag == "bdi":
            self.names[-1] += data
        if self.inside("figure"):
            self.chart["text"] += data
            if tag == "h3":
                self.chart["name"] = data
            if tag == "span":
                self.chart["labels"][-1][1] += data
            if tag == "title" and self.inside("rect"):
                self.chart["hits"].append(data)
        if self.inside("dl"):
            self.tiles.append((tag, attrs.get("class", ""), data))

    def inside(self, tag):
        return any(name == tag for name, _ in self.open)


def written(tmp_path, codes, *, history=(), metrics=(), names=None, num_embeddings=8, title="T",
            description="D"):
    path = tmp_path / "report.html"
    write_page(path, title=title, description=description, metrics=list(metrics),
               history=list(history), codes=codes, names=names, num_embeddings=num_embeddings)
    page = Page(path)
    assert_closed(page)
    return page


def assert_closed(page):
    """Nothing runs, nothing is fetched, every tag is one of ours."""
    assert set(page.tags) <= TAGS, set(page.tags) - TAGS
    for name, value in page.attributes:
        assert not name.startswith("on") and name not in ("src", "srcset", "action", "data"), name
        if name == "href":
            assert value.startswith("#") and f'id="{value[1:]}"' in page.source
    style = page.source[:page.source.index("</style>")]
    for word in ("://", "url(", "@import", "expression(", "<link", "<script"):
        assert word not in style
    assert "default-src 'none'" in page.source
    assert not any("://" in (value or "") for _, value in page.attributes)


def epochs(count=5, levels=2):
    return [{"epoch": epoch, "global_step": 10 * epoch + 10, "lr": 0.001 / (1 + epoch),
             "seconds": 0.5, "train_loss": 4 / (epoch + 1), "val_loss": 5 / (epoch + 1),
             "train_recon_loss": 2 / (epoch + 1), "val_recon_loss": 3 / (epoch + 1),
             "codes_used": [7] * levels, "perplexity": [6.25 - epoch / 100] * levels}
            for epoch in range(count)]


@pytest.fixture
def codes():
    """(500, 3), 8 codes a level, unevenly used; code 7 of level 1 never."""
    generator = np.random.default_rng(0)
    return np.stack([np.minimum(generator.geometric(0.4, 500) - 1, 6),
                     generator.integers(0, 8, 500), generator.integers(0, 3, 500)], axis=1)


def test_the_page_is_well_formed_and_closed_to_the_network(tmp_path, codes):
    page = written(tmp_path, codes, history=epochs(levels=3), title="The title",
                   description="A description.", metrics=[("Items", "500", "many", "good")])
    assert page.source.startswith("<!DOCTYPE html>") and 'name="viewport"' in page.source
    assert "prefers-color-scheme:dark" in page.source and "@media print" in page.source
    assert page.text.count("The title") == 2 and "A description." in page.text
    assert len(page.source) < 150_000


def test_each_chart_has_a_title_and_a_description_for_those_who_do_not_see_it(tmp_path, codes):
    page = written(tmp_path, codes, history=epochs(levels=3))
    assert list(page.charts) == ["Loss", "Reconstruction loss", "Perplexity", "Learning rate",
                                 "Level 1", "Level 2", "Level 3"]
    images = re.findall(r'<svg [^>]*role="img"[^>]*><title>[^<]+</title><desc>[^<]*</desc>',
                        page.source)
    assert len(images) == len(page.charts)
    assert all(f"<title>{name}</title>" in "".join(images) for name in page.charts)


def test_hostile_words_from_the_data_stay_words(tmp_path):
    page = written(tmp_path, np.zeros((len(HOSTILE), 2), np.int64), names=HOSTILE, title=HOSTILE[0],
                   description=HOSTILE[1], metrics=[(HOSTILE[2], HOSTILE[3], HOSTILE[4], "poor")])
    assert set(HOSTILE) <= set(page.names)
    for words in HOSTILE[:5]:
        assert words in page.text
    assert page.source.count("<h1>") == 1 and "<script" not in page.source.lower()


def test_names_are_kept_to_a_line_of_printable_text(tmp_path):
    names = ["two\nlines\tand\x00a zero", "half a pair \ud800", "x" * 1000, "日本語",
             "\u202egnp.exe", None, " \n "]
    page = written(tmp_path, np.zeros(7, np.int64), names=names)
    shown = page.names[-5:]
    assert shown == ["two lines and a zero", "half a pair", "x" * 89 + "…", "日本語",
                     "\\u202egnp.exe"]
    assert "row 5" in page.text and "row 6" in page.text


def test_tiles_say_the_verdict_in_words(tmp_path, codes):
    page = written(tmp_path, codes, metrics=[("Error", "0.41", "below 0.5", "good"),
                                             ("Items", "500", "", "")])
    assert page.tiles == [
        ("dt", "", "Error"), ("dd", "value", "0.41"), ("dd", "verdict good", "good"),
        ("dd", "healthy", "healthy: below 0.5"), ("dt", "", "Items"), ("dd", "value", "500")]


def test_shared_prefixes_are_those_counted_by_hand(tmp_path, codes):
    page = written(tmp_path, codes)
    header, *rows = page.tables[PREFIXES]
    assert [row[0] for row in rows] == ["first code", "first 2 codes", "whole ID"]
    for length, row in enumerate(rows, start=1):
        counts = Counter(tuple(ID[:length]) for ID in codes.tolist())
        shared = sum(count for count in counts.values() if count > 1)
        assert row[1:] == [f"{shared / 5:.2f} %", str(shared), str(len(counts)),
                           str(min(8 ** length, 500)), str(max(counts.values()))]


def test_known_collisions_typed_out(tmp_path):
    page = written(tmp_path, [[0, 0], [0, 0], [0, 1], [1, 0]])
    rows = page.tables[PREFIXES][1:]
    assert rows == [["first code", "75.00 %", "3", "2", "4", "3"],
                    ["whole ID", "50.00 %", "2", "3", "4", "2"]]


def test_use_is_that_counted_by_hand(tmp_path, codes):
    page = written(tmp_path, codes)
    rows = page.tables["Items on the codes, by order of use"][1:]
    for level, row in enumerate(rows):
        counts = sorted((int((codes[:, level] == code).sum()) for code in range(8)), reverse=True)
        perplexity = math.exp(-sum(n / 500 * math.log(n / 500) for n in counts if n))
        assert row == [str(level + 1), str(sum(n > 0 for n in counts)), f"{perplexity:.1f}",
                       *(str(counts[place]) for place in (0, 1, 4, 6, 7))]
        text = page.charts[f"Level {level + 1}"]["text"]
        assert f"{row[1]} of 8 codes used, perplexity {row[2]}" in text


def test_the_area_of_a_level_is_its_items(tmp_path, codes):
    page = written(tmp_path, codes[:, 1])
    area, even = (path["d"] for path in page.charts["Level 1"]["paths"][1:])
    counts = sorted(np.bincount(codes[:, 1], minlength=8).tolist(), reverse=True)
    points = [tuple(map(int, point.split())) for point in area[1:].split("L")]
    heights = [1000 - points[2 * code + 1][1] for code in range(8)]
    assert heights == pytest.approx([1000 * count / counts[0] for count in counts], abs=1)
    height = 1000 - int(even.split("L")[1].split()[1])
    assert height == pytest.approx(1000 * 62.5 / counts[0], abs=1)


def test_a_code_that_takes_nearly_all_is_said_to_leave_the_chart(tmp_path):
    page = written(tmp_path, np.array([5] * 900 + list(range(100))), num_embeddings=100)
    words = "The most used, with 901 items, reaches beyond the chart."
    assert words in page.charts["Level 1"]["text"]


def test_the_tree_has_the_largest_first_codes_with_their_counts(tmp_path, codes):
    names = [f"item {row}" for row in range(500)]
    page = written(tmp_path, codes, names=names)
    counts = Counter(codes[:, 0].tolist()).most_common()
    shown = [block["text"].split("|")[:2] for block in page.codes]
    assert shown == [[str(code), f"{count} items"] for code, count in counts]
    assert [block["open"] for block in page.codes] == [True] + [False] * (len(counts) - 1)
    for (code, _), block in zip(counts, page.codes):
        pairs = Counter(map(tuple, codes[codes[:, 0] == code, :2].tolist()))
        groups = [group.split("|")[:2] for group in block["groups"]]
        assert [int(words.split()[0]) for _, words in groups] == sorted(pairs.values())[::-1]
        assert {prefix for prefix, _ in groups} == {f"{a} {b}" for a, b in pairs}
    assert set(page.names) <= set(names)


def test_items_stand_under_their_own_codes_and_what_is_left_out_is_counted(tmp_path, codes):
    page = written(tmp_path, codes, names=[" ".join(map(str, ID)) for ID in codes.tolist()])
    groups = re.findall(
        r'<h3><b>(\d \d)</b><span class="soft">(\d+) items?</span></h3><ul>(.*?)</ul>', page.source)
    assert len(groups) > 20
    for prefix, items, body in groups:
        lines = re.findall(r"<code>(\d)</code><span><bdi>(.*?)</bdi>(?: <[^>]*>×(\d+))?", body)
        left = re.search(r"and (\d+) more", body)
        assert len(lines) <= 6 and len(lines) + (int(left[1]) if left else 0) == int(items)
        for last, ID, alike in lines:
            assert ID == f"{prefix} {last}"
            assert int(alike or 1) == codes.tolist().count([int(code) for code in ID.split()])


def test_what_is_not_shown_of_the_tree_is_summed_up(tmp_path):
    generator = np.random.default_rng(1)
    wide = generator.integers(0, 64, (5000, 3))
    page = written(tmp_path, wide, num_embeddings=64)
    counts = sorted(Counter(wide[:, 0].tolist()).values(), reverse=True)
    assert len(page.codes) == 24
    assert f"and {64 - 24} more first codes with {sum(counts[24:]):,} items" in page.text
    first = Counter(wide[:, 0].tolist()).most_common(1)[0][0]
    pairs = sorted(Counter(wide[wide[:, 0] == first, 1].tolist()).values(), reverse=True)
    assert len(page.codes[0]["groups"]) == 8
    words = f"and {len(pairs) - 8} more second codes with {sum(pairs[8:])} items"
    assert words in page.text


def test_the_history_is_told_and_tabled(tmp_path, codes):
    history = epochs(7, levels=3)
    history[4]["val_loss"] = 0.25
    page = written(tmp_path, codes, history=history)
    assert ("7 epochs in 4 s. The validation loss was lowest after epoch 5: 0.25, "
            "at the dashed line.") in page.text
    header, *rows = page.tables["All epochs"]
    assert header == ["epoch", "lr", "train loss", "val loss", "train recon loss",
                      "val recon loss", "codes used", "perplexity"]
    assert rows[4] == ["5", "0.0002", "0.8000", "0.2500", "0.4000", "0.6000", "7 / 7 / 7",
                       "6.210 / 6.210 / 6.210"]
    assert "epoch 5: train 0.8, validation 0.25" in page.charts["Loss"]["hits"]
    labels = [label for _, label in page.charts["Perplexity"]["labels"]]
    assert labels[-3:] == ["level 1", "level 2", "level 3"]


def test_labels_at_the_ends_of_curves_do_not_lie_on_each_other(tmp_path, codes):
    page = written(tmp_path, codes, history=epochs(levels=8))
    tops = sorted(float(re.search(r"top:([-\d.]+)%", attrs["style"])[1])
                  for attrs, label in page.charts["Perplexity"]["labels"] if "level" in label)
    assert len(tops) == 8 and 0 <= tops[0] and tops[-1] <= 100
    assert min(b - a for a, b in zip(tops, tops[1:])) > 8.5


def test_the_whole_chart_answers_the_pointer(tmp_path, codes):
    page = written(tmp_path, codes, history=epochs(300))
    strips = re.findall(r'class="hit" x="(\d+)" width="(\d+)"', page.source.split("</figure>")[0])
    ends = [int(left) + int(width) for left, width in strips]
    assert len(strips) == 64 and int(strips[0][0]) == 0 and ends[-1] == 1000
    assert all(abs(end - int(left)) <= 1 for end, (left, _) in zip(ends, strips[1:]))


def test_a_curve_stands_where_its_values_say(tmp_path, codes):
    history = [{"epoch": epoch, "train_loss": loss} for epoch, loss in enumerate([4.0, 3.0, 0.0])]
    page = written(tmp_path, codes, history=history)
    assert list(page.charts)[:1] == ["Loss"] and "Perplexity" not in page.charts
    line = page.charts["Loss"]["paths"][-1]
    assert line["d"] == "M0 0L500 250L1000 1000"
    labels = [label for _, label in page.charts["Loss"]["labels"]]
    assert labels == ["0", "1", "2", "3", "4", "1", "2", "3", "epoch", "train"]


def test_a_loss_that_falls_far_gets_a_log_scale_and_says_so(tmp_path, codes):
    far = [{"epoch": epoch, "train_loss": 100 * 0.1 ** epoch} for epoch in range(4)]
    page = written(tmp_path, codes, history=far)
    assert "Log scale." in page.charts["Loss"]["text"]
    line = page.charts["Loss"]["paths"][-1]["d"]
    heights = [int(point.split()[1]) for point in line[1:].split("L")]
    assert np.diff(heights) == pytest.approx(np.diff(heights)[0], abs=2)
    assert "Log scale." not in written(tmp_path, codes, history=epochs()).text


def test_a_long_history_is_thinned_without_losing_a_spike(tmp_path, codes):
    history = epochs(20_000)
    history[7777]["train_loss"] = 1e5
    history[12_345]["val_loss"] = 1e-9
    page = written(tmp_path, codes, history=history)
    assert len(page.source) < 200_000
    assert "lowest after epoch 12,346: 1e-09" in page.text
    rows = page.tables["41 of 20000 epochs"][1:]
    assert rows[0][0] == "1" and rows[-1][0] == "20000" and "12346" in [row[0] for row in rows]
    train = page.charts["Loss"]["paths"][2]["d"]
    assert train.count("L") <= 402
    assert min(int(point.split()[1]) for point in train[1:].split("L")) < 10


@pytest.mark.parametrize("history, chart", [
    ([{"epoch": 0, "lr": 0.001, "train_loss": 0.5, "perplexity": [3.0]}], "Loss"),
    ([{"epoch": 0, "train_loss": float("nan")}, {"epoch": 1, "train_loss": 0.5}], "Loss"),
    ([{"epoch": epoch, "train_loss": 0.25, "lr": 0.0} for epoch in range(3)], "Learning rate"),
    ([{"epoch": 0, "lr": 0.1}, {"epoch": 1, "lr": 0.1, "val_loss": None}], "Learning rate"),
    ([{"epoch": epoch, "train_loss": 0.0} for epoch in (4, 9)], "Loss"),
])
def test_a_history_of_one_point_of_gaps_or_of_constants_is_drawn(tmp_path, codes, history, chart):
    page = written(tmp_path, codes, history=history)
    for path in page.charts[chart]["paths"]:
        assert all(0 <= int(number) <= 1000 for number in re.findall(r"-?\d+", path["d"]))
    assert "nan" not in page.charts[chart]["text"]


def test_without_a_history_the_page_says_so(tmp_path, codes):
    page = written(tmp_path, codes)
    assert "There is no record of how this model was trained." in page.text
    assert list(page.charts) == ["Level 1", "Level 2", "Level 3"]


def test_one_level_lists_the_items_of_each_code(tmp_path):
    page = written(tmp_path, np.arange(100) % 2, names=[f"n{row}" for row in range(100)],
                   num_embeddings=2)
    shown = [block["text"].split("|")[:2] for block in page.codes]
    assert shown == [["0", "50 items"], ["1", "50 items"]]
    assert page.codes[0]["groups"] == [] and page.text.count("and 2 more") == 2
    rows = page.tables[PREFIXES][1:]
    assert rows == [["whole ID", "100.00 %", "100", "2", "2", "50"]]


@pytest.mark.parametrize("codes", [np.array([3]), np.array([[3, 0, 7]]), torch.tensor([[1, 2]])])
def test_one_item_is_a_page_too(tmp_path, codes):
    page = written(tmp_path, codes, history=epochs(1))
    assert page.codes[0]["text"].split("|")[1] == "1 item" and "row 0" in page.text
    assert "1 of 8 codes used, perplexity 1.0" in page.text and "0.00 %" in page.text


def test_a_collapsed_model_shows_as_one_code(tmp_path):
    page = written(tmp_path, np.zeros((4000, 2), np.int64), num_embeddings=256)
    assert ("1 of 256 codes used, perplexity 1.0. The most used, with 4,000 items, reaches beyond "
            "the chart.") in page.text
    assert [block["text"].split("|")[:2] for block in page.codes] == [["0", "4,000 items"]]


def test_a_tensor_and_an_array_give_the_same_bytes(tmp_path, codes):
    names = np.array([f"n{row}" for row in range(500)])
    first = written(tmp_path, codes, names=names).source
    assert written(tmp_path, torch.from_numpy(codes), names=names.tolist()).source == first
    assert written(tmp_path, codes.astype(np.int32), names=names).source == first


def test_a_million_items_with_long_names_make_a_small_page(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (1_000_000, 3))
    page = written(tmp_path, codes, names=['"' * 300] * len(codes), num_embeddings=256,
                   history=epochs(3000, 3))
    assert len(page.source.encode()) < 900_000
    assert page.tables[PREFIXES][1][1] == "100.00 %"


@pytest.mark.parametrize("change, words", [
    ({"codes": np.array([[0, 8]])}, "codes must be from 0 to 7, got 0 to 8"),
    ({"codes": np.array([[0, -1]])}, "codes must be from 0 to 7, got -1 to 0"),
    ({"codes": np.zeros((0, 3), np.int64)}, "at least one of each, got int64 of shape (0, 3)"),
    ({"codes": np.zeros((2, 2))}, "codes must be integers"),
    ({"names": ["a", "b"]}, "names must hold one entry for each of the 1 items, got 2"),
    ({"metrics": [("Error", "1", "", "bad")]},
     "the verdict on Error is 'bad'; it must be one of ('good', 'fair'"),
])
def test_a_wrong_argument_is_refused_and_the_old_page_stays(tmp_path, change, words):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError) as error:
        write_page(path, **{"title": "T", "description": "D", "metrics": [], "history": [],
                            "codes": np.array([[0, 1]]), "num_embeddings": 8, **change})
    assert words in str(error.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_to_change_and_the_map_stand_on_the_page_and_hostile_names_stay_words(tmp_path):
    codes, names = np.arange(60)[:, None] % 3, [f"<b>group{row % 3}</b> & more" for row in range(60)]
    seen = plane(open_features(torch.randn(60, 4) + 5 * torch.eye(4)[torch.arange(60) % 3]), codes, names)
    write_page(tmp_path / "a.html", title="T", description="D", history=[], codes=codes, names=names, num_embeddings=3,
               metrics=[("What to change", ["usage: <i>less</i>", "lift: more"])], plane=seen)
    page = Page(tmp_path / "a.html")
    for words in ("What to change", "usage: <i>less</i>", "lift: more", "Map of the items", "20 items"):
        assert words in page.text
    points = re.findall(r'class="points" style="--c:var\(--(g\d|rest)\)" d="([^"]*)"', page.source)
    assert [(name, path.count("M")) for name, path in points] == [("g0", 20), ("g1", 20), ("g2", 20)]
    assert set(page.tags) <= TAGS
