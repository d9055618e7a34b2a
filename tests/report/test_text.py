"""What is said of a tokenizer, to the word."""

import numpy as np
import pytest
import torch

from rqvae.report.assessment import Measure, unsettled
from rqvae.collisions import collision_report
from rqvae.evaluation import code_statistics
from rqvae.report.text import (collapse_advice, prefix_table, report_rows, report_text, resolution_text, shared_prefixes,
                          summary)
from rqvae.ids.resolution import resolve_collisions

MEASURES = [
    Measure("kept", "error of these items", "0.400", "at most 0.55", "good"),
    Measure("used", "level 1: codes used", "3 of 8", "all", "poor", "train longer"),
    Measure("used", "level 2: codes used", "4 of 8", "all", "poor", "train longer"),
    Measure("apart", "collision rate", "9.00 %", "at most 7.0 %", "fair", "use --unique"),
]


def test_each_figure_stands_beside_what_is_healthy_and_what_to_change_at_the_end():
    lines = report_text(MEASURES).split("\n")
    assert lines[0].split() == ["here", "healthy", "verdict"]
    assert [line for line in lines if line.endswith("?")] == [
        "How much of an item does its ID keep?", "Are all codes in use?", "Does every item have an ID of its own?"]
    assert "  level 1: codes used   3 of 8            all     poor" in lines
    assert lines[-3:] == ["What to change", "  train longer (level 1: codes used; level 2: codes used)",
                          "  use --unique (collision rate)"]
    assert max(map(len, lines)) < 100
    assert "What to change" not in report_text(MEASURES[:1])


def test_the_page_gets_a_question_before_its_figures():
    rows = report_rows(MEASURES)
    assert [len(row) for row in rows] == [2, 4, 2, 4, 4, 2, 4, 2] and rows[-1][0] == "What to change"
    assert rows[3] == ("level 1: codes used", "3 of 8", "all", "poor")


def test_prefixes_counted_by_hand():
    lines = prefix_table([[0, 0], [0, 0], [0, 1], [1, 0]]).split("\n")
    assert lines[1].split() == ["first", "code", "2", "3", "75.00", "%", "3"]
    assert lines[2].split() == ["whole", "ID", "3", "2", "50.00", "%", "2"]


def statistics(*used):
    return {"unique_codes_per_level": list(used), "usage_rate_per_level": [n / 8 for n in used],
            "perplexity_per_level": [float(n) for n in used]}


@pytest.mark.parametrize("used, expected", [
    ((8, 8), []),
    ((4, 8), []),
    ((3, 8), ["level 1 has collapsed: 3 of 8 codes are used, so its code says little about an item; help"]),
    ((1,), ["level 1 has collapsed: 1 of 8 codes are used, so its code says nothing about an item; help"]),
    ((1, 3), ["all 2 levels have collapsed: 1, 3 of 8 codes are used, so an ID says little about its item; help"]),
    ((1, 1), ["all 2 levels have collapsed: 1, 1 of 8 codes are used, so an ID says nothing about its item; help"]),
])
def test_collapse_is_said_once(used, expected):
    assert collapse_advice(statistics(*used), "help") == expected


def test_few_items_are_no_collapse():
    assert collapse_advice(statistics(3, 3), "help", items=4) == []
    assert len(collapse_advice(statistics(1, 1), "help", items=4)) == 1


def test_the_summary_has_every_figure():
    codes = torch.tensor([[0, 1], [0, 1], [2, 3]])
    collisions = {"items": 3, "distinct_ids": 2, "collision_rate": 1 / 3, "largest_collision": 2,
                  "unavoidable_collisions": 1}
    text = summary(code_statistics(codes, 4), collisions, 0.25)
    assert "reconstruction error: 0.250" in text and "collision rate: 33.33 % (3 items, 2 distinct IDs, at most 2" in text
    assert "of which 33.33 % for 1 item with exactly the features of an earlier one" in text
    assert ["1", "2", "4", "1.9"] in [line.split() for line in text.split("\n")]


def test_resolving_is_told_with_its_price():
    suffixed = resolve_collisions([[1, 1], [1, 1], [2, 2]])
    assert resolution_text(suffixed, 3) == (
        "made unique: collision rate 33.33 % before, 0.00 % after\n"
        "  each ID has one more number; it is above 0 for 1 of 3 items")
    text = resolution_text(suffixed, 3, 0.00123, published=7)
    assert "after, the 7 published items included" in text
    assert "1 of 3 items moved to a free ID near by, at the price of 0.0012 more reconstruction error" in text
    for nothing in (0.0, -0.0001):          # moved among equal items, or to codes that happen to fit better
        assert "near by, which costs no reconstruction error" in resolution_text(suffixed, 3, nothing)


