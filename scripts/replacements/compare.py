# SPDX-License-Identifier: Apache-2.0
"""Compares replacements of Triton kernels with the kernels, run by Triton's interpreter.

    TRITON_INTERPRET=1 python compare.py JOB.json

The job names a folder with the kernels, one module each, and the replacements' modules. Nothing is
judged here: what differed goes to the file that the job names. Random batches have requests without
tokens, -1, values that are exactly at a limit, and more tokens than a kernel's block.
"""

from __future__ import annotations

import ast
import copy
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import runner_v2
import torch
import triton
from triton.runtime import interpreter

Arguments = dict[str, Any]
Batch = tuple[tuple[int, ...], Arguments]


class Maker:
    """Makes random arguments of a kernel.

    `names` are those that the release's has; `padded` says whether it knows -1 among drafts, at
    which others read what is not theirs.
    """

    def __init__(self, seed: int, names: tuple[str, ...], padded: bool) -> None:
        self.names = names
        self.padded = padded
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """One of `low` to `high`."""
        return self.random.randint(low, high)

    def integers(self, size: int | tuple[int, ...], low: int, high: int, dtype: Any) -> Any:
        """A tensor of numbers of `low` to `high`."""
        shape = (size,) if isinstance(size, int) else size
        return torch.randint(low, high + 1, shape, generator=self.torch, dtype=dtype)

    def floats(self, *shape: int) -> Any:
        """A tensor of numbers from 0 to 1."""
        return torch.rand(shape, generator=self.torch)

    def drafts(self, most: int) -> tuple[int, Any]:
        """How many requests, and where the drafts of each end; some have none."""
        requests = self.integer(1, 6)
        counts = self.integers(requests, 0, most, torch.int32)
        return int(counts.sum()), counts.cumsum(0, dtype=torch.int32)

    def probabilities(self, rows: int, columns: int) -> Any:
        """Rows of float32 that add up to 1, some of their entries 0."""
        raw = self.floats(rows, columns) * (self.floats(rows, columns) < 0.7)
        raw[:, 0] += 1e-3
        return raw / raw.sum(-1, keepdim=True)

    def limits(self, values: Any) -> Any:
        """Random float64 numbers, some of them exactly `values`; all are float32's too."""
        drawn = self.floats(*values.shape)
        same = self.floats(*values.shape) < 0.3
        return torch.where(same, values, drawn).double()


def greedy(make: Maker) -> Batch:
    most = make.integer(1, 5)
    total, ends = make.drafts(most)
    requests = ends.shape[0]
    best = make.integers(total, 0, 9, torch.int64)
    drafts = make.integers(total, 0, 9, torch.int32)
    drafts = torch.where(make.floats(total) < 0.7, best.int(), drafts)
    synthetic = "SYNTHETIC_MODE" in make.names and make.integer(0, 1) == 1
    rates = make.floats(most)
    chance = make.limits(rates[make.integers(total, 0, most - 1, torch.int64)])
    if synthetic and make.padded:
        drafts = torch.where(make.floats(total) < 0.2, -1, drafts)
    mask = make.floats(requests) < 0.6
    return (requests,), {
        "output_token_ids_ptr": torch.full((requests, most + 1), -1, dtype=torch.int32),
        "cu_num_draft_tokens_ptr": ends,
        "draft_token_ids_ptr": drafts,
        "target_argmax_ptr": best,
        "bonus_token_ids_ptr": make.integers((requests, 1), 10, 19, torch.int32),
        "is_greedy_ptr": mask if make.integer(0, 1) else None,
        "max_spec_len": most,
        "uniform_probs_ptr": chance if synthetic else None,
        "synthetic_conditional_rates_ptr": rates if synthetic else None,
        "SYNTHETIC_MODE": synthetic,
    }


