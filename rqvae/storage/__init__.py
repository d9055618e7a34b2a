"""Bytes on disk: atomic writes, safe reading of torch files, the .ckpt and the model folder. Knows no model."""
