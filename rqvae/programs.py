"""A trained tokenizer -> a program that gives the codes of features without rqvae: ONNX, or one of torch.export.

Shapes:  B rows   D feature width   E latent width   K codes   L levels
"""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import __version__, functional
from .inference import evaluating
from .storage.files import write_atomically
from .storage.words import spelled

SUFFIXES = (".onnx", ".pt2")
_OPSET, _IR_VERSION = 18, 8             # of 2022: what runs models reads them


def check_program(path) -> Path:
    """Refuse, before there is anything to write, what `export_program` would refuse.

    Raises:
        ValueError: another suffix.
        ImportError: .onnx without the package onnx.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; a tokenizer is exported as .onnx, or for torch "
                         "as .pt2")
    if path.suffix == ".onnx":
        _onnx()
    return path


@spelled
def export_program(model, path) -> None:
    """Write a model's way from features to codes, with scale, norm and codebooks inside.

    Its input is `features`, float32 (B, D) of any B, its output `semantic_ids`, int64 (B, L), or (B,) for
    one level, as of `generate_semantic_ids`; what makes IDs unique afterwards is in no program.

    - .onnx: for ONNX Runtime and the like, opset 18. About one row in 100,000 stands so exactly between
      two codes, nearer than float32 can tell, that another order of summing, there as on another machine,
      gives it the other one.
    - .pt2: `torch.export.load(path).module()(features)`, in any process that has torch.

    Args:
        model: an `RqVae`.
        path: the file; replaced if it exists.

    Raises:
        ValueError, ImportError: as `check_program`.
        RuntimeError: the ONNX program gives other codes than the model, which it must have been changed for.
    """
    path = check_program(path)
    content = _onnx_program(model) if path.suffix == ".onnx" else _torch_program(model)
    write_atomically(path, lambda file: file.write(content))


class _Tokenizer(nn.Module):
    """`generate_semantic_ids` as the forward of a module, which is what torch exports."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.copy(model)
        self.model._modules = {name: part for name, part in model._modules.items() if name != "decoder"}
        self.exact = [functional.crowded(codebook) for codebook in model.quantizer.codebooks]

    def forward(self, features):
        if not any(self.exact):
            return self.model.generate_semantic_ids(features)
        residual, codes = self.model.encode(features), []
        for codebook, exact in zip(self.model.quantizer.codebooks, self.exact):
            codes.append(functional.nearest_codes(residual, codebook, exact=exact))
            residual = residual - codebook[codes[-1]]
        return codes[0] if len(codes) == 1 else torch.stack(codes, dim=1)


