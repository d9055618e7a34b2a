import numpy as np
import pytest
import torch

from rqvae.codes import as_array, as_codes, as_item_ids, as_labels, check_range, level_sizes


def test_codes_keep_their_memory_where_they_are_right_already():
    codes = np.arange(6).reshape(3, 2)
    assert np.shares_memory(as_codes(codes), codes)
    assert np.shares_memory(as_codes(torch.from_numpy(codes)), codes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i4", np.uint64])
def test_codes_of_any_integer_type_become_int64(dtype):
    table = as_codes(np.array([1, 2, 3], dtype))
    assert table.dtype == np.int64 and table.tolist() == [[1], [2], [3]]


def test_bfloat16_and_gradients_are_no_obstacle_to_an_array():
    values = torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert as_array(values).tolist() == [1.5, 2.0]


def test_sizes_are_one_number_or_one_for_each_level():
    assert level_sizes(256, 3) == [256, 256, 256]
    assert level_sizes([4, 2], 2) == [4, 2]
    assert level_sizes(torch.tensor([4, 2]), 2) == [4, 2]


@pytest.mark.parametrize("sizes", [0, -1, 2.5, [4], [4, 0], True, "4", None])
def test_other_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="one integer above 0, or one for each of the 2 levels"):
        level_sizes(sizes, 2)


def test_a_code_outside_its_level_is_named():
    check_range(np.array([[3, 1]]), [4, 2])
    with pytest.raises(ValueError, match="ids of level 2 must be below 2, got 2 in row 1"):
        check_range(np.array([[3, 1], [0, 2]]), [4, 2], "ids")


def test_item_ids_keep_their_kind_and_must_differ():
    assert as_item_ids(np.array([10, 11]), 2) == [10, 11]
    assert as_item_ids(["10", "11"], 2) == ["10", "11"]
    assert as_item_ids(("a", 5), 2) == ["a", "5"]
    assert as_item_ids(None, 2) is None
    with pytest.raises(ValueError, match="item_ids has the item ID 'a' 2 times, first for row 0"):
        as_item_ids(["a", "b", "a"], 3)
    with pytest.raises(ValueError, match="item_ids has 'None' .NoneType. as the ID of row 1"):
        as_item_ids(["a", None], 2)
    with pytest.raises(ValueError, match="item_ids must hold .* each of the 3 items, got 2"):
        as_item_ids(["a", "b"], 3)


def test_names_may_repeat_and_be_missing():
    assert as_labels(["x", None, "x"], 3, "names") == ["x", "", "x"]
