"""Answers to exercise 4.2.5, folding a norm into the layer that follows."""

import copy
import functools

import torch
from torch import nn
from torch.nn import functional as F

RIGHT, WRONG = {}, {}


def fold(weight, bias):
    """A folding by the formulas weight(W, scale, shift) and bias(W, b, scale, shift)."""

    def function(norm, linear):
        new = nn.Linear(linear.in_features, linear.out_features)
        with torch.no_grad():
            new.weight.copy_(weight(linear.weight, norm.scale, norm.shift))
            new.bias.copy_(bias(linear.weight, linear.bias, norm.scale, norm.shift))
        return new

    return function


def good_weight(W, scale, shift):
    return W * scale


def good_bias(W, b, scale, shift):
    return b + W @ shift


def fold_in_place(norm, linear):
    with torch.no_grad():
        linear.bias += linear.weight @ norm.shift
        linear.weight *= norm.scale
    return linear


def fold_by_basis(norm, linear):
    """The new layer is found by sending zero and each basis vector through scale, shift and layer."""
    D = linear.in_features
    with torch.no_grad():
        new = nn.Linear(D, linear.out_features)
        new.bias.copy_(linear(norm.shift))
        new.weight.copy_((linear(torch.eye(D) * norm.scale + norm.shift) - new.bias).T)
    return new


def fold_without_bias(norm, linear):
    new = nn.Linear(linear.in_features, linear.out_features, bias=False)
    new.weight = nn.Parameter(linear.weight * norm.scale)
    return new


def fold_turned(norm, linear):
    new = nn.Linear(linear.out_features, linear.in_features)
    with torch.no_grad():
        new.weight.copy_(linear.weight * norm.scale)
        new.bias.copy_(linear(norm.shift))
    return new


def fold_replaced(norm, linear):
    linear.bias = nn.Parameter(linear.bias + linear.weight @ norm.shift)
    linear.weight = nn.Parameter(linear.weight * norm.scale)
    return linear


class Folder:
    """A callable object that copies the layer and gives it other tensors."""

    def __call__(self, norm, linear, *, device=None):
        new = copy.deepcopy(linear).to(device)
        new.weight.data *= norm.scale.data
        new.bias.data = linear.weight.data @ norm.shift.data + linear.bias.data
        return new


def fold_by_parameters(layer_norm: nn.Module, layer: nn.Linear) -> nn.Linear:
    folded = nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device)
    folded.weight = nn.Parameter((layer.weight @ torch.diag(layer_norm.scale)).detach())
    folded.bias = nn.Parameter(layer(layer_norm.shift).detach())
    return folded


@torch.inference_mode()
def fold_by_state(norm, linear):
    new = nn.Linear(*linear.weight.shape[::-1])
    new.load_state_dict(
        {
            "weight": torch.einsum("oi,i->oi", linear.weight, norm.scale),
            "bias": F.linear(norm.shift, linear.weight, linear.bias),
        }
    )
    return new


RIGHT["fold_norm"] = [
    fold(good_weight, good_bias),
    fold_by_basis,
    fold_by_parameters,
    fold_by_state,
    Folder(),
    functools.partial(Folder(), device="cpu"),
]
WRONG["fold_norm"] = [
    (fold_in_place, "It changes the norm or the layer"),
    (lambda norm, linear: linear.weight * norm.scale, "it should return an nn.Linear"),
    (lambda norm, linear: nn.Sequential(norm, linear), "It returns a Sequential"),
    (lambda norm, linear: linear, "The weight is unchanged"),
    (fold(lambda W, scale, shift: W, good_bias), "the scale is lost"),
    (fold(lambda W, scale, shift: W * scale[:, None], good_bias), "multiplies the rows"),
    (fold(lambda W, scale, shift: W / scale, good_bias), "divided by the scale"),
    (fold(lambda W, scale, shift: W * shift, good_bias), "The shift multiplies the weight"),
    (fold_without_bias, "has no bias, so the shift is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b), "the shift is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b + shift), "send it through the weight first"),
    (fold(good_weight, lambda W, b, scale, shift: W @ shift), "The old bias is lost"),
    (fold(good_weight, lambda W, b, scale, shift: b + (W * scale) @ shift), "goes through the new weight"),
    (fold(good_weight, lambda W, b, scale, shift: b + W.T @ shift), "the transposed weight"),
    (fold(good_weight, lambda W, b, scale, shift: b - W @ shift), "What the shift adds is subtracted"),
    (fold(good_weight, lambda W, b, scale, shift: b * scale + W @ shift), "multiplied by the scale"),
    (fold_turned, "must match the size"),
    (fold_replaced, "It changes the norm or the layer"),
]