def _torch_program(model) -> bytes:
    device = model.quantizer.codebooks[0].device
    with evaluating(model):
        program = torch.export.export(_Tokenizer(model), (torch.zeros(2, model.input_dim, device=device),),
                                      dynamic_shapes=({0: torch.export.Dim("rows", min=1)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)          # paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


class _Graph:
    """ONNX nodes and constants in the order in which they are added; names are numbered."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.constants = onnx, [], []

    def constant(self, value, dtype=np.float32) -> str:
        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def add(self, kind, *inputs, name=None, **attributes) -> str:
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def _onnx_program(model) -> bytes:
    onnx = _onnx()
    graph = _Graph(onnx)
    _add_codes(graph, _add_latents(graph, "features", model), model.quantizer.codebooks)
    make, levels = onnx.helper, len(model.quantizer.codebooks)
    program = make.make_model(
        make.make_graph(
            graph.nodes, "semantic_ids",
            [make.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["rows", model.input_dim])],
            [make.make_tensor_value_info("semantic_ids", onnx.TensorProto.INT64, ["rows", levels][:1 + (levels > 1)])],
            graph.constants),
        opset_imports=[make.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="rqvae",
        producer_version=__version__)
    make.set_model_props(program, {"model_type": "rqvae", "hyper_parameters": json.dumps(model.hyper_parameters)})
    _compare(onnx, program, model)
    return program.SerializeToString()


def _add_latents(graph, features, model) -> str:
    """What `RqVae.encode` does."""
    if model.standardize:
        features = graph.add("Div", graph.add("Sub", features, graph.constant(model.feature_mean)),
                             graph.constant(model.feature_scale))
    if model.parts:
        features = graph.add("Div", features, graph.constant(model.part_scale))
        features = graph.add("Where", graph.add("IsNaN", features), graph.constant(0.0), features)
    if model.robust:
        features = _drawn_in(graph, graph.add("Div", features, graph.constant(model.column_scale)), model.reach)
    latents = features
    for layer in model.encoder.layers:
        if isinstance(layer, nn.Linear):
            latents = graph.add("Gemm", latents, graph.constant(layer.weight), graph.constant(layer.bias), transB=1)
        else:
            latents = _ACTIVATIONS[type(layer)](graph, latents)
    if model.encoder.linear is not None:
        linear = graph.constant(model.encoder.linear.weight.T)
        latents = graph.add("Add", latents, graph.add("MatMul", features, linear))
    if model.latent_norm and model.robust:
        axis = graph.constant([1], np.int64)
        latents = graph.add("Sub", latents, graph.add("ReduceMean", latents, axis))
        variance = graph.add("ReduceMean", graph.add("Mul", latents, latents), axis)            # (B, 1)
        towards = graph.add("Mul", graph.add("Sub", graph.constant(model.latent_variance), variance),
                            graph.constant(model.latent_share))
        variance = graph.add("Add", graph.add("Add", variance, towards), graph.constant(1e-5))
        latents = graph.add("Div", latents, graph.add("Sqrt", variance))
    elif model.latent_norm:
        width = model.quantizer.embedding_dim
        ones, zeros = graph.constant(np.ones(width)), graph.constant(np.zeros(width))
        latents = graph.add("LayerNormalization", latents, ones, zeros)
    return latents


def _drawn_in(graph, x, reach) -> str:
    """What `functional.draw_in` does."""
    axis, one = graph.constant([1], np.int64), graph.constant(1.0)
    largest = graph.add("Max", graph.add("ReduceMax", graph.add("Abs", x), axis),
                        graph.constant(torch.finfo(torch.float32).tiny))
    lengths = graph.add("Mul", graph.add("ReduceL2", graph.add("Div", x, largest), axis), largest)      # (B, 1)
    excess = graph.add("Max", graph.add("Div", lengths, graph.constant(reach)), one)
    nearer = graph.add("Mul", graph.add("Div", x, excess), graph.add("Add", one, graph.add("Log", excess)))
    return graph.add("Where", graph.add("Greater", excess, one), nearer, x)


def _add_codes(graph, residual, codebooks) -> str:
    """What the quantizer's `encode` does."""
    axis, columns = graph.constant([1], np.int64), []
    for level, codebook in enumerate(codebooks):
        vectors = codebook.detach()
        distances = (_exact_distances if functional.crowded(vectors) else _expanded_distances)(graph, residual, vectors)
        columns.append(graph.add("ArgMin", distances, axis=1, keepdims=1))                  # (B, 1)
        if level + 1 < len(codebooks):
            code = graph.add("Squeeze", columns[-1], axis)
            residual = graph.add("Sub", residual, graph.add("Gather", graph.constant(codebook), code))
    if len(columns) == 1:
        return graph.add("Squeeze", columns[0], axis, name="semantic_ids")
    return graph.add("Concat", *columns, axis=1, name="semantic_ids")


def _expanded_distances(graph, rows, vectors) -> str:
    """(B, K): |c|^2 - 2 zc orders codes as |z - c| does, and needs one product."""
    offset = functional.harmful_offset(vectors)
    if offset is not None:
        vectors, rows = vectors - offset, graph.add("Sub", rows, graph.constant(offset))
    return graph.add("Gemm", rows, graph.constant(vectors), graph.constant(vectors.double().square().sum(1)),
                     alpha=-2.0, transB=1)


def _exact_distances(graph, rows, vectors) -> str:
    """(B, K): |z - c|^2, a number of the vectors at a time, so that no more is held than the distances."""
    make, kind = graph.onnx.helper, graph.onnx.TensorProto.FLOAT
    body = make.make_graph(
        [make.make_node("Unsqueeze", ["z", "last"], ["column"]), make.make_node("Sub", ["column", "c"], ["apart"]),
         make.make_node("Mul", ["apart", "apart"], ["square"]), make.make_node("Add", ["so_far", "square"], ["sum"])],
        "distance", [make.make_tensor_value_info("so_far", kind, ["rows", len(vectors)]),
                     make.make_tensor_value_info("z", kind, ["rows"]),
                     make.make_tensor_value_info("c", kind, [len(vectors)])],
        [make.make_tensor_value_info("sum", kind, ["rows", len(vectors)])],
        [graph.onnx.numpy_helper.from_array(np.array([1], np.int64), "last")])
    nothing = graph.add("Mul", graph.add("Slice", rows, *(graph.constant([number], np.int64) for number in (0, 1, 1))),
                        graph.constant(np.zeros((1, len(vectors)))))                        # (B, K)
    return graph.add("Scan", nothing, graph.add("Transpose", rows, perm=[1, 0]), graph.constant(vectors.T), body=body,
                     num_scan_inputs=2)


def _gelu(graph, x):
    erf = graph.add("Erf", graph.add("Mul", x, graph.constant(0.5 ** 0.5)))
    return graph.add("Mul", graph.add("Mul", x, graph.constant(0.5)), graph.add("Add", erf, graph.constant(1.0)))


_ACTIVATIONS = {nn.ReLU: lambda graph, x: graph.add("Relu", x), nn.GELU: _gelu,
                nn.SiLU: lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x))}


def _compare(onnx, program, model):
    """Run the program on a few rows by onnx's own slow reference, and hold its codes against the model's."""
    from onnx.reference import ReferenceEvaluator
    onnx.checker.check_model(program, full_check=True)
    rows = torch.randn(64, model.input_dim, generator=torch.Generator().manual_seed(0))
    if model.standardize:
        rows[32:] *= 30
        rows = rows * model.feature_scale.cpu() + model.feature_mean.cpu()
    found, = ReferenceEvaluator(program).run(None, {"features": rows.numpy()})
    found, rows = torch.from_numpy(found), rows.to(model.quantizer.codebooks[0].device)
    with evaluating(model):
        wanted = model.generate_semantic_ids(rows)
        latents, far = model.encode(rows), []
        for codes in (found.to(wanted.device), wanted):
            far.append((model.quantizer.decode(codes) - latents).norm(dim=1))
    # A row may stand between two codes, and where there are few items, all codes are copies of a few: as near will do.
    equal = int((far[0] <= far[1] + 1e-3 * latents.norm(dim=1)).sum())
    if equal < len(rows) - 2:
        raise RuntimeError(f"the ONNX program gives the model's codes for {equal} of {len(rows)} rows; it is made for "
                           "RqVae as it is here: export a changed one as .pt2")


def _onnx():
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ImportError("an .onnx file is written with the package onnx: pip install onnx, or export as .pt2, which "
                          "needs nothing more") from None
    return onnx