def drawn(make: Maker) -> Batch:
    most, vocabulary = make.integer(1, 5), make.integer(2, 40)
    total, ends = make.drafts(most)
    requests = ends.shape[0]
    target = make.probabilities(total, vocabulary)
    proposed = make.probabilities(total, vocabulary)
    drafts = make.integers(total, 0, vocabulary - 1, torch.int32)
    without = make.integer(0, 1) == 1
    at = drafts.long().unsqueeze(1)
    ratio = target.gather(1, at).squeeze(1)
    if not without:
        ratio = ratio / proposed.gather(1, at).squeeze(1)
    ratio = ratio.nan_to_num(0.5, 1.0).clamp(max=1.0)
    synthetic = "SYNTHETIC_MODE" in make.names and make.integer(0, 2) == 1
    rates = make.floats(most)
    if synthetic:
        ratio = rates[make.integers(total, 0, most - 1, torch.int64)]
    if make.padded:
        drafts = torch.where(make.floats(total) < 0.15, -1, drafts)
    return (requests,), {
        "output_token_ids_ptr": torch.full((requests, most + 1), -1, dtype=torch.int32),
        "cu_num_draft_tokens_ptr": ends,
        "draft_token_ids_ptr": drafts,
        "draft_probs_ptr": None if without else proposed,
        "target_probs_ptr": target,
        "bonus_token_ids_ptr": make.integers((requests, 1), 100, 119, torch.int32),
        "recovered_token_ids_ptr": make.integers(total, 50, 90, torch.int32),
        "uniform_probs_ptr": make.limits(ratio),
        "is_greedy_ptr": make.floats(requests) < 0.3,
        "max_spec_len": most,
        "vocab_size": vocabulary,
        "synthetic_conditional_rates_ptr": rates if synthetic else None,
        "NO_DRAFT_PROBS": without,
        "SYNTHETIC_MODE": synthetic,
    }


def expanded(make: Maker) -> Batch:
    total, ends = make.drafts(7)
    requests = ends.shape[0]
    dtype = make.random.choice([torch.float32, torch.int32, torch.int64])
    values = make.integers(requests, -1, 3, dtype)
    return (requests,), {
        "output_ptr": torch.full((total,), 77, dtype=dtype),
        "input_ptr": values,
        "cu_num_tokens_ptr": ends,
        "replace_from": make.integer(-1, 1),
        "replace_to": make.integer(0, 5),
        "MAX_NUM_TOKENS": 8,
    }


def recovered(make: Maker) -> Batch:
    most, vocabulary = make.integer(1, 5), make.integer(2, 70)
    total, ends = make.drafts(most)
    requests = ends.shape[0]
    q = torch.empty(requests, vocabulary).exponential_(generator=make.torch)
    without = make.integer(0, 1) == 1
    target = make.probabilities(total, vocabulary)
    drafts = target.argmax(-1).int() if total else make.integers(0, 0, 1, torch.int32)
    if "inv_q_ptr" in make.names:
        # Older kernels are not given any.
        drafts = torch.where(make.floats(total) < 0.2, -1, drafts)
    proposed = make.probabilities(total, vocabulary)
    if make.integer(0, 3) == 0:
        # More than the target's everywhere, as rounding can have it.
        proposed = target + 0.1 * proposed
    return (requests, most), {
        "output_token_ids_ptr": torch.full((total,), -7, dtype=torch.int32),
        "cu_num_draft_tokens_ptr": ends,
        "draft_token_ids_ptr": drafts,
        "draft_probs_ptr": None if without else proposed,
        "target_probs_ptr": target,
        "q_ptr": q,
        "inv_q_ptr": q.reciprocal(),
        "vocab_size": vocabulary,
        # Several blocks.
        "BLOCK_SIZE": 16,
        "PADDED_VOCAB_SIZE": triton.next_power_of_2(vocabulary),
        "NO_DRAFT_PROBS": without,
        "USE_FP64_GUMBEL": False,
    }


