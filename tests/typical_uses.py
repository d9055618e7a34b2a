"""What users write, for a type checker to read; test_package.py has it checked. It is never run."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from rqvae import (Decoder, Encoder, FeatureDataset, FeatureLoader, P5AmazonItemDataset, ResidualQuantizer, RqVae,
                   VectorQuantizer, batch_inference, evaluate_quantization, evaluate_reconstruction,
                   evaluate_semantic_ids, fit, load_semantic_ids, open_features, resolve_collisions, save_semantic_ids)

model = RqVae(input_dim=64, hidden_dim=512, latent_dim=256, num_embeddings=1024, learning_rate=1e-3)
deeper = RqVae(64, [256, 128], 32, 256, num_quantizers=3, standardize=True)
dataset = FeatureDataset("items.npy", names=["a", "b"])
loader = FeatureLoader(np.zeros((10, 64)), batch_size=4, shuffle=True, seed=1)
rows: int = fit(model, loader, max_epochs=2, checkpoint_dir=Path("run"), device=torch.device("cpu"))[0]["epoch"]
fit(model, DataLoader(dataset, batch_size=32), DataLoader(dataset), resume_from="run/last.ckpt")

codes: torch.Tensor = batch_inference(model, loader, device="auto")
out = model(torch.zeros(2, 64))
loss: torch.Tensor = out.reconstructed
error: float = evaluate_reconstruction(model, loader)["mse_loss"]
use: dict = evaluate_quantization(model, loader, "cpu")
ids: dict = evaluate_semantic_ids(model, loader, device="cpu")
again: RqVae = RqVae.load_from_checkpoint("run/best.ckpt", map_location="cpu", learning_rate=1e-4)
again.save_pretrained("folder")
other: RqVae = RqVae.from_pretrained(Path("folder"))

save_semantic_ids(codes, "ids.json", item_ids=["a", "b"], overwrite=True)
saved: np.ndarray = load_semantic_ids("ids.json").codes
unique: np.ndarray = resolve_collisions(codes, method="suffix").codes
table = open_features("items.npy", item_ids="ids.txt")
shape: tuple = table.shape
items = P5AmazonItemDataset(root="dataset/amazon", split="beauty", train_test_split="train")
parts: tuple = (Encoder(64, 512, 256), Decoder(256, [512], 64, activation="gelu"))
quantizers: tuple = (VectorQuantizer(1024, 256), ResidualQuantizer(256, 32, 3))
