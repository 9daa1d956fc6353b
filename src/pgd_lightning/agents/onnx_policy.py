"""The acting policy of one learner as an ONNX graph: normalisation of observations, affine layers, ReLU, tanh.

The graph is written node by node: torch's exporters need more packages, or are deprecated, for the same few nodes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pgd_lightning.agents.agent import Agent
from pgd_lightning.environment import ActionBox
from pgd_lightning.errors import UserError
from pgd_lightning.networks.actors import DeterministicActor, GaussianActor

INPUT, OUTPUT, BATCH = "observation", "action", "batch"
OPSET = 17  # of ONNX 1.12 and later


def onnx_policy(agent: Agent, learner: int, box: ActionBox | None = None) -> bytes:
    """The model file of the policy of learner number ``learner``: ``observation [batch, O] -> action [batch, A]``.

    float32, what ``Policy.act`` returns (the mean of a Gaussian policy), in the environment's ``box`` if it is not
    [-1, 1]. Raises UserError for an
    actor that is not a perceptron and where the package ``onnx`` is missing.
    """
    actor = agent.learner.actor
    if not isinstance(actor, GaussianActor | DeterministicActor):
        raise UserError(
            f"The policy of {agent.name} samples its actions from a diffusion model, which is not exported: only "
            "policies that are a perceptron (iql, td3_bc, rebrac, bc) are."
        )
    helper, numpy_helper, checker = _onnx()
    nodes: list[Any] = []
    constants: list[Any] = []
    last = INPUT

    def apply(op: str, name: str, *tensors: Tensor, **attributes: Any) -> None:
        nonlocal last
        inputs = [last]
        for number, tensor in enumerate(tensors):
            inputs.append(f"{name}.{number}")
            constants.append(numpy_helper.from_array(tensor.detach().cpu().float().numpy(), inputs[-1]))
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        last = name

    if agent.normalise_obs:
        apply("Sub", "centred", agent.obs_shift)
        apply("Div", "normalised", agent.obs_scale)
    for number, layer in enumerate(actor.body):
        if isinstance(layer, nn.Linear):
            apply("Gemm", f"layer{number}", layer.weight[learner], layer.bias[learner], transB=1)
        elif isinstance(layer, nn.ReLU):
            apply("Relu", f"layer{number}")
        else:
            raise UserError(f"A policy with a layer {type(layer).__name__} is not exported.")
    action_dim = constants[-1].dims[0]
    apply("Tanh", OUTPUT if box is None else "squashed")
    if box is not None:
        low, high = torch.tensor(box.low), torch.tensor(box.high)
        apply("Mul", "scaled", (high - low) / 2)
        apply("Add", OUTPUT, (high + low) / 2)
    shapes = {INPUT: agent.obs_shift.shape[-1], OUTPUT: action_dim}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, 1, [BATCH, shapes[name]])]  # 1: float32
        for name in (INPUT, OUTPUT)
    )
    graph = helper.make_graph(nodes, "policy", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="pgd-lightning")
    model.ir_version = 8  # the one of that opset's time, which older runtimes read too
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _onnx() -> tuple[Any, Any, Any]:
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError as error:
        raise UserError(
            f"A policy is exported with a package that is not installed ({error}): pip install onnx"
        ) from error
    return helper, numpy_helper, checker
