#!/usr/bin/env python3
"""Stores the weights of an ONNX model in half precision; the arithmetic stays single.

The published BlazePose weights are half-precision numbers already, so nothing is lost; the largest change is printed.
Each large f32 initialiser becomes f16 and is followed by a Cast to f32, which both runtimes fold when they load.
Outputs that nobody reads, and what only they need, are dropped.

    pip install onnx numpy
    scripts/pose_to_half.py IN.onnx OUT.onnx [OUTPUT ...]
"""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def prune(graph, keep):
    outputs = [o for o in graph.output if not keep or o.name in keep]
    del graph.output[:]
    graph.output.extend(outputs)
    needed = {o.name for o in outputs}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    weights = [w for w in graph.initializer if w.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]


def halve(graph):
    weights, casts, worst = [], [], 0.0
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type == TensorProto.FLOAT and values.size >= 64:
            assert np.abs(values).max() < 65504, weight.name
            worst = max(worst, float(np.abs(values - values.astype(np.float16).astype(np.float32)).max()))
            name = weight.name + "_half"
            weights.append(numpy_helper.from_array(values.astype(np.float16), name))
            casts.append(helper.make_node("Cast", [name], [weight.name], name=name + "_cast", to=TensorProto.FLOAT))
        else:
            weights.append(weight)
    print(f"{len(casts)} tensors stored in half precision; the largest change of a weight is {worst:g}")
    nodes = casts + list(graph.node)
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.node[:]
    graph.node.extend(nodes)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model = onnx.load(sys.argv[1])
    prune(model.graph, set(sys.argv[3:]))
    halve(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, sys.argv[2])


if __name__ == "__main__":
    main()
