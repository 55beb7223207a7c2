"""The hand network's losses over pixels in PyTorch, one picture at a time, so that large maps never leave the cache.

Maps at the input's size are most of what a small network writes; here they are made, summed, differentiated and
forgotten for each picture, and only the gradient at the maps' own size is kept.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F


def pixel_entropy(
    logits: torch.Tensor, row: torch.Tensor, column: torch.Tensor, weight: torch.Tensor, *, enlarge: bool
) -> torch.Tensor:
    """Return minus the log of each map's softmax at one pixel, summed over the maps by weight, `(batch,)`.

    Args:
        logits: `(batch, height, width, K)`.
        row: Whole numbers `(batch, K)`.
        column: Whole numbers `(batch, K)`.
        weight: Of each map `(batch, K)`; it has no gradient.
        enlarge: Whether the softmax is over the bilinear map of twice the size; row and column count its pixels.
    """
    return _PixelEntropy.apply(logits, row.long(), column.long(), torch.as_tensor(weight), enlarge)


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
    def forward(ctx, logits, row, column, weight, enlarge):
        logits = logits.detach()
        batch, height, width, joints = logits.shape
        gradient = torch.zeros_like(logits)
        top, total = torch.zeros(batch, joints), torch.ones(batch, joints)
        for i, picture in enumerate(logits):
            # Maps without weight, of a hand that is missing for one, cost nothing.
            (counts,) = weight[i].nonzero(as_tuple=True)
            if not len(counts):
                continue
            maps = picture.permute(2, 0, 1)[counts].float().contiguous()
            slope, largest, sums = torch.empty_like(maps), maps.flatten(1).amax(1), maps.new_empty(len(counts))
            maps -= largest[:, None, None]
            (_Enlarged(maps) if enlarge else _plain)(maps, sums, slope)
            slope *= (weight[i, counts] / sums)[:, None, None]
            gradient[i].permute(2, 0, 1).index_copy_(0, counts, slope.to(gradient.dtype))
            top[i, counts], total[i, counts] = largest, sums
        at = torch.zeros_like(total)
        pictures, maps_of = torch.arange(batch)[:, None], torch.arange(joints)
        for (y, share_y), (x, share_x) in itertools.product(
            _neighbours(row, height, enlarge), _neighbours(column, width, enlarge)
        ):
            at += share_y * share_x * logits[pictures, y, x, maps_of]
            gradient[pictures, y, x, maps_of] -= share_y * share_x * weight
        ctx.save_for_backward(gradient)
        return (total.log_().add_(top).sub_(at) * weight).sum(1)

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None, None].to(gradient.dtype), None, None, None, None


def _neighbours(place, size: int, enlarge: bool):
    """Rows (or columns) that make up a row of the enlarged map, and their shares: the nearest, and the next to it."""
    if not enlarge:
        return [(place, 1.0)]
    nearest = place // 2
    return [(nearest, 0.75), ((nearest - 1 + 2 * (place % 2)).clamp(0, size - 1), 0.25)]


def _plain(maps, total, slope):
    """Write the sum of every map's exponentials and its slope; the maps' largest value is 0."""
    torch.exp(maps, out=slope)
    torch.sum(slope, (1, 2), out=total)


class _Enlarged:
    """`_plain` of maps twice the size.

    A pixel of the enlarged map is 9, 3, 3 and 1 sixteenths of its four nearest, so its exponential is a product of
    powers of theirs, and nothing but multiplications is done at the larger size. Even and odd rows and columns are kept
    apart. All is done on whole, contiguous maps: what a step reaches beyond the border is mended afterwards.
    """

    def __init__(self, like: torch.Tensor):
        self.width = like.shape[-1]
        self.cube, self.rows, self.fine = torch.empty_like(like), *(torch.empty((n, *like.shape)) for n in (2, 4))

    def __call__(self, maps, total, slope):
        maps.mul_(1 / 16).exp_()
        self._between(maps, self.rows[0], self.rows[1], axis=1)
        for i in range(2):
            self._between(self.rows[i], self.fine[2 * i], self.fine[2 * i + 1], axis=2)
        torch.sum(self.fine, (0, 2, 3), out=total)
        for i in range(2):
            self._back(self.fine[2 * i], self.fine[2 * i + 1], self.rows[i], axis=2)
        self._back(self.rows[0], self.rows[1], slope, axis=1)
        slope *= 1 / 16

    def _between(self, maps, even, odd, *, axis: int) -> None:
        """Write each pixel's cube times the pixel before it, and times the one after; at the border times itself."""
        step = self.width if axis == 1 else 1
        cube = torch.mul(maps, maps, out=self.cube).mul_(maps)
        torch.mul(_from(cube, step), _to(maps, step), out=_from(even, step))
        torch.mul(_to(cube, step), _from(maps, step), out=_to(odd, step))
        for pixels, border in ((even, 0), (odd, -1)):
            torch.mul(cube.select(axis, border), maps.select(axis, border), out=pixels.select(axis, border))

    def _back(self, even, odd, out, *, axis: int) -> None:
        """The transpose of bilinear enlarging, times 4: thrice the pixel's own, once the neighbours' nearer ones.

        Spoils `even` and `odd`.
        """
        step = self.width if axis == 1 else 1
        torch.add(even, odd, out=out).mul_(3)
        for pixels, border in ((even, 0), (odd, -1)):
            out.select(axis, border).add_(pixels.select(axis, border))
            pixels.select(axis, border).zero_()
        _to(out, step).add_(_from(even, step))
        _from(out, step).add_(_to(odd, step))


def _from(maps, step: int):
    """All pixels but the first `step`, in a row."""
    return maps.view(-1)[step:]


def _to(maps, step: int):
    """All pixels but the last `step`, in a row."""
    return maps.view(-1)[: maps.numel() - step]
