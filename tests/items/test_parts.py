"""Several embeddings an item as one table, what is missing in it, and the model that trains on it."""

import re

import numpy as np
import pytest
import torch

import infer
import train
from samples import clustered
from rqvae import FeatureDataset, RqVae, open_features
from rqvae.recipe import MODEL
from rqvae.recipe.initialization import initialize
from rqvae.recipe.scaling import parts_scaling


def test_parts_stand_side_by_side_row_by_row():
    text, image = clustered(30, 5), clustered(30, 3, seed=1)
    table = open_features({"text": text, "image": image})
    assert table.shape == (30, 8) and table.names == ["text", "image"] and table.widths == [5, 3]
    assert torch.equal(table.rows([4, 2]), torch.cat([text, image], dim=1)[[4, 2]])
    assert torch.equal(FeatureDataset(table)[7]["features"], torch.cat([text[7], image[7]]))
    assert table.checksum() == open_features(torch.cat([text, image], dim=1)).checksum()


def test_rows_of_nan_are_missing_and_said_so(recwarn):
    image = clustered(30, 3)
    image[[2, 9]] = np.nan
    table = open_features({"text": clustered(30, 5), "image": image})
    with pytest.warns(UserWarning, match="image is missing for 2 of 30 items"):
        table.check()
    assert table.rows([9])[0, 5:].isnan().all()
    table.fill = torch.arange(8.0)
    assert table.rows([9])[0, 5:].tolist() == [5, 6, 7]


def test_a_row_with_some_nan_is_damaged():
    image = clustered(30, 3)
    image[2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or Inf in 1 of the 30 rows read, the first 2"):
        open_features({"text": clustered(30, 5), "image": image}).check()


def test_an_item_with_nothing_is_refused():
    text, image = clustered(30, 5), clustered(30, 3)
    text[4], image[4] = np.nan, np.nan
    with pytest.raises(ValueError, match=r"1 of 30 items \(4\) have none of the parts"):
        open_features({"text": text, "image": image}).check()


def test_item_ids_join_parts_of_other_rows():
    text = open_features(clustered(3, 5), item_ids=["a", "b", "c"])
    image = open_features(clustered(2, 3), item_ids=["d", "b"])
    table = open_features({"text": text, "image": image})
    assert list(table.item_ids) == ["a", "b", "c", "d"]
    rows = table.rows(slice(None))
    assert torch.equal(rows[1], torch.cat([text.rows([1])[0], image.rows([1])[0]]))
    assert rows[[0, 2], 5:].isnan().all() and rows[3, :5].isnan().all()
    assert torch.equal(rows[3, 5:], image.rows([0])[0])


def test_other_numbers_of_rows_without_item_ids_are_refused():
    with pytest.raises(ValueError, match="the parts have 3 rows .*, 2 rows .*or item IDs in each file"):
        open_features({"text": clustered(3, 5), "image": clustered(2, 3)})


@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_each_part_gets_its_share_of_the_variance(weights):
    features = torch.cat([1000 * clustered(300, 8), 0.01 * clustered(300, 4, seed=1)], dim=1)
    features[::3, 8:] = np.nan
    model = RqVae(12, **{**MODEL, "hidden_dim": [16], "num_embeddings": 16}, latent_dim=8, parts=[8, 4])
    initialize(model, features, weights=weights)
    inputs = model.standardized(features)
    text, image = inputs[:, :8].var(dim=0).sum(), inputs[torch.arange(300) % 3 > 0, 8:].var(dim=0).sum()
    assert image / text == pytest.approx(3 if weights else 1, rel=0.05)
    assert (inputs[::3, 8:] == 0).all() and model.missing(inputs)[::3, 8:].all()
    assert model.missing(inputs).sum() == 400
    filled = torch.where(features.isnan(), model.feature_mean, features)
    assert torch.equal(model.eval().generate_semantic_ids(filled), model.generate_semantic_ids(features))


def test_what_is_missing_adds_no_loss():
    features = clustered(60, 12)
    features[:, 8:] = np.nan
    model = RqVae(12, 16, 8, 8, standardize=True, robust=True, parts=[8, 4])
    with torch.no_grad():
        recon = model._losses(features)[0]
        said = model.decoder(model.quantizer(model.encode(features)).quantized)
    torch.testing.assert_close(recon, (said[:, :8] - features[:, :8]).square().sum() / (60 * 12))


def test_from_the_command_line_to_ids(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = 50 * clustered(200, 6, seed=1).numpy()
    image[::4] = np.nan
    np.save("text.npy", clustered(200).numpy())
    np.save("image.npy", image)
    small = ["--num-embeddings", "32", "--hidden-dim", "16", "--epochs", "3"]
    assert train.main(["--data", "text.npy", "image.npy", *small]) == 0
    out, err = capsys.readouterr()
    errors = [float(re.search(rf"error of {name}: ([\d.]+)", out)[1]) for name in ("text.npy", "image.npy")]
    assert max(errors) < 0.6 and "image.npy is missing for 50 of 200 items" in err
    whole = float(re.search(r"reconstruction error: ([\d.]+)", out)[1])          # each part with its share, what is missing with none
    assert min(errors) - 0.01 <= whole <= max(errors) + 0.01
    assert infer.main(["--ckpt", "--output", "ids.npy", "--report"]) == 0
    assert np.load("ids.npy").shape == (200, 3)
    said = capsys.readouterr().out
    assert all(re.search(rf"error of {name} +[\d.]+\n", said) for name in ("text.npy", "image.npy"))
    assert train.main(["--data", "text.npy", "image.npy", "--weights", "1", "--overwrite", *small]) == 2
    assert "numbers above 0, one for each file of --data, of which there are 2" in capsys.readouterr().err
    assert infer.main(["--ckpt", "--data", "image.npy", "text.npy", "--output", "other.npy"]) == 2
    assert "give --data text.npy image.npy" in capsys.readouterr().err
    np.save("elsewhere.npy", clustered(200).numpy())
    assert infer.main(["--ckpt", "--data", "image.npy", "elsewhere.npy", "--output", "other.npy"]) == 2
    assert "name the same, in the same order" in capsys.readouterr().err
