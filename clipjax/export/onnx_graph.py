"""CLIP's towers and our heads as nodes of an ONNX graph, by `onnx.helper` alone.

Written by hand as the graphs are small, and converters of JAX programs pin versions of jax's
neighbours that are not ours. The layers are those of `clipjax.model`; weights are float32.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clipjax.model.clip import TextConfig, VisionConfig
from clipjax.model.heads import Heads
from clipjax.model.transformer import TowerConfig

PyTree = Any
OPSET, IR = 18, 10  # ReduceL2 takes its axes as an input since 18; onnxruntime 1.17 reads both
_HIDDEN = -1e30  # added to scores of tokens that come later


class Graph:
    """Nodes and weights of a graph in the making; values go by name."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; return the output's name."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant array; return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """Add a constant int64 vector."""
        return self.weight(values, np.int64)

    def affine(self, x: str, layer: PyTree) -> str:
        """Apply x kernel + bias to the last axis; of several members to each."""
        kernel, bias = np.asarray(layer["kernel"]), layer.get("bias")
        y = self.op("MatMul", x, self.weight(kernel))
        if bias is None:
            return y
        return self.op("Add", y, self.weight(np.asarray(bias)[..., None, :]))

    def norm(self, x: str, layer: PyTree, eps: float) -> str:
        """Apply layer norm to the last axis."""
        scale, bias = self.weight(layer["scale"]), self.weight(layer["bias"])
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def scaled(self, x: str, factor: float) -> str:
        """Multiply by a number."""
        return self.op("Mul", x, self.weight(factor))

    def activation(self, x: str, kind: str) -> str:
        """Apply an activation of `clipjax.model.transformer.ACTIVATIONS`."""
        if kind == "relu":
            return self.op("Relu", x)
        if kind in ("quick_gelu", "silu", "swish"):
            inner = self.scaled(x, 1.702) if kind == "quick_gelu" else x
            return self.op("Mul", x, self.op("Sigmoid", inner))
        if kind == "gelu":
            inner = self.op("Erf", self.scaled(x, 0.5**0.5))
        else:  # gelu_new, gelu_pytorch_tanh
            cubed = self.scaled(self.op("Mul", x, self.op("Mul", x, x)), 0.044715)
            inner = self.op("Tanh", self.scaled(self.op("Add", x, cubed), (2 / np.pi) ** 0.5))
        return self.scaled(self.op("Mul", x, self.op("Add", inner, self.weight(1.0))), 0.5)

    def unit(self, x: str) -> str:
        """Scale rows to length 1."""
        length = self.op("ReduceL2", x, self.ints(-1), keepdims=1)
        return self.op("Div", x, self.op("Max", length, self.weight(1e-12)))

    def attention(self, x: str, layer: PyTree, config: TowerConfig, mask: str) -> str:
        """Add multi-head self-attention of [B, T, D]; `mask` [T, T] is added to scores, or ""."""
        heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        split = self.ints(0, 0, heads, width)

        def part(name: str, order: tuple[int, ...]) -> str:
            y = self.op("Reshape", self.affine(x, layer[name]), split)
            return self.op("Transpose", y, perm=order)

        q = self.scaled(part("q_proj", (0, 2, 1, 3)), width**-0.5)
        scores = self.op("MatMul", q, part("k_proj", (0, 2, 3, 1)))
        scores = self.op("Add", scores, mask) if mask else scores
        y = self.op("Softmax", scores, axis=-1)
        y = self.op("MatMul", y, part("v_proj", (0, 2, 1, 3)))
        y = self.op("Transpose", y, perm=(0, 2, 1, 3))
        y = self.op("Reshape", y, self.ints(0, 0, config.hidden_size))
        return self.affine(y, layer["out_proj"])

    def blocks(self, x: str, tower: PyTree, config: TowerConfig, mask: str = "") -> str:
        """Apply the blocks of a tower to [B, T, D]."""
        for i in range(config.num_hidden_layers):
            layer = tower[f"block_{i}"]
            y = self.norm(x, layer["layer_norm1"], config.layer_norm_eps)
            x = self.op("Add", x, self.attention(y, layer["self_attn"], config, mask))
            y = self.norm(x, layer["layer_norm2"], config.layer_norm_eps)
            y = self.activation(self.affine(y, layer["fc1"]), config.hidden_act)
            x = self.op("Add", x, self.affine(y, layer["fc2"]))
        return x

    def image(self, pixels: str, params: PyTree, config: VisionConfig) -> str:
        """Embed float images [B, C, S, S] at length 1, [B, P]."""
        tower, width, patch = params["vision"], config.hidden_size, config.patch_size
        kernel = np.asarray(tower["patch_embedding"], np.float32)
        kernel = kernel.reshape(patch, patch, config.num_channels, width).transpose(3, 2, 0, 1)
        x = self.op("Conv", pixels, self.weight(kernel), strides=(patch, patch))
        x = self.op("Reshape", x, self.ints(0, width, -1))
        x = self.op("Transpose", x, perm=(0, 2, 1))
        count = self.op("Shape", pixels, start=0, end=1)
        shape = self.op("Concat", count, self.ints(1, width), axis=0)
        first = self.op("Expand", self.weight(tower["class_embedding"]), shape)
        x = self.op("Concat", first, x, axis=1)
        x = self.op("Add", x, self.weight(tower["position_embedding"]))
        x = self.norm(x, tower["pre_layernorm"], config.layer_norm_eps)
        x = self.blocks(x, tower, config)
        x = self.op("Gather", x, self.weight(0, np.int64), axis=1)
        x = self.norm(x, tower["post_layernorm"], config.layer_norm_eps)
        return self.unit(self.affine(x, {"kernel": params["visual_projection"]["kernel"]}))

    def text(self, ids: str, params: PyTree, config: TextConfig) -> str:
        """Embed token ids int64 [B, T] at length 1, [B, P]; any T up to the tower's."""
        tower, most = params["text"], config.max_position_embeddings
        zero, length = self.ints(0), self.op("Shape", ids, start=1, end=2)
        positions = self.weight(tower["position_embedding"])
        x = self.op("Gather", self.weight(tower["token_embedding"]), ids, axis=0)
        x = self.op("Add", x, self.op("Slice", positions, zero, length, self.ints(0)))
        later = self.weight(np.triu(np.full((most, most), _HIDDEN), k=1))
        both = self.op("Concat", length, length, axis=0)
        mask = self.op("Slice", later, self.ints(0, 0), both, self.ints(0, 1))
        x = self.blocks(x, tower, config, mask)
        found = ids
        if config.eos_token_id != 2:  # see `clipjax.model.clip.pool_positions`
            found = self.op("Equal", ids, self.weight(config.eos_token_id, np.int64))
            found = self.op("Cast", found, to=TensorProto.INT32)
        end = self.op("ArgMax", found, axis=1, keepdims=1)
        x = self.op("GatherND", x, end, batch_dims=1)
        x = self.norm(x, tower["final_layer_norm"], config.layer_norm_eps)
        return self.unit(self.affine(x, {"kernel": params["text_projection"]["kernel"]}))

    def probabilities(self, x: str, heads: Heads, params: PyTree) -> str:
        """Classify embeddings [B, P], [B, K]; of an ensemble the mean over its members."""
        if heads.adapter is not None:
            x = self.op("Relu", self.mlp(x, params["adapter"], len(heads.adapter) - 1))
        y = self.mlp(x, params["classifier"], len(heads.classifier))
        y = self.op("Softmax", y, axis=-1)
        return y if heads.members == 1 else self.op("ReduceMean", y, self.ints(0), keepdims=0)

    def mlp(self, x: str, layers: PyTree, hidden: int) -> str:
        """Apply dense layers with ReLU between them."""
        for i in range(hidden):
            x = self.op("Relu", self.affine(x, layers[f"layer_{i}"]))
        return self.affine(x, layers[f"layer_{hidden}"])

    def named(self, value: str, name: str) -> str:
        """Give an output its name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        return name

    def model(self, inputs: dict, outputs: dict, about: dict[str, str]) -> onnx.ModelProto:
        """Return the model; inputs map names to (type, shape), outputs to shapes of floats."""
        graph = helper.make_graph(
            self.nodes,
            "clipjax",
            [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self.weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR, producer_name="clipjax"
        )
        helper.set_model_props(made, about)
        return made
