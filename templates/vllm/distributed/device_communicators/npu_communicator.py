# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project

from __future__ import annotations

import torch
import torch.distributed as dist

from .base_device_communicator import DeviceCommunicatorBase


class NPUCommunicator(DeviceCommunicatorBase):
    """Collectives over HCCL.

    `device_group` is a torch.distributed group of the `hccl` backend, so the
    base class already does all-gather, broadcast, send and receive. Here is
    what HCCL needs to be different, and what the base class leaves out.
    """

    # Graph capture asks every communicator for CUDA's custom all-reduce.
    ca_comm = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.use_all2all:
            self.all2all_manager = _make_all2all_manager(self.cpu_group)

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        # Out of place: the caller may hold on to its input, and a captured
        # graph must not reduce the same buffer again when it is replayed.
        output = input_.clone()
        dist.all_reduce(output, group=self.device_group)
        return output

    def gather(
        self, input_: torch.Tensor, dst: int = 0, dim: int = -1
    ) -> torch.Tensor | None:
        # HCCL has no gather: every rank gathers, one keeps the result.
        output = self.all_gather(input_, dim)
        return output if self.rank_in_group == dst else None

    def all_gatherv(
        self,
        input_: torch.Tensor | list[torch.Tensor],
        dim: int = 0,
        sizes: list[int] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Concatenate the ranks' tensors, `sizes[r]` rows from rank r."""
        if dim != 0:
            raise NotImplementedError("only dim 0 all-gatherv is supported")
        if isinstance(input_, list):
            return [self.all_gatherv(tensor, dim, sizes) for tensor in input_]
        if sizes is None or all(size == sizes[0] for size in sizes):
            return self.all_gather(input_, dim)
        # All-gather of equal shapes only: pad to the longest rank.
        longest = max(sizes)
        padded = input_.new_zeros((longest,) + input_.shape[1:])
        padded[: input_.shape[0]] = input_
        gathered = self.all_gather(padded, dim).split(longest)
        return torch.cat([rows[:size] for rows, size in zip(gathered, sizes)])

    def reduce_scatterv(
        self, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None
    ) -> torch.Tensor:
        """Sum over the ranks; rank r keeps its `sizes[r]` slices along `dim`."""
        if sizes is None or all(size == sizes[0] for size in sizes):
            return self.reduce_scatter(input_, dim)
        dim = dim % input_.dim()
        start = sum(sizes[: self.rank_in_group])
        total = self.all_reduce(input_)
        return total.narrow(dim, start, sizes[self.rank_in_group]).contiguous()

    def prepare_communication_buffer_for_model(self, model: torch.nn.Module) -> None:
        # What it would prepare are modular kernels of experts. Those of an NPU are
        # none, and in some releases their method raises when it is asked for one.
        return

    def dispatch_router_logits(self, *args, **kwargs):
        assert self.all2all_manager is not None
        return self.all2all_manager.dispatch_router_logits(*args, **kwargs)

    def dispatch(self, *args, **kwargs):
        assert self.all2all_manager is not None
        return self.all2all_manager.dispatch(*args, **kwargs)

    def combine(self, *args, **kwargs):
        assert self.all2all_manager is not None
        return self.all2all_manager.combine(*args, **kwargs)


def _make_all2all_manager(cpu_group):
    # The managers built on DeepEP, PPLX and FlashInfer are CUDA libraries. As other
    # communicators do it, they are imported where there is one to make.
    # npu-migrate: when all2all_has_allgather_reducescatter
    from .all2all import AgRsAll2AllManager

    return AgRsAll2AllManager(cpu_group)
    # npu-migrate: otherwise
    from .all2all import NaiveAll2AllManager

    return NaiveAll2AllManager(cpu_group)
    # npu-migrate: end
