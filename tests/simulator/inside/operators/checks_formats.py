# SPDX-License-Identifier: Apache-2.0
"""Private formats."""

from __future__ import annotations

import random

import torch
import torch_npu

from tests.simulator.inside.operators.calling import (
    FLOATS,
    call,
    close,
    every_operator_was_tested,
    matrix_product,
    npu,
    rand,
    refused,
)


def check_formats() -> None:
    nz, nd = 29, 2
    torch.npu.config.allow_internal_format = True
    try:
        for dtype in FLOATS:
            x = rand(random.Random(1), 20, 40, dtype=dtype)
            source = npu(x)
            cast = call("npu::npu_format_cast", source, nz)
            assert int(torch_npu.get_npu_format(cast)) == nz
            assert int(torch_npu.get_npu_format(source)) == nd
            assert torch.equal(cast.cpu(), x)
            # The storage is padded to whole tiles of 16 by 16, as torch_npu has it.
            tile = 16
            size = -(-20 // tile) * tile * -(-40 // tile) * tile * x.element_size()
            assert cast.untyped_storage().nbytes() >= size
            back = call("npu::_npu_format_cast", cast, nd)
            assert int(torch_npu.get_npu_format(back)) == nd
            assert torch.equal(back.cpu(), x)
            like = call("npu::npu_format_cast.Tensor", source, cast)
            assert int(torch_npu.get_npu_format(like)) == nz
            own = npu(x)
            assert call("npu::npu_format_cast_.acl_format", own, nz) is own
            assert int(torch_npu.get_npu_format(own)) == nz
            assert torch.equal(own.cpu(), x)
            call("npu::npu_format_cast_", own, npu(x * 2))
            assert int(torch_npu.get_npu_format(own)) == nz
            assert torch.equal(own.cpu(), x * 2)
            product = npu(x[:3].contiguous()) @ cast.t()
            plain = npu(x[:3].contiguous()) @ source.t()
            assert torch.equal(product.cpu(), plain.cpu())
            (grouped,) = torch_npu.npu_grouped_matmul(
                [source],
                [
                    torch_npu.npu_format_cast(
                        npu(rand(random.Random(2), 2, 40, 16, dtype=dtype)), nz
                    )
                ],
                split_item=2,
                group_type=0,
                group_list=npu(torch.tensor([8, 20])),
            )
            close(
                grouped[:8],
                matrix_product(x[:8], rand(random.Random(2), 2, 40, 16, dtype=dtype)[0], None),
                terms=40,
                size=40,
            )
        with refused("npu_format_cast", "'input'", "two dimensions"):
            torch_npu.npu_format_cast(npu(torch.ones(4)), nz)
        with refused("npu_format_cast", "'acl_format'", "12"):
            torch_npu.npu_format_cast(npu(torch.ones(4, 4)), 12)
    finally:
        torch.npu.config.allow_internal_format = False


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
