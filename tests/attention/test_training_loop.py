"""Maps inside a training loop: each property has a case that fails if it breaks."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from attnbridge.attention.class_maps import grad_cam
from attnbridge.attention.explain import explain
from attnbridge.attention.observe import observe
from attnbridge.attention.transformers import gradient_rollout, observe_attention
from attnbridge.errors import AttnBridgeError

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([[0, 2], [1, 1], [4, 3], [2, 0]])
WANTED = torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(2))


class Small(nn.Module):
    """Two stages and a head of two layers, so that the maps have a second-order part."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.GELU())
        self.trunk = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Softplus())
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.trunk(x) if self.reentrant is None else checkpoint(self.trunk, x, use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def small(**options: Any) -> Small:
    torch.manual_seed(3)
    return Small(**options)


def map_loss(network: nn.Module, images: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    seen = observe(network, images, "trunk")
    maps = grad_cam(seen.features["trunk"], seen.logits, classes)
    return (30 * maps - wanted).square().mean() + F.cross_entropy(seen.logits, classes[:, 0])


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.fixture
def expected() -> list[Tensor]:
    network = small()
    map_loss(network, IMAGES, CLASSES, WANTED).backward()
    found = gradients(network)
    assert len(found) == 10
    assert all(g.abs().sum() > 0 for g in found)
    return found


def test_gradient_accumulation(expected: list[Tensor]) -> None:
    network = small()
    for part in (slice(0, 2), slice(2, 4)):
        (map_loss(network, IMAGES[part], CLASSES[part], WANTED[part]) / 2).backward()
        explain(network, IMAGES)  # looking between the parts changes nothing
    torch.testing.assert_close(gradients(network), expected)


@pytest.mark.parametrize("where", ["trunk", "stem"])
def test_gradient_checkpointing(where: str, expected: list[Tensor]) -> None:
    """The layer inside the checkpoint, and before it, so that the map's own gradient passes the checkpoint."""
    network, plain = small(reentrant=False), small()
    map_loss(network, IMAGES, CLASSES, WANTED).backward()
    torch.testing.assert_close(gradients(network), expected)
    torch.testing.assert_close(
        explain(network, IMAGES, CLASSES, where, second_order="off"), explain(plain, IMAGES, CLASSES, where)
    )


def test_a_reentrant_checkpoint_is_named() -> None:
    with pytest.raises(AttnBridgeError, match=r"'trunk' runs where .* use_reentrant=False"):
        explain(small(reentrant=True), IMAGES, layer="trunk")


def test_timm_checkpointing_gives_the_same_gradients() -> None:
    results = []
    for on in (False, True):
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", num_classes=5).eval()
        network.set_grad_checkpointing(on)
        nn.init.normal_(network.get_classifier().weight)
        torch.manual_seed(1)
        explain(network, torch.rand(2, 3, 64, 64), [0, 1, 2, 3, 4]).sum().backward()
        results.append(gradients(network))
    assert sum(bool(g.abs().sum() > 0) for g in results[0]) > 20
    torch.testing.assert_close(results[1], results[0])


def test_autocast_gives_float32_maps_near_those_of_float32() -> None:
    network = small()
    with torch.autocast("cpu", torch.bfloat16):
        maps = explain(network, IMAGES, CLASSES, "trunk")
        loss = map_loss(network, IMAGES, CLASSES, WANTED)
    loss.backward()
    exact = explain(small(), IMAGES, CLASSES, "trunk")
    assert maps.dtype == torch.float32
    assert torch.corrcoef(torch.stack([maps.flatten(), exact.flatten()]))[0, 1] > 0.99
    assert all(torch.isfinite(g).all() for g in gradients(network))


def test_channels_last_changes_nothing() -> None:
    torch.manual_seed(0)
    network = timm.create_model("vgg11", num_classes=5).eval()
    images = torch.rand(1, 3, 224, 224)
    expected = explain(network, images, [0, 3])
    last = network.to(memory_format=torch.channels_last)
    maps = explain(last, images.to(memory_format=torch.channels_last), [0, 3])
    assert expected.max() > 0
    torch.testing.assert_close(maps / expected.max(), expected / expected.max(), rtol=1e-4, atol=1e-5)


def test_a_compiled_network(expected: list[Tensor]) -> None:
    """Compiled up to the layer; several classes and second order, which compiled graphs alone do not admit."""
    compiled_graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled_graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    network = small()
    compiled = torch.compile(network, backend=backend)
    plain = compiled(IMAGES)  # whole graph, made before anything is observed
    map_loss(compiled, IMAGES, CLASSES, WANTED).backward()  # type: ignore[arg-type]
    torch.testing.assert_close(gradients(network), expected)
    in_trunk = [names for names in compiled_graphs[1:] if any("conv2d" in name for name in names)]
    assert in_trunk, "the trunk was not compiled"
    count = len(compiled_graphs)
    for _ in range(3):
        map_loss(compiled, IMAGES, CLASSES, WANTED)  # type: ignore[arg-type]
        assert torch.equal(compiled(IMAGES), plain)
    assert len(compiled_graphs) == count, "compiled anew at each step"
    torch._dynamo.reset()


def test_input_gradient_of_a_compiled_network_stays_differentiable() -> None:
    network = small()
    expected = explain(network, IMAGES, [0, 1], method="input_gradient")
    compiled = torch.compile(network, backend="aot_eager")
    compiled(IMAGES)
    maps = explain(compiled, IMAGES, [0, 1], method="input_gradient")  # type: ignore[arg-type]
    assert maps.requires_grad
    torch.testing.assert_close(maps, expected)


def _distributed(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network = DistributedDataParallel(small())
    part = slice(2 * rank, 2 * rank + 2)
    map_loss(network, IMAGES[part], CLASSES[part], WANTED[part]).backward()
    if rank == 0:
        torch.save(gradients(network.module), f"{folder}/gradients.pt")
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1, embed_dim=48)
    nn.init.normal_(vit.head.weight)
    rollout = DistributedDataParallel(vit)
    logits, attention = observe_attention(rollout, torch.rand(1, 3, 32, 32) + rank)
    maps = gradient_rollout(attention, logits, torch.tensor([[0, 1]]))
    (maps.sum() + logits.square().sum()).backward()
    own = vit.blocks[0].attn.qkv.weight.grad.clone()
    mean = own.clone()
    torch.distributed.all_reduce(mean)
    assert torch.allclose(own, mean / 2), "the gradients of the processes are not one"
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path, expected: list[Tensor]) -> None:
    mp.spawn(_distributed, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    torch.testing.assert_close(torch.load(tmp_path / "gradients.pt"), expected)


@pytest.mark.slow
def test_no_memory_is_kept_over_500_steps() -> None:
    network = small()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        map_loss(network, IMAGES, CLASSES, WANTED).backward()
        optimizer.step()
        with torch.no_grad():
            explain(network, IMAGES, scales=(0.5, 1.0), flip=True)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    for _ in range(3):
        step()
    gc.collect()
    gc.disable()  # nothing may wait for the collector
    try:
        before = tensors()
        for _ in range(500):
            step()
        assert tensors() == before
    finally:
        gc.enable()


def test_a_head_that_is_a_convolution_runs_as_the_linear_layer_it_is() -> None:
    torch.manual_seed(0)
    head = nn.Conv2d(4, 6, 5)
    network = nn.Sequential(nn.Conv2d(3, 4, 4), nn.GELU(), head, nn.Tanh(), nn.Conv2d(6, 3, 1), nn.Flatten())
    images = torch.rand(2, 3, 8, 8)
    calls = []
    head.register_forward_hook(lambda *_: calls.append(vars(head).get("forward")))
    maps = explain(network, images, [0, 1, 2], "1")
    assert calls[-1] is not None
    assert "forward" not in vars(head)
    features = network[:2](images)
    logits = network[2:](features)
    torch.testing.assert_close(maps, grad_cam(features, logits, torch.tensor([[0, 1, 2]] * 2)))
    with pytest.raises(RuntimeError, match="shape"):
        observe(nn.Sequential(*network[:3], nn.Linear(7, 7)), images, "1")
    assert "forward" not in vars(head)


def test_an_operation_without_a_batching_rule_is_taken_class_by_class() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            if gradient.abs().sum().item() < 0:  # data-dependent, so vmap refuses
                return gradient
            return 3 * x**2 * gradient

    features = torch.rand(2, 3, 4, 4, requires_grad=True)
    logits = Cube.apply(features).mean((2, 3))  # type: ignore[no-untyped-call]
    maps = grad_cam(features, logits, torch.tensor([[0, 2], [1, 1]]))
    weights = (3 * features**2 / 16).mean((2, 3))
    torch.testing.assert_close(maps[0, 1], weights[0, 2] * features[0, 2])