def test_the_error_with_far_rows_drawn_in_is_told_where_it_is_another():
    codes = torch.tensor([[1], [2]])
    figures = code_statistics(codes, [4]), collision_report(codes)
    assert "0.352 as they are, where few rows or columns have most" in summary(*figures, 0.352, 0.410)
    assert "as they are" not in summary(*figures, 0.4101, 0.4099)


def test_items_that_share_a_prefix_are_shown_by_name():
    codes = np.array([[1, 2, 3], [1, 2, 4], [5, 6, 7]])
    text = shared_prefixes(codes, ["drill", "drill bit", "glue"])
    assert "  1 2  (2 items)" in text and "1 2 4          drill bit" in text and "glue" not in text
    assert shared_prefixes(codes[1:]) == "no two items share a prefix"


def test_few_items_show_their_first_code_where_they_share_no_more():
    codes = np.array([[1, 2, 3], [1, 3, 3], [5, 6, 7]])
    assert [line.split() for line in shared_prefixes(codes).split("\n")[1:]] == [
        ["1", "(2", "items)"], ["1", "2", "3", "row", "0"], ["1", "3", "3", "row", "1"]]


def test_new_items_share_prefixes_with_published_ones():
    codes = np.array([[0, 1], [0, 2], [3, 4], [0, 7], [5, 6]])
    text = shared_prefixes(codes, ["drill", "drill bit", "glue", "new drill", "saw"], published=3)
    lines = [line.split() for line in text.split("\n")]
    assert lines == [["new", "items", "and", "those", "that", "share", "their", "prefix:"], ["0", "(3", "items,", "1", "new)"],
                     ["0", "7", "new:", "new", "drill"], ["0", "1", "drill"], ["0", "2", "drill", "bit"]]
    assert shared_prefixes(codes[[0, 1, 2, 4]], published=3) == "no new item shares its prefix with another"


@pytest.mark.parametrize("sizes", [(3,), (40, 50), (2, 3, 9), (2 ** 40, 2 ** 40, 4)])
def test_shared_prefixes_are_those_of_a_dictionary(sizes):
    """The groups of three or more in order, four of them evenly, and the first four items of each."""
    generator = np.random.default_rng(0)
    codes = np.column_stack([generator.choice(generator.integers(0, size, 9), 300) for size in sizes])
    groups = {}
    for row, code in enumerate(codes.tolist()):
        groups.setdefault(tuple(code[:max(1, len(sizes) - 1)]), []).append(row)
    shared = [prefix for prefix in sorted(groups) if len(groups[prefix]) >= min(3, max(map(len, groups.values())))]
    count = min(4, len(shared))
    expected = ["items that share a prefix:"]
    for place in range(count):
        prefix = shared[round(place * (len(shared) - 1) / max(1, count - 1))]
        expected.append(f"  {' '.join(map(str, prefix))}  ({len(groups[prefix]):,} items)")
        expected += [f"      {' '.join(map(str, codes[row])):<14} row {row}" for row in groups[prefix][:4]]
        expected += [f"      and {len(groups[prefix]) - 4} more"] * (len(groups[prefix]) > 4)
    assert shared_prefixes(codes).split("\n") == expected
    assert shared_prefixes(torch.from_numpy(codes)).split("\n") == expected


def test_shared_prefixes_take_few_bytes_a_row():
    import tracemalloc
    codes = np.random.default_rng(0).integers(0, 256, (200_000, 3))
    tracemalloc.start()
    try:
        shared_prefixes(codes)
        assert tracemalloc.get_traced_memory()[1] < 48 * len(codes)
    finally:
        tracemalloc.stop()


def test_no_level_collapses_that_has_nothing_left_to_tell_apart():
    codes = torch.cat([torch.arange(100)[:, None], torch.zeros(100, 2, dtype=torch.int64)], dim=1)
    assert unsettled(codes) == [100, 0, 0]
    figures = code_statistics(codes, 256)
    assert collapse_advice(figures, "help", items=unsettled(codes)) == []
    codes[:, 0] = 0
    assert "all 3 levels have collapsed: 1, 1, 1 of 256 codes" in collapse_advice(
        code_statistics(codes, 256), "help", items=unsettled(codes))[0]
