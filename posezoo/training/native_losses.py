"""The spatial softmax's loss in PyTorch, one picture at a time: maps that are enlarged never leave the cache.

Maps at the input's size are most of what a small network writes; here they are made, summed, differentiated and
forgotten for each picture, and only the gradient at the maps' own size is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pixel_entropy(logits: torch.Tensor, row: torch.Tensor, column: torch.Tensor, *, enlarge: bool) -> torch.Tensor:
    """Return minus the log of each map's softmax at one pixel, `(batch, K)`.

    Args:
        logits: `(batch, height, width, K)`.
        row: Whole numbers `(batch, K)`.
        column: Whole numbers `(batch, K)`.
        enlarge: Whether the softmax is over the bilinear map of twice the size; row and column count its pixels.
    """
    return _PixelEntropy.apply(logits, row.long(), column.long(), enlarge)


def class_entropy(logits: torch.Tensor, labels: torch.Tensor, *, unknown: int) -> torch.Tensor:
    """Return the cross-entropy of the class of every pixel that has one, averaged, `(batch,)`.

    Args:
        logits: `(batch, height, width, classes)`, enlarged here to the labels' size.
        labels: Whole numbers `(batch, height, width)`.
        unknown: Label of pixels that do not count.
    """
    return _ClassEntropy.apply(logits, labels, unknown)


class _ClassEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, unknown):
        gradient = torch.empty(logits.shape, dtype=torch.float32).permute(0, 3, 1, 2)
        entropy = torch.empty(len(logits), dtype=torch.float32)
        size = tuple(labels.shape[1:])
        for i, maps in enumerate(logits.detach().permute(0, 3, 1, 2)):
            with torch.enable_grad():
                small = maps[None].to(torch.float32, memory_format=torch.contiguous_format).requires_grad_()
                fine = F.interpolate(small, size, mode="bilinear", align_corners=False)
                truth = labels[i : i + 1].long()
                count = max(int((truth != unknown).sum()), 1)
                loss = F.cross_entropy(fine, truth, ignore_index=unknown, reduction="sum") / count
                gradient[i] = torch.autograd.grad(loss, small)[0][0]
            entropy[i] = loss.detach()
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return entropy

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[:, None, None, None]).to(ctx.dtype).permute(0, 2, 3, 1), None, None


class _PixelEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, row, column, enlarge):
        batch, height, width, joints = logits.shape
        gradient = torch.empty((batch, joints, height, width), dtype=torch.float32)
        entropy = torch.empty((batch, joints), dtype=torch.float32)
        one_picture = _enlarged if enlarge else _plain
        logits = logits.detach()
        tops = logits.amax((1, 2)).float()[..., None, None]
        for i, maps in enumerate(logits.permute(0, 3, 1, 2)):
            maps = maps.to(torch.float32, memory_format=torch.contiguous_format)
            entropy[i] = one_picture(maps - tops[i], row[i], column[i], gradient[i])
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return entropy

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        scaled = (gradient * upstream[..., None, None]).to(ctx.dtype)
        return scaled.permute(0, 2, 3, 1), None, None, None


def _plain(maps, row, column, gradient):
    """Entropy `(K,)` of maps `(K, height, width)` whose largest value is 0; the gradient is written."""
    joints = torch.arange(len(maps))
    at = maps[joints, row, column]
    torch.exp(maps, out=gradient)
    total = gradient.sum((1, 2))
    gradient /= total[:, None, None]
    gradient[joints, row, column] -= 1
    return total.log() - at


def _enlarged(maps, row, column, gradient):
    """`_plain` of maps twice the size, whose four kinds of pixels are kept apart: even and odd rows and columns.

    An even pixel lies a quarter of the way towards the neighbour before it, an odd one towards the neighbour after.
    """
    fine = torch.stack([_between(each, 2) for each in _between(maps, 1)])  # (row kind, column kind, K, height, width)
    pixel = (row % 2, column % 2, torch.arange(len(maps)), row // 2, column // 2)
    at = fine[pixel]
    fine.exp_()
    total = fine.sum((0, 1, 3, 4))
    fine[pixel] -= total
    columns = torch.stack([_gathered(*each, 2) for each in fine])
    torch.div(_gathered(*columns, 1), total[:, None, None], out=gradient)
    return total.log() - at


def _between(maps, axis: int):
    """Values a quarter of a step before and after each pixel along an axis, stacked; the border's are repeated."""
    size = maps.shape[axis]
    fine = torch.empty((2, *maps.shape))
    first, rest = maps.narrow(axis, 0, 1), maps.narrow(axis, 1, size - 1)
    last, before = maps.narrow(axis, size - 1, 1), maps.narrow(axis, 0, size - 1)
    fine[0].narrow(axis, 0, 1).copy_(first)
    torch.lerp(rest, before, 0.25, out=fine[0].narrow(axis, 1, size - 1))
    fine[1].narrow(axis, size - 1, 1).copy_(last)
    torch.lerp(before, rest, 0.25, out=fine[1].narrow(axis, 0, size - 1))
    return fine


def _gathered(even, odd, axis: int):
    """The transpose of `_between`: what even and odd pixels give back to the pixels that they come from."""
    size = even.shape[axis]
    total = (even + odd).mul_(0.75)
    total.narrow(axis, 0, size - 1).add_(even.narrow(axis, 1, size - 1), alpha=0.25)
    total.narrow(axis, 0, 1).add_(even.narrow(axis, 0, 1), alpha=0.25)
    total.narrow(axis, 1, size - 1).add_(odd.narrow(axis, 0, size - 1), alpha=0.25)
    total.narrow(axis, size - 1, 1).add_(odd.narrow(axis, size - 1, 1), alpha=0.25)
    return total
