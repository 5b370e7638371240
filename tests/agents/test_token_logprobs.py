"""The language-model head in blocks gives what the plain computation gives, and never holds the logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from searchgym.agents.lm.token_logprobs import token_logprobs

ROWS, WIDTH, WORDS = 7, 6, 29


def inputs(dtype: torch.dtype = torch.float32, rows: int = ROWS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "hidden": normal(rows, WIDTH),
        "weight": normal(WORDS, WIDTH),
        "bias": normal(WORDS),
        "targets": torch.randint(WORDS, (rows,), generator=generator),
        "temperatures": 0.5 + torch.rand(rows, generator=generator),
    }


def plain(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All logits at once, in full precision."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(wide) @ weight.to(wide).T
    if bias is not None:
        logits = logits + bias.to(wide)
    logps = torch.log_softmax(logits / temperatures.to(wide).unsqueeze(1), dim=-1)
    terms = torch.where(logps == -torch.inf, 0.0, logps.exp() * logps.clamp(min=-1e30))
    return logps.gather(1, targets.unsqueeze(1)).squeeze(1), -terms.sum(-1)


def gradients(function, given: dict[str, Tensor], *, bias: bool, **options) -> list[Tensor]:
    """Values and gradients of a loss in which every logprob and every entropy has a weight of its own."""
    names = ["hidden", "weight", *(["bias"] if bias else [])]
    leaves = {name: given[name].clone().requires_grad_() for name in names}
    values = function(
        leaves["hidden"],
        leaves["weight"],
        given["targets"],
        given["temperatures"],
        leaves.get("bias"),
        **options,
    )
    weights = torch.linspace(-1.0, 1.5, len(values[0]), dtype=values[0].dtype)
    (
        weights * values[0] + weights.flip(0) * values[1]
    ).sum().backward()  # no product that autocast would round
    return [*(v.detach() for v in values), *(leaf.grad for leaf in leaves.values())]


@pytest.mark.parametrize("chunk", [1, 4, 28, 29, 1000, None])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_values_and_gradients_are_those_of_the_plain_computation(chunk, bias, rows):
    given = inputs(rows=rows)
    expected = gradients(plain, given, bias=bias)
    for got, wanted in zip(gradients(token_logprobs, given, bias=bias, chunk=chunk), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, 29])
def test_gradcheck(chunk):
    given = inputs(torch.float64)
    leaves = [given[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    rows = torch.tensor([0, 0, 3, 6, 3, 0])

    def outputs(hidden, weight, bias):
        return token_logprobs(
            hidden,
            weight,
            given["targets"][:6],
            given["temperatures"].double(),
            bias,
            rows_N=rows,
            chunk=chunk,
        )

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("chunk", [5, 29])
def test_tokens_that_share_a_row_are_as_if_each_had_its_own(chunk):
    given = inputs()
    rows = torch.tensor([0, 0, 3, 6, 3, 0])
    shared = {**given, "targets": given["targets"][:6]}
    own = {**given, "targets": given["targets"][:6]}
    got = gradients(token_logprobs, shared, bias=True, rows_N=rows, chunk=chunk)

    def spread(hidden, weight, targets, temperatures, bias):
        return plain(hidden[rows], weight, targets, temperatures[rows], bias)

    for one, other in zip(got, gradients(spread, own, bias=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, 29])
@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone_may_be_used(chunk, used):
    given = inputs()
    found = []
    for function, options in ((plain, {}), (token_logprobs, {"chunk": chunk})):
        hidden = given["hidden"].clone().requires_grad_()
        function(hidden, given["weight"], given["targets"], given["temperatures"], **options)[
            used
        ].sum().backward()
        found.append(hidden.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, None])
def test_no_tokens(chunk):
    given = inputs(rows=0)
    hidden, weight = given["hidden"].requires_grad_(), given["weight"].requires_grad_()
    logprobs, entropy = token_logprobs(hidden, weight, given["targets"], given["temperatures"], chunk=chunk)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert not weight.grad.any()
    assert hidden.grad.shape == (0, WIDTH)


@pytest.mark.parametrize("chunk", [4, 29])
def test_words_that_cannot_be_drawn(chunk):
    given = inputs()
    given["bias"][:9] = -torch.inf  # with chunks of four, two blocks hold nothing else
    given["targets"] = 9 + given["targets"] % 20
    expected = gradients(plain, {**given, "bias": given["bias"].clamp(min=-1e6)}, bias=True)
    got = gradients(token_logprobs, given, bias=True, chunk=chunk)
    assert all(torch.isfinite(tensor).all() for tensor in got)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    given["targets"][2] = 3
    logprobs, _ = token_logprobs(
        given["hidden"], given["weight"], given["targets"], given["temperatures"], given["bias"], chunk=chunk
    )
    assert logprobs[2] == -torch.inf
    assert torch.isfinite(logprobs[3:]).all()


@pytest.mark.parametrize("chunk", [5, 29])
def test_half_precision_is_computed_in_full(chunk):
    given = inputs(torch.bfloat16)
    expected = gradients(plain, given, bias=True)
    got = gradients(token_logprobs, given, bias=True, chunk=chunk)
    assert got[0].dtype == torch.float32
    assert got[2].dtype == got[3].dtype == torch.bfloat16
    for one, other in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(got[2:], expected[2:], strict=True):  # the gradients are rounded once, at the end
        torch.testing.assert_close(one, other, rtol=2**-8, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for one, other in zip(gradients(token_logprobs, given, bias=True, chunk=chunk), got, strict=True):
            assert torch.equal(one, other)


def test_large_logits_neither_overflow_nor_lose_the_entropy():
    given = inputs()
    given["hidden"] *= 300.0
    expected = plain(*(given[n].double() for n in ("hidden", "weight")), given["targets"], torch.ones(ROWS))
    got = token_logprobs(given["hidden"], given["weight"], given["targets"], torch.ones(ROWS), chunk=3)
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-3)


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operation makes while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in self.given:
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out

    given: frozenset[int] = frozenset()


@pytest.mark.parametrize("frozen", [True, False])
def test_the_logits_are_never_held_and_a_frozen_weight_has_no_gradient_buffer(frozen):
    rows, width, words, chunk = 40, 8, 500, 50
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(words, width, requires_grad=not frozen)
    watch = Largest()
    watch.given = frozenset({hidden.untyped_storage().data_ptr(), weight.untyped_storage().data_ptr()})
    with watch:
        logprobs, entropy = token_logprobs(
            hidden, weight, torch.arange(rows), torch.full((rows,), 0.7), chunk=chunk
        )
        (logprobs.sum() + entropy.sum()).backward()
    assert watch.elements == (rows * chunk if frozen else words * width)
    assert (weight.grad is None) == frozen


def test_no_half_precision_head_is_widened_as_a_whole():
    """Not even for so few tokens that their logits would fit one block."""
    rows, width, words = 2, 8, 10_000
    hidden = torch.randn(rows, width).bfloat16().requires_grad_()
    weight = torch.randn(words, width).bfloat16()
    targets, ones = torch.tensor([9_999, 2_047]), torch.ones(rows)
    watch = Largest()
    watch.given = frozenset({hidden.untyped_storage().data_ptr(), weight.untyped_storage().data_ptr()})
    with watch:
        logprobs, _ = token_logprobs(hidden, weight, targets, ones)
        logprobs.sum().backward()
    assert watch.elements == 2048 * width
    torch.testing.assert_close(logprobs.detach(), plain(hidden, weight, targets, ones)[0].detach())


def test_a_tied_embedding_gets_both_gradients():
    given = inputs()
    ids = torch.tensor([3, 5, 5, 9, 1, 0, 28])

    def loss(function, **options) -> Tensor:
        weight = given["weight"].clone().requires_grad_()
        hidden = torch.tanh(torch.nn.functional.embedding(ids, weight))
        logprobs, entropy = function(hidden, weight, given["targets"], given["temperatures"], **options)
        (logprobs.sum() - 0.3 * entropy.sum()).backward()
        return weight.grad

    torch.testing.assert_close(loss(token_logprobs, chunk=5), loss(plain), rtol=1e-5, atol=1e-5)
