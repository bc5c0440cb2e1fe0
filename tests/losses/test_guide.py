"""One line that guides attention in a loop of one's own: the loss of the methods, and what it trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnbridge
from attnbridge import explain, guide
from attnbridge.errors import AttnBridgeError
from attnbridge.losses import attention_loss
from attnbridge.methods import AttnBN
from attnbridge.methods.gain import GAIN


class Small(nn.Module):
    """Two convolutions and a head of two layers, so that maps have a second-order part."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


IMAGES, SALIENCY, LABELS = drawn(4, 3, 16, 16), drawn(4, 16, 16), torch.tensor([2, 0, 1, 1])
MASK = torch.randint(0, 4, (4, 16, 16), generator=torch.Generator().manual_seed(1))
MASK[0, :3] = 255


def network() -> Small:
    torch.manual_seed(2)
    return Small().eval()


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("normalise", ["none", "max", "minmax"])
@pytest.mark.parametrize(("resolution", "reduction"), [("map", "mean"), ("saliency", "mean"), ("map", "sum")])
def test_it_is_the_attention_loss_of_attnbn(normalise: Any, resolution: Any, reduction: Any) -> None:
    net, how = network(), {"normalise": normalise, "resolution": resolution, "reduction": reduction}
    method: Any = AttnBN(["a", "b", "c"], network=net, image_size=16, target_weight=0, adversarial_weight=0, **how)
    method.log = lambda *_, **__: None
    batch: Any = {"image": IMAGES, "saliency": SALIENCY, "labels": F.one_hot(LABELS, 3).float()}
    wanted = method.losses({"source": batch})["source/attention"]
    found = guide(net, method.normalised(IMAGES), SALIENCY, LABELS, **how)
    assert torch.equal(found, wanted)
    ours, theirs = gradients(net, found), gradients(net, wanted)
    assert all(each.any() for each in ours[:-1])  # the head's last bias moves no gradient of a logit
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("resolution", ["map", "saliency"])
def test_with_a_matrix_of_classes_it_is_the_guidance_of_gain(resolution: Any) -> None:
    net, shown = network(), torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]) > 0
    method: Any = GAIN(
        ["a", "b", "c"], network=net, image_size=16, mining_weight=0, guidance_weight=1,
        resolution=resolution,
    )  # fmt: skip
    method.log = lambda *_, **__: None
    batch: Any = {"image": IMAGES, "mask": MASK, "labels": shown.float()}
    wanted = method.losses({"target": batch, "guided": batch})["guided/attention"]
    each = torch.stack([(c + 1 == MASK).long().masked_fill(MASK == 255, 255) for c in range(3)], 1)
    found = guide(net, method.normalised(IMAGES), each, shown, resolution=resolution)
    torch.testing.assert_close(found, wanted)


def test_several_classes_an_image_have_a_mask_each() -> None:
    net, masks, classes = network(), drawn(4, 2, 8, 8), torch.tensor([[0, 1], [1, 2], [2, 2], [0, 2]])
    maps = explain(net, IMAGES, classes)
    wanted = torch.stack([attention_loss(maps[:, k], masks[:, k]) for k in (0, 1)]).mean()
    torch.testing.assert_close(guide(net, IMAGES, masks, classes), wanted)
    everywhere = guide(net, IMAGES, masks, [1, 0])
    torch.testing.assert_close(everywhere, guide(net, IMAGES, masks, torch.tensor([[1, 0]] * 4)))


def test_kinds_of_masks_are_one_thing() -> None:
    net, seen = network(), SALIENCY > 0.5
    wanted = guide(net, IMAGES, seen.float(), LABELS)
    for masks in (seen, seen.long(), seen.byte(), seen[:, None]):
        assert torch.equal(guide(net, IMAGES, masks, LABELS), wanted)


def test_ignored_pixels_count_nowhere() -> None:
    net, masks = network(), (SALIENCY > 0.5).long()
    masks[:, :, :4] = 255
    found = guide(net, IMAGES, masks, LABELS, reduction="sum")
    maps = explain(net, IMAGES, LABELS)[:, 0]  # 4 x 4, so a map's first column is what is ignored
    truth = F.avg_pool2d((masks == 1).float()[:, None], 4)[:, 0]
    torch.testing.assert_close(found, ((maps - truth)[:, :, 1:].square()).sum((1, 2)).mean())


def test_the_logits_come_from_the_same_forward_pass() -> None:
    net, calls = network(), []
    guide(net, IMAGES, SALIENCY, LABELS)  # the layer is found once
    net.register_forward_hook(lambda *_: calls.append(1))
    guided = guide(net, IMAGES, SALIENCY, LABELS, return_logits=True)
    assert len(calls) == 1
    torch.testing.assert_close(guided.logits, net(IMAGES))
    assert torch.equal(guided.loss, guide(net, IMAGES, SALIENCY, LABELS))
    both = gradients(net, guided.loss + F.cross_entropy(guided.logits, LABELS))
    apart = gradients(net, guide(net, IMAGES, SALIENCY, LABELS) + F.cross_entropy(net(IMAGES), LABELS))
    torch.testing.assert_close(both, apart)