def stepped(make: Maker) -> Batch:
    requests, blocks = make.integer(1, 6), make.integer(1, 5)
    size = make.random.choice([4, 8])
    # Also longer than the table: the last block is read then.
    longest = blocks * size + make.integer(-3, 3)
    padded = requests + make.integer(0, 3)
    positions = make.integers(requests, 0, longest - 1, torch.int64)
    positions = torch.where(make.floats(requests) < 0.3, longest - 1, positions)
    table = make.integers((requests, blocks), 0, 99, torch.int32)
    return (padded,), {
        "positions_ptr": positions,
        "block_table_ptr": table,
        "block_table_stride": table.stride(0),
        "seq_lens_ptr": make.integers(requests, 1, longest + 1, torch.int32),
        "out_clamped_positions_ptr": torch.full((requests,), -5, dtype=torch.int64),
        "out_slot_mapping_ptr": torch.full((padded,), -5, dtype=torch.int64),
        "block_size": size,
        "max_model_len": longest,
        "n_blocks_per_req": blocks,
        "PAD_ID": -1,
        "batch_size": requests,
    }


def prepared(make: Maker) -> Batch:
    _, ends = make.drafts(4)
    requests = ends.shape[0]
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    # Nothing is sampled for some.
    sampled = (make.floats(requests) * (counts + 2)).int()
    starts = torch.zeros(requests + 1, dtype=torch.int32)
    starts[1:] = (counts + make.integers(requests, 1, 3, torch.int32)).cumsum(0)
    return (requests,), {
        "cu_num_draft_tokens_ptr": ends,
        "valid_sampled_tokens_count_ptr": sampled,
        "query_start_loc_gpu_ptr": starts,
        "token_indices_to_sample_ptr": torch.full((requests,), -5, dtype=torch.int32),
        "num_rejected_tokens_gpu_ptr": torch.full((requests,), -5, dtype=torch.int32),
        "num_reqs": requests,
    }


def counted(make: Maker) -> Batch:
    requests, width, vocabulary = make.integer(1, 6), make.integer(1, 5), 20
    tokens = make.integers((requests, width + 2), 0, vocabulary + 2, torch.int32)
    keep = make.integers((requests, 1), 0, width + 2, torch.int64)
    tokens = torch.where(torch.arange(width + 2) < keep, tokens, -1)
    return (requests,), {
        # Rows that do not lie one after the other.
        "sampled_token_ids_ptr": tokens[:, :width],
        "discard_request_mask_ptr": make.floats(requests) < 0.3,
        "backup_next_token_ids_ptr": make.integers(requests, 50, 60, torch.int32),
        "next_token_ids_ptr": torch.full((requests,), -5, dtype=torch.int32),
        "valid_sampled_tokens_count_ptr": torch.full((requests,), -5, dtype=torch.int32),
        "vocab_size": vocabulary,
        "num_sampled_tokens_per_req": width,
        "num_reqs": requests,
        "stride_sampled_token_ids": tokens.stride(0),
        "BLOCK_SIZE_TOKENS": triton.next_power_of_2(width),
    }


def laid_out(make: Maker) -> Batch:
    requests, room = make.integer(1, 5), make.integer(1, 4)
    shift = make.integer(0, 1) == 1
    lengths = make.integers(requests, 1, 7, torch.int32)
    starts = torch.zeros(requests + 1, dtype=torch.int32)
    starts[1:] = lengths.cumsum(0)
    rejected = (make.floats(requests) * lengths).int()
    total, block = int(starts[-1]), make.random.choice([2, 4, 16])
    more = room - 1 if shift else room
    out, longest = total + more * requests, int(lengths.max()) + more
    return (requests, triton.cdiv(longest, block)), {
        "target_token_ids_ptr": make.integers(total, 1, 99, torch.int32),
        "target_positions_ptr": make.integers(total, 1, 99, torch.int64),
        "next_token_ids_ptr": make.integers(requests, 100, 120, torch.int32),
        "out_input_ids_ptr": torch.full((out + 2,), -5, dtype=torch.int32),
        "out_positions_ptr": torch.full((out + 2,), -5, dtype=torch.int64),
        "out_is_rejected_token_mask_ptr": torch.ones(out + 2, dtype=torch.bool),
        "out_is_masked_token_mask_ptr": torch.ones(out + 2, dtype=torch.bool),
        "out_new_token_indices_ptr": torch.full((requests * room,), -5, dtype=torch.int32),
        "out_hidden_state_mapping_ptr": torch.full((total,), -5, dtype=torch.int32),
        "query_start_loc_ptr": starts,
        "query_end_loc_ptr": starts[1:] - 1 - rejected,
        "padding_token_id": make.integer(0, 1),
        "parallel_drafting_token_id": 200,
        "total_input_tokens": total,
        "num_padding_slots_per_request": room,
        "shift_input_ids": shift,
        "BLOCK_SIZE_TOKENS": block,
    }


