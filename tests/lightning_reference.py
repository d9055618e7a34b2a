"""The documented model as a LightningModule, and a quiet Trainer: what rqvae is held against.

Written from the API reference alone, and importing nothing of rqvae, so that agreement means
something.
Importable only where pytorch_lightning is: `pytest.importorskip("pytorch_lightning")` comes first.

Shapes:  B rows in a batch   D feature width   E latent width   K codes
"""

import logging
import tempfile
import warnings

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


def three_layers(width_in, hidden, width_out):
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width_out))


class Encoder(nn.Module):
    def __init__(self, input_dim, hidden_dim, latent_dim):
        super().__init__()
        self.layers = three_layers(input_dim, hidden_dim, latent_dim)

    def forward(self, features):
        return self.layers(features)


class Decoder(nn.Module):
    def __init__(self, latent_dim, hidden_dim, output_dim):
        super().__init__()
        self.layers = three_layers(latent_dim, hidden_dim, output_dim)

    def forward(self, latents):
        return self.layers(latents)


class VectorQuantizer(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, commitment_cost=0.25):
        super().__init__()
        self.num_embeddings = num_embeddings
        self.commitment_cost = commitment_cost
        self.embeddings = nn.Embedding(num_embeddings, embedding_dim)

    def forward(self, inputs):
        codes = torch.cdist(inputs, self.embeddings.weight).argmin(dim=1)       # (B,)
        quantized = self.embeddings(codes)                                      # (B, E)
        commitment_loss = self.commitment_cost * F.mse_loss(quantized.detach(), inputs)
        embedding_loss = F.mse_loss(quantized, inputs.detach())
        quantized = inputs + (quantized - inputs).detach()
        return quantized, commitment_loss, embedding_loss, codes


class RqVae(pl.LightningModule):
    def __init__(self, input_dim=768, hidden_dim=512, latent_dim=256, num_embeddings=1024,
                 commitment_cost=0.25, learning_rate=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.encoder = Encoder(input_dim, hidden_dim, latent_dim)
        self.quantizer = VectorQuantizer(num_embeddings, latent_dim, commitment_cost)
        self.decoder = Decoder(latent_dim, hidden_dim, input_dim)

    def forward(self, features):
        quantized, commitment_loss, embedding_loss, codes = self.quantizer(self.encoder(features))
        return self.decoder(quantized), commitment_loss, embedding_loss, codes

    def losses(self, batch):
        features = batch["features"]
        reconstructed, commitment_loss, embedding_loss, _ = self(features)
        recon_loss = F.mse_loss(reconstructed, features)
        total_loss = recon_loss + commitment_loss + embedding_loss
        return total_loss, recon_loss, commitment_loss, embedding_loss

    def training_step(self, batch, batch_idx):
        total_loss, recon_loss, commitment_loss, embedding_loss = self.losses(batch)
        self.log("train_loss", total_loss)
        self.log("train_recon_loss", recon_loss)
        self.log("train_commitment_loss", commitment_loss)
        self.log("train_embedding_loss", embedding_loss)
        return total_loss

    def validation_step(self, batch, batch_idx):
        total_loss, recon_loss, _, _ = self.losses(batch)
        self.log("val_loss", total_loss)
        self.log("val_recon_loss", recon_loss)
        return total_loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min", factor=0.5, patience=5)
        return {"optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class History(pl.Callback):
    """One dict per epoch: `lr` is the rate it ran with, `next_lr` what the plateau step left."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append({
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: float(value) for name, value in trainer.callback_metrics.items()},
        })

    def on_train_epoch_start(self, trainer, module):
        if self.epochs:
            self.epochs[-1]["next_lr"] = trainer.optimizers[0].param_groups[0]["lr"]

    on_train_end = on_train_epoch_start


def clustered_items(*counts, width=12, seed=1):
    """One (count, width) table per count: noise around six common centres, so that codes differ."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(6, width, generator=generator)
    return [centres[torch.randint(6, (count,), generator=generator)]
            + 0.5 * torch.randn(count, width, generator=generator) for count in counts]


def loader(features, batch_size, *, shuffle_seed=None):
    """A plain DataLoader of documented batches; `shuffle_seed` is for a generator of its own."""
    shuffled = shuffle_seed is not None
    generator = torch.Generator().manual_seed(shuffle_seed) if shuffled else None
    return DataLoader([{"features": row} for row in features], batch_size, shuffle=shuffled,
                      generator=generator)


def run_lightning(model, train_loader, val_loader, max_epochs, ckpt_path=None, dirpath=None,
                  callbacks=()):
    """`Trainer.fit` on CPU, silent -> (module, trainer, history: one dict per epoch it ran).

    With `dirpath` every epoch is saved there as `epoch=<index>.ckpt`. No sanity check: it would
    draw from the global generator before the first batch.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    history = History()
    saving = [] if dirpath is None else [
        pl.callbacks.ModelCheckpoint(dirpath=dirpath, filename="{epoch}", save_top_k=-1)]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=max_epochs, accelerator="cpu", devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            enable_checkpointing=bool(saving), callbacks=[history, *saving, *callbacks],
            default_root_dir=dirpath or scratch)
        trainer.fit(model, train_loader, val_loader, ckpt_path=ckpt_path)
    return model, trainer, history.epochs
