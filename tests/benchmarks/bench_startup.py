"""Start-up: what `import rqvae` costs beside `import torch`, and what encoding leaves unimported."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from pairs import heading, interleave, line, parse, row

ENCODE = """
import sys, torch
from rqvae import FeatureLoader, RqVae, batch_inference
batch_inference(RqVae(), FeatureLoader(torch.randn(2000, 768), 32), "cpu")
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules] or "none")
"""


def python(program) -> str:
    """What a fresh interpreter, started in the repository, prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program], env=environment, check=True, text=True,
                          capture_output=True).stdout.strip()


def child(program):
    """A work that times itself: the CPU time, user and system, of a fresh interpreter."""
    def run():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python(program)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return run


if __name__ == "__main__":
    arguments = parse(__doc__)
    heading("Start-up")
    seconds = interleave({"rqvae": child("import rqvae"), "torch": child("import torch")}, arguments.pairs)
    row("import rqvae over import torch", seconds, "rqvae", "torch", target="<= 1.05", inverted=True)
    line("compiler modules that encoding imports", value=python(ENCODE), target="none")