BATCHES: dict[str, Callable[[Maker], Batch]] = {
    "rejection_greedy_sample_kernel": greedy,
    "rejection_random_sample_kernel": drawn,
    "expand_kernel": expanded,
    "sample_recovered_tokens_kernel": recovered,
    "eagle_step_slot_mapping_metadata_kernel": stepped,
    "eagle_prepare_inputs_padded_kernel": prepared,
    "eagle_prepare_next_token_padded_kernel": counted,
    "copy_and_expand_eagle_inputs_kernel": laid_out,
    **runner_v2.BATCHES,
}
"""Kernel → what makes a grid and arguments, by their names, of all releases."""


def batches(name: str, names: tuple[str, ...], source: str, count: int) -> Iterator[Batch]:
    """The batches of a kernel that takes the arguments `names`."""
    padded = re.search(r"draft_token_id (<|>=) 0", source) is not None
    for seed in range(count):
        grid, arguments = BATCHES[name](Maker(seed, names, padded))
        yield grid, {n: arguments[n] for n in names}


def launched(arguments: Arguments) -> Arguments:
    """The arguments of a launch: lists of tensors are tables of addresses, which know them."""
    found = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, list):
            found[name] = torch.tensor([t.data_ptr() for t in value], dtype=torch.uint64)
            found[name].npu_tensors = value
    return found


