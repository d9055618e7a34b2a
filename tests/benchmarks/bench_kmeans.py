"""Initialisation: our k-means against scikit-learn's and faiss's, on the sample that it takes."""

import warnings

from pairs import heading, interleave, line, missing, parse, row

import torch

from rqvae.functional import nearest_codes
from rqvae.recipe.clustering import kmeans
from rqvae.recipe.initialization import ROWS_PER_CODE


def inertia(x, centroids):
    """Summed squared distance of the rows to their nearest centroid."""
    return (x - centroids[nearest_codes(x, centroids)]).double().square().sum().item()


def scikit_learn(x, codes, iterations):
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return None
    warnings.simplefilter("ignore")         # that it has not converged, which nobody asked for
    rows = x.numpy()
    finder = KMeans(codes, n_init=1, max_iter=iterations, tol=0, random_state=0)
    return lambda: torch.from_numpy(finder.fit(rows).cluster_centers_)


def faiss(x, codes, iterations):
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)

    def run():
        trainer = faiss.Kmeans(x.shape[1], codes, niter=iterations, seed=0,
                               min_points_per_centroid=1, max_points_per_centroid=len(x))
        trainer.train(x.numpy())
        return torch.from_numpy(trainer.centroids)

    return run


def measure(codes, width, arguments, rows=None):
    generator = torch.Generator().manual_seed(0)
    rows = rows or ROWS_PER_CODE * codes
    centres = torch.randn(codes // 2, width, generator=generator)
    x = centres[torch.randint(len(centres), (rows,), generator=generator)]
    x = x + torch.randn(rows, width, generator=generator)
    ours, iterations = x.to(arguments.device), arguments.iterations
    works = {"ours": lambda: kmeans(ours, codes, iterations=iterations,
                                    generator=generator.manual_seed(0))}
    peers = {"scikit-learn": scikit_learn(x, codes, iterations),
             "faiss": faiss(x, codes, iterations)}
    works.update({name: work for name, work in peers.items() if work})
    seconds = interleave(works, arguments.pairs, arguments.device)
    found = {name: inertia(x, work().cpu()) for name, work in works.items()}
    shape = f"{rows:,} x {width}, K={codes}, {iterations} iterations"
    for name, package, target in (("scikit-learn", "scikit-learn", "<= 1.2"),
                                  ("faiss", "faiss-cpu", "")):
        if name not in works:
            missing(f"ours over {name}, {shape}", package, target)
            continue
        row(f"ours over {name}, {shape}", seconds, "ours", name, target=target, inverted=True)
        line("    inertia, ours over theirs", f"{found['ours']:.5g}", f"{found[name]:.5g}",
             f"{found['ours'] / found[name]:.3f}", target and "<= 1.00")


if __name__ == "__main__":
    arguments = parse(__doc__, iterations=10)
    heading("k-means, from seeds to centroids")
    measure(1024, 256, arguments)
    measure(256, 32, arguments)
    measure(8192, 64, arguments, rows=100_000)
