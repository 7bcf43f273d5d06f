# SPDX-License-Identifier: Apache-2.0
"""What torch's functions, methods and classes give and take, where that is always a tensor."""

from __future__ import annotations

TENSORS = frozenset(
    "torch.Tensor torch.nn.Parameter torch.nn.parameter.Parameter torch.nn.Buffer "
    "torch.nn.parameter.Buffer torch.nn.parameter.UninitializedParameter "
    "torch.nn.parameter.UninitializedBuffer torch.nn.UninitializedParameter "
    "torch.FloatTensor torch.DoubleTensor torch.HalfTensor torch.BFloat16Tensor torch.LongTensor "
    "torch.IntTensor torch.ShortTensor torch.CharTensor torch.ByteTensor torch.BoolTensor "
    "torch.cuda.FloatTensor torch.cuda.HalfTensor torch.cuda.LongTensor".split()
)
"""Classes whose objects are tensors."""

FUNCTIONS = frozenset(
    f"torch.{name}"
    for name in (
        "abs add addcmul addmm all amax amin any arange argmax argmin argsort "
        "as_strided as_tensor asarray baddbmm bernoulli bincount bitwise_and bitwise_or bmm "
        "bucketize cat ceil clamp clone concat concatenate conj cos cumprod cumsum deg2rad "
        "detach diag diff div dot einsum empty empty_like empty_strided eq erf exp "
        "expand_copy eye flatten flip floor floor_divide fmod from_dlpack from_numpy "
        "frombuffer full full_like gather ge greater gt hstack index_select inner inverse "
        "isfinite isin isinf isnan le lerp less linspace log log2 log_softmax logical_and "
        "logical_not logical_or logspace logsumexp lt masked_fill masked_select matmul "
        "maximum mean minimum mm movedim mul multinomial multiply mv narrow ne neg "
        "nn.functional.cross_entropy nn.functional.dropout nn.functional.embedding "
        "nn.functional.gelu nn.functional.interpolate nn.functional.layer_norm "
        "nn.functional.linear nn.functional.logsigmoid nn.functional.log_softmax "
        "nn.functional.normalize nn.functional.one_hot nn.functional.pad nn.functional.relu "
        "nn.functional.rms_norm nn.functional.scaled_dot_product_attention "
        "nn.functional.sigmoid nn.functional.silu nn.functional.softmax "
        "nn.functional.softplus nn.functional.tanh nn.functional.conv1d nn.functional.conv2d "
        "nn.functional.conv3d nonzero_static norm ones ones_like outer permute polar pow prod "
        "rand rand_like randint randint_like randn randn_like randperm range ravel real "
        "reciprocal remainder repeat_interleave reshape roll rot90 round rsqrt scalar_tensor "
        "scatter scatter_add select sigmoid sign sin softmax sparse_coo_tensor "
        "sparse_csr_tensor special.expit sqrt square squeeze stack sub subtract sum swapaxes "
        "t take take_along_dim tan tanh tensor tile transpose tril triu true_divide trunc "
        "unflatten unsqueeze view_as_complex view_as_real vstack where xlogy zeros zeros_like"
    ).split()
)
"""Functions that always return one tensor."""

LISTS = frozenset(
    f"torch.{name}"
    for name in "chunk hsplit meshgrid split split_with_sizes tensor_split unbind vsplit".split()
)
"""Functions that return several tensors."""

TAKE_TENSORS = frozenset(
    f"torch.{name}"
    for name in (
        "abs allclose amax amin argmax argsort bincount bmm clone cumsum empty_like equal exp "
        "full_like isfinite isinf isnan log log_softmax matmul mm nonzero numel ones_like "
        "rand_like randn_like rsqrt sigmoid softmax sqrt topk zeros_like"
    ).split()
)
"""Functions that refuse everything but a tensor as their first argument."""

METHODS = frozenset(
    "abs add add_ all any amax amin argmax argmin argsort as_strided bfloat16 bitwise_and bmm bool "
    "broadcast_to byte ceil clamp clamp_ clamp_max clamp_min clone contiguous copy_ cos cpu cuda "
    "cumsum detach detach_ diag div div_ double eq exp exp_ expand expand_as fill_ flatten flip "
    "float floor floor_divide gather ge gt half index_add_ index_copy_ index_fill_ index_put_ "
    "index_select int isfinite isinf isnan le log log_softmax long lt masked_fill masked_fill_ "
    "masked_scatter masked_select matmul mean mm movedim mul mul_ narrow ne neg new_empty new_full "
    "new_ones new_tensor new_zeros norm normal_ permute pin_memory pow prod ravel reciprocal "
    "repeat repeat_interleave requires_grad_ reshape reshape_as roll round rsqrt scatter scatter_ "
    "scatter_add_ select short sigmoid sign sin softmax sqrt square squeeze squeeze_ sub sub_ sum "
    "t tanh to to_dense transpose transpose_ tril triu trunc type_as unflatten unfold uniform_ "
    "unsqueeze unsqueeze_ view view_as where zero_".split()
)
"""Methods of a tensor that return one tensor."""

ATTRIBUTES = frozenset({"H", "T", "data", "imag", "mH", "mT", "real"})
"""Attributes of a tensor that are tensors."""

ONLY_TENSORS = frozenset(
    "contiguous copy_ data_ptr detach dim element_size is_contiguous numel record_stream "
    "storage_offset stride unsqueeze untyped_storage zero_".split()
)
"""Methods; an object on which one is called is a tensor, unless the module knows of another class
that answers to `is_cuda`."""

LAYERS = frozenset(
    f"torch.nn.{name}"
    for name in "Bilinear Conv1d Conv2d Conv3d Embedding GroupNorm LayerNorm Linear RMSNorm".split()
)
