"""Start-up: `import rqvae` beside `import torch`, and what encoding leaves unimported."""

import resource

from pairs import fresh_python, heading, interleave, line, parse, row

ENCODE = """
import sys, torch
from rqvae import FeatureLoader, RqVae, batch_inference
batch_inference(RqVae(), FeatureLoader(torch.randn(2000, 768), 32), "cpu")
late = "torch._dynamo", "torch._inductor"
print([name for name in late if name in sys.modules] or "none")
"""


def child(program):
    """A work that times itself: the CPU time, user and system, of a fresh interpreter."""
    def run():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        fresh_python(program)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return run


if __name__ == "__main__":
    arguments = parse(__doc__)
    heading("Start-up")
    seconds = interleave({"rqvae": child("import rqvae"), "torch": child("import torch")},
                         arguments.pairs)
    row("import rqvae over import torch", seconds, "rqvae", "torch",
        target="<= 1.05", inverted=True)
    line("compiler modules that encoding imports", value=fresh_python(ENCODE), target="none")
