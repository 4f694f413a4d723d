from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from modes import randomise
from torch import Tensor

from icmoe_monai.networks.attention import Attention, attend_by_rows, attend_folded, is_faster_by_rows, is_recorded


def parts(a: int, b: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key, value, row and column bias of 2 windows with 3 heads of 4 channels."""
    shapes = [(2, 3, a, b, 4)] * 3 + [(2, 3, a, b, a), (2, 3, a, b, b)]
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("grid", "window_size", "table_size"),
    [
        pytest.param((4, 8), 4, 4, id="whole windows"),
        pytest.param((5, 6), 4, 4, id="padded windows"),
        pytest.param((3, 2), 4, 4, id="grid smaller than a window"),
        pytest.param((5, 5), 0, 5, id="global"),
        pytest.param((5, 3), 0, 4, id="global, tables resized both ways"),
    ],
)
def test_attention_is_metas(grid: tuple[int, int], window_size: int, table_size: int) -> None:
    attention = Attention(width=12, num_heads=2, window_size=window_size, table_size=table_size)
    randomise(attention)
    x = torch.randn(2, *grid, 12)
    weights = {name: value.detach().double().numpy() for name, value in attention.named_parameters()}
    expected = np.stack([reference.attention(one.double().numpy(), weights, 2, window_size) for one in x])
    flat = {name: np.zeros_like(value) if "rel_pos" in name else value for name, value in weights.items()}
    without_places = reference.attention(x[0].double().numpy(), flat, 2, window_size)
    assert expected.std() > 0.1
    assert np.abs(without_places - expected[0]).max() > 0.05  # the positions matter
    np.testing.assert_allclose(attention(x).detach().numpy(), expected, rtol=0, atol=1e-5)


def test_padding_tokens_take_part() -> None:
    attention = Attention(width=12, num_heads=2, window_size=4, table_size=4)
    randomise(attention)
    x = torch.randn(1, 3, 3, 12)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.bias[12:24] += torch.randn(12)  # the same for all keys, padding included: cancels in softmax
    assert torch.allclose(attention(x), before, atol=1e-5)
    with torch.no_grad():
        attention.qkv.bias[24:] += 1  # values
    assert not torch.allclose(attention(x), before, atol=1e-2)


@pytest.mark.parametrize("grid", [(5, 3), (1, 7), (6, 6)], ids=str)
def test_both_ways_are_the_explicit_bias(grid: tuple[int, int]) -> None:
    a, b = grid
    query, key, value, row_bias, column_bias = parts(a, b)
    scores = torch.einsum("gnabd,gnced->gnabce", query, key) + row_bias[..., :, None] + column_bias[..., None, :]
    shares = torch.softmax(scores.flatten(-2), dim=-1).unflatten(-1, (a, b))
    expected = torch.einsum("gnabce,gnced->gnabd", shares, value)
    assert expected.std() > 0.1
    torch.testing.assert_close(attend_folded(query, key, value, row_bias, column_bias), expected)
    torch.testing.assert_close(attend_by_rows(query, key, value, row_bias, column_bias), expected)


def test_rows_that_do_not_divide_the_grid_are_all_attended() -> None:
    """A grid whose scores are more than one step of the loop, with a last step that is smaller."""
    query, key, value, row_bias, column_bias = [x[:1, :1] for x in parts(50, 40, torch.float32)]
    assert 1 < 1048576 // (40 * 50 * 40) < 50  # rows a step
    assert 50 % (1048576 // (40 * 50 * 40)) != 0
    by_rows = attend_by_rows(query, key, value, row_bias, column_bias)
    torch.testing.assert_close(by_rows, attend_folded(query, key, value, row_bias, column_bias), rtol=0, atol=1e-5)


def test_rows_are_faster_on_a_cpu_for_long_grids_and_narrow_heads() -> None:
    wide, narrow = torch.zeros(1, 1, 3, 2, 4), torch.zeros(1, 1, 2, 2, 4)
    assert is_faster_by_rows(wide)
    assert not is_faster_by_rows(narrow)
    assert not is_faster_by_rows(wide.bfloat16())
    assert is_faster_by_rows(wide)
    assert not is_faster_by_rows(torch.zeros(1, 1, 3, 2, 4, device="meta"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_recording_is_seen() -> None:
    x = torch.zeros(1)
    assert not is_recorded(x)
    assert is_recorded(x.requires_grad_())
    seen = []
    torch.jit.trace(lambda x: (seen.append(is_recorded(x)), x + 1)[1], torch.zeros(1))
    assert seen[0]


def test_tables_alone_can_be_trained() -> None:
    """The query asks for no gradient, but what the tables add to its scores does."""
    attention = Attention(width=8, num_heads=2, window_size=0, table_size=6).requires_grad_(False)
    randomise(attention)
    attention.rel_pos_h.requires_grad_()
    attention(torch.randn(1, 6, 6, 8)).square().sum().backward()
    assert attention.rel_pos_h.grad.abs().max() > 0


def test_gradients_are_those_of_the_equation() -> None:
    attention = Attention(width=8, num_heads=2, window_size=0, table_size=3).double()
    randomise(attention)
    assert torch.autograd.gradcheck(attention, torch.randn(1, 3, 2, 8, dtype=torch.float64, requires_grad=True))


def test_a_frozen_and_a_recorded_pass_agree() -> None:
    """Without gradients the long grid goes row by row, with them it is folded."""
    attention = Attention(width=8, num_heads=2, window_size=0, table_size=6)
    randomise(attention)
    x = torch.randn(2, 6, 5, 8)
    recorded = attention(x)
    assert recorded.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(attention(x), recorded.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_to_its_rounding(dtype: torch.dtype) -> None:
    attention = Attention(width=12, num_heads=2, window_size=0, table_size=6)
    randomise(attention, std=0.3)
    x = torch.randn(1, 6, 6, 12)
    with torch.no_grad():
        exact = attention(x)
        with torch.autocast("cpu", dtype):
            rounded = attention(x)
    assert rounded.dtype == dtype
    assert (rounded - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