def same(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Are two arguments equal, floats within a tolerance?"""
    if isinstance(theirs, list):
        return all(same(o, t, tolerance) for o, t in zip(ours, theirs, strict=True))
    if not isinstance(theirs, torch.Tensor):
        return True
    if not theirs.is_floating_point():
        return bool(torch.equal(ours, theirs))
    return bool(torch.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True))


def unequal(ours: Arguments, theirs: Arguments, tolerance: float) -> list[str]:
    """Arguments that are not the same after both ran."""
    return [name for name, value in theirs.items() if not same(ours[name], value, tolerance)]


CHANGES: tuple[tuple[type, type], ...] = (
    (ast.Add, ast.Sub),
    (ast.Sub, ast.Add),
    (ast.Mult, ast.Add),
    (ast.Div, ast.Mult),
    (ast.BitAnd, ast.BitOr),
    (ast.Lt, ast.LtE),
    (ast.LtE, ast.Lt),
    (ast.Gt, ast.GtE),
    (ast.GtE, ast.Gt),
    (ast.Eq, ast.NotEq),
    (ast.NotEq, ast.Eq),
)
"""An operator → the one that a mutant has in its place."""


def broken(node: ast.AST) -> ast.AST | None:
    """What a mutant has in the place of a node; None where nothing is broken."""
    changes = dict(CHANGES)
    node = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in changes:
        node.ops[0] = changes[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in changes:
        node.op = changes[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return node.operand
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("clamp", "fill_"):
            return node.func.value
        if node.func.attr != "where" or len(node.args) != 3:
            return None
        node.args[1], node.args[2] = node.args[2], node.args[1]
    else:
        return None
    return node


class _Break(ast.NodeTransformer):
    def __init__(self, place: int) -> None:
        self.left = place
        self.said = ""

    def visit(self, node: ast.AST) -> ast.AST:
        if self.left >= 0 and (changed := broken(node)) is not None:
            self.left -= 1
            if self.left < 0:
                self.said = f"{ast.unparse(node)} -> {ast.unparse(changed)}"
                return changed
        return self.generic_visit(node)


def mutants(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The function with one operation broken, for each of its operations, and which."""
    place = 0
    while True:
        change = _Break(place)
        mutant = change.visit(copy.deepcopy(function))
        if not change.said:
            return
        assert isinstance(mutant, ast.FunctionDef)
        yield change.said, ast.fix_missing_locations(mutant)
        place += 1


def differs(
    replacement: Callable[..., None],
    runs: list[tuple[Arguments, Arguments]],
    tolerance: float,
) -> str | None:
    """What is not as the kernel left it in some batch, or how it failed; None if all is."""
    for number, (before, after) in enumerate(runs):
        ours = copy.deepcopy(before)
        try:
            replacement(**launched(ours))
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
            return f"batch {number}: {type(error).__name__}: {error}".splitlines()[0]
        if wrong := unequal(ours, after, tolerance):
            return f"batch {number}: {', '.join(wrong)}"
    return None


def called(functions: dict[str, ast.FunctionDef], name: str) -> list[str]:
    """A function of a module and those of the module that it calls, by name."""
    found = [name]
    for one in found:
        found += [
            node.id
            for node in ast.walk(functions[one])
            if isinstance(node, ast.Name) and node.id in functions and node.id not in found
        ]
    return list(dict.fromkeys(found))


def mutated(module: Any, source: str, name: str) -> Iterator[tuple[str, Callable[..., None]]]:
    """The replacement `name` of a module with one operation broken at a time, and which."""
    shared = Path(import_module("vllm.triton_utils.npu_overrides").__file__ or "").read_text()
    functions = {
        node.name: node
        for text in (shared, source)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    used = called(functions, name)
    for one in used:
        for said, function in mutants(functions[one]):
            content = dict(vars(module))
            body: list[ast.stmt] = [functions[o] for o in used if o != one]
            exec(compile(ast.Module([*body, function], []), module.__name__, "exec"), content)
            yield f"{one}: {said}", content[name]


def examine(name: str, kernel: Any, home: str, job: dict[str, Any]) -> dict[str, Any]:
    """What came of a kernel and its replacement."""
    module = import_module(home)
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    launcher = module.npu_kernel(kernel)
    runs: list[tuple[Arguments, Arguments]] = []
    text = (Path(job["kernels"]) / f"{name}.py").read_text(encoding="utf-8")
    for grid, before in batches(name, launcher.arg_names, text, job["batches"]):
        after = copy.deepcopy(before)
        kernel[grid](**launched(after))
        runs.append((before, after))
    tolerance = runner_v2.TOLERANCES.get(name, 0.0)
    wrong = differs(launcher, runs, tolerance)
    survived: list[str] = []
    count = 0
    if job["mutants"] and wrong is None:
        for said, mutant in mutated(module, source, launcher.replacement.__name__):
            if said in runner_v2.EQUIVALENT:
                continue
            count += 1
            if differs(mutant, runs, tolerance) is None:
                survived.append(said)
    return {"batches": len(runs), "wrong": wrong, "mutants": count, "survived": survived}


class Memory:
    """The interpreter's memory; a mask made of a scalar and a block comes as integers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        return self.inner.load(addresses, mask.astype(bool), other, dtype)

    def store(self, addresses: Any, values: Any, mask: Any) -> Any:
        return self.inner.store(addresses, values, mask.astype(bool))


def main(job: dict[str, Any]) -> None:
    """Compare all kernels that the job names."""
    interpreter._interpreter = Memory(interpreter._interpreter)
    sys.path.insert(0, job["replacements"])
    sys.path.insert(0, job["kernels"])
    found = {}
    for name, home in job["homes"].items():
        kernel = getattr(import_module(name), name)
        found[name] = examine(name, kernel, home, job)
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
