"""Optimization, the same in all three stages: the optimizer step, the learning rate, the moving average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models_lab import PretrainedUNet
from utils import run
from utils.collectives import all_reduce

ENCODER_RATE = 0.2  # of the learning rate


def make_adam(module: nn.Module, learning_rate: float) -> Adam:
    """Make the paper's optimizer for all parameters of `module`: Adam with betas (0.5, 0.999), fused if possible.

    A pretrained encoder learns at ENCODER_RATE of the learning rate.
    """
    encoder = list(module.encoder.parameters()) if isinstance(module, PretrainedUNet) else []
    pretrained = set(encoder)
    groups = [{"params": [p for p in module.parameters() if p not in pretrained], "factor": 1.0}]
    groups += [{"params": encoder, "factor": ENCODER_RATE}] if encoder else []
    fused = next(module.parameters()).device.type in ("cpu", "cuda")
    return Adam(groups, lr=learning_rate, betas=(0.5, 0.999), fused=fused)


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_steps: int) -> float:
    """Give the learning rate of a step: a linear rise, a plateau, and a linear fall over the second half.

    Args:
        step: from 0.
        total_steps: of the whole run.
        peak: learning rate of the plateau.
        warmup_steps: length of the rise, at most a tenth of the run.
    """
    rise = (step + 1) / (min(warmup_steps, total_steps // 10) + 1)
    fall = 2 * (total_steps - step) / total_steps
    return peak * min(1.0, rise, fall)


def set_learning_rate(learning_rate: float, *optimizers: Optimizer) -> None:
    """Give every parameter group this learning rate, times its own factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]


def backward_and_step(loss: Tensor, optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    """Take one optimization step and give the norm of the gradient.

    The gradients are averaged over the processes, so that n processes with a batch of b step as one with n x b
    does. A GradScaler that is not enabled changes nothing.

    Args:
        loss: scalar.
        optimizer: of the parameters to change.
        scaler: of the run's float16 gradients.

    Returns:
        Scalar: the L2 norm over all parameters of the optimizer, before the step; 0 for a step that the scaler
        leaves out because float16 overflowed.
    """
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if run.world_size() > 1:
        gradients = [p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        all_reduce(flat)
        flat /= run.world_size()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    scaler.step(optimizer)
    return norm.nan_to_num(0, 0, 0) if scaler.is_enabled() else norm


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    """Move an exponential moving average of a network's weights and floating-point buffers toward the network.

    Args:
        ema: the average, of the same architecture.
        module: the network that is trained.
        step: from 0; early averages are short: the decay is at most (1 + step) / (10 + step).
        decay: in [0, 1).
    """
    average = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    averages, currents = (
        [tensor for tensor in [*network.parameters(), *network.buffers()] if tensor.is_floating_point()]
        for network in (ema, module)
    )
    average(averages, currents, None)
