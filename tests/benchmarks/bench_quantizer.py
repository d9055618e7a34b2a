"""The quantizer alone: against vector-quantize-pytorch, one call of cdist, and faiss."""

from pairs import fresh_python, heading, interleave, line, missing, parse, row

import torch

from rqvae import VectorQuantizer
from rqvae.functional import nearest_codes

MEMORY = """
import sys
from pairs import extra_megabytes
import torch
from rqvae.functional import nearest_codes
rows, device = int(sys.argv[1]), sys.argv[2]
x, codebook = torch.zeros(rows, 256, device=device).normal_(), torch.randn(1024, 256, device=device)
nearest_codes(x[:2048], codebook)       # the libraries' own buffers
print(extra_megabytes(lambda: nearest_codes(x, codebook), device))
"""
REPEATS = 4096      # rows of a run: small batches are repeated until they are as many


def training(quantizer, inputs, loss):
    """Forward and backward of the training mode."""
    inputs = inputs.clone().requires_grad_()

    def step():
        quantizer.train()
        quantizer.zero_grad()
        inputs.grad = None
        loss(quantizer(inputs)).backward()

    return repeated(step, len(inputs))


def evaluation(quantizer, inputs):
    """Forward of the eval mode, without gradients."""
    @torch.no_grad()
    def step():
        quantizer.eval()
        quantizer(inputs)

    return repeated(step, len(inputs))


def repeated(work, rows):
    """`work`, which takes so many rows, as often as makes REPEATS."""
    def run():
        for _ in range(max(1, REPEATS // rows)):
            work()

    return run


def against_vector_quantize_pytorch(codes, width, batch_size, arguments):
    targets = {"forward and backward": ">= 3.2", "eval": ">= 1.4"}
    shape = f"K={codes}, E={width}, batch {batch_size}"
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        for mode, target in targets.items():
            missing(f"{mode}, {shape}", "vector-quantize-pytorch", target)
        return
    inputs = torch.randn(batch_size, width, device=arguments.device)
    ours = VectorQuantizer(codes, width).to(arguments.device)
    peers = {
        "EMA": VectorQuantize(dim=width, codebook_size=codes, commitment_weight=0.25),
        "gradients": VectorQuantize(dim=width, codebook_size=codes, commitment_weight=0.25,
                                    learnable_codebook=True, ema_update=False),
    }
    works = {
        "forward and backward": training(
            ours, inputs,
            lambda out: out.quantized.mean() + out.commitment_loss + out.embedding_loss),
        "eval": evaluation(ours, inputs),
    }
    for kind, peer in peers.items():        # its default, and the way that ours learns
        peer.to(arguments.device)
        works[f"forward and backward {kind}"] = training(
            peer, inputs, lambda out: out[0].mean() + out[2].sum())
        works[f"eval {kind}"] = evaluation(peer, inputs)
    codebook = ours.codebooks[0].detach()
    works["nearest"] = repeated(lambda: torch.cdist(inputs, codebook).argmin(dim=1), len(inputs))
    seconds = interleave(works, arguments.pairs, arguments.device)
    for mode, target in targets.items():
        for kind in peers:
            row(f"{mode}, {shape}, peer by {kind}", seconds, mode, f"{mode} {kind}", target=target)
            row("    the same peer over cdist and argmin alone", seconds, "nearest", f"{mode} {kind}")


def against_one_call(codes, width, target, arguments):
    x = torch.randn(65_536, width, device=arguments.device)
    codebook = torch.randn(codes, width, device=arguments.device)
    seconds = interleave({
        "chunks": lambda: nearest_codes(x, codebook),
        "one call": lambda: torch.cdist(x, codebook).argmin(dim=1),
    }, arguments.pairs, arguments.device)
    row(f"one cdist over chunks, 65,536 rows, K={codes}, E={width}", seconds, "chunks", "one call",
        target=target)


def against_faiss(codes, width, arguments):
    name = f"faiss over chunks, 65,536 rows, K={codes}, E={width}"
    try:
        import faiss
    except ImportError:
        missing(name, "faiss-cpu")
        return
    faiss.omp_set_num_threads(1)
    x, codebook = torch.randn(65_536, width), torch.randn(codes, width)
    index = faiss.IndexFlatL2(width)
    index.add(codebook.numpy())
    seconds = interleave({
        "chunks": lambda: nearest_codes(x, codebook),
        "faiss": lambda: index.search(x.numpy(), 1),
    }, arguments.pairs)
    row(name, seconds, "chunks", "faiss")


if __name__ == "__main__":
    arguments = parse(__doc__, batch_sizes=[32, 1024], rows=1_000_000)
    torch.manual_seed(0)
    heading("The quantizer alone")
    for batch_size in arguments.batch_sizes:
        against_vector_quantize_pytorch(1024, 256, batch_size, arguments)
        against_vector_quantize_pytorch(256, 32, batch_size, arguments)
    against_one_call(1024, 256, ">= 1.3", arguments)
    against_one_call(256, 32, ">= 1.5", arguments)
    if arguments.device == "cpu":
        against_faiss(1024, 256, arguments)
        against_faiss(256, 32, arguments)
    extra = float(fresh_python(MEMORY, arguments.rows, arguments.device))
    line(f"extra memory, {arguments.rows:,} rows, the codes included", f"{extra:.0f} MB",
         target="<= 32 MB")