def test_scores_may_lie_anywhere_in_the_answer() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"embedding": images, "scores": self.inner(images)}

    images, masks = drawn(2, 3, 16, 16), drawn(2, 16, 16)
    expected = guide(network(), images, masks, 1)
    assert torch.equal(guide(Packed(), images, masks, 1, output="scores"), expected)
    assert torch.equal(guide(Packed(), images, masks, 0, target=lambda answer: answer["scores"][:, 1:2]), expected)


def test_second_order_reaches_the_head_unless_it_is_off() -> None:
    net = network()
    for second_order, reached in (("on", True), ("auto", True), ("off", False)):
        found = gradients(net, guide(net, IMAGES, SALIENCY, LABELS, second_order=second_order))  # type: ignore[call-overload]
        assert found[0].any()
        assert bool(found[4].any()) == reached
    with torch.no_grad():
        assert not guide(net, IMAGES, SALIENCY, LABELS).requires_grad


def test_a_transformer_is_guided() -> None:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3)
    nn.init.normal_(net.head.weight)
    loss = guide(net, drawn(2, 3, 32, 32), torch.ones(2, 32, 32), torch.tensor([0, 2]))
    loss.backward()
    assert net.patch_embed.proj.weight.grad.any()
    assert net.head.weight.grad.any()


def two_cues(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images whose class is told by the red of the left half, and by the green of the right; masks of the left."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 3, 16, 16, generator=generator)
    tone = (2.0 * labels - 1)[:, None, None]
    images[:, 0, :, :8] += tone
    images[:, 1, :, 8:] += tone
    masks = torch.zeros(count, 16, 16)
    masks[:, :, :8] = 1
    return images, masks, labels


def energy(net: nn.Module) -> float:
    """Share of the true class's map inside the mask, of images that were not trained on."""
    images, masks, labels = two_cues(64, 99)
    maps = explain(net, images, labels, size=16)[:, 0]
    return float(((maps * masks).sum() / maps.sum()).detach())


def trained(weight: float) -> nn.Module:
    """A plain loop."""
    torch.manual_seed(0)
    net = Small(classes=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(40):
        images, masks, labels = two_cues(32, step)
        guided = attnbridge.guide(net, images, masks, labels, return_logits=True)
        loss = F.cross_entropy(guided.logits, labels) + weight * guided.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def test_a_plain_loop_moves_attention_into_the_masks() -> None:
    plain, guided = trained(0.0), trained(3.0)
    images, _, labels = two_cues(64, 99)
    for net in (plain, guided):
        assert (net(images).argmax(1) == labels).float().mean() > 0.95
    assert energy(plain) < 0.7
    assert energy(guided) > energy(plain) + 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masks": SALIENCY * 255}, r"masks must be in \[0, 1\], but hold .*divide 8 bits by 255"),
        ({"masks": SALIENCY.masked_fill(SALIENCY > 0.9, torch.nan)}, "but hold nan"),
        ({"masks": -SALIENCY}, "but hold -"),
        ({"masks": MASK}, "must be 0, 1, or 255 where nothing counts, but hold [23]; compare them"),
        ({"masks": (SALIENCY > 0.5).byte() * 255}, "hold 255, which does not count, and no 1.*masks > 127"),
        ({"masks": SALIENCY[0]}, r"masks must be \(B, H, W\) or \(B, K, H, W\), but are torch.float32"),
        ({"masks": SALIENCY[:3]}, r"masks must be \(B, K, H, W\) with B = 4 images and K = 1 classes"),
        ({"masks": SALIENCY[:, None].expand(-1, 3, -1, -1)}, "K = 1 classes"),
        ({"masks": SALIENCY.numpy()}, "masks must be a tensor of real numbers"),
        ({"classes": [0, 1]}, "of one class an image, but classes names 2; give masks"),
        ({"classes": None}, "classes is None; name the classes"),
        ({"classes": 7}, "class 7: the network knows the classes 0 to 2"),
        ({"layer": "feature"}, "unknown layer 'feature'; did you mean 'features'"),
        ({"normalise": "mx"}, "normalise must be"),
        ({"resolution": "maps"}, "resolution must be map or saliency"),
        ({"second_order": "yes"}, "second_order must be"),
        ({"model": "resnet18"}, "model must be a network"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    given = {"model": net, "images": IMAGES, "masks": SALIENCY, "classes": LABELS, **change}
    with pytest.raises(AttnBridgeError, match=words):
        guide(**given)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.features._forward_hooks
