"""The shape and the type that labels must have."""

import torch


def checked_labels(labels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Give labels as int64, or refuse what would be broadcast or rounded.

    Parameters
    ----------
    labels
        Integers of any width.
    shape
        The only shape that they may have.

    Raises
    ------
    ValueError
        If they are no tensor of integers, or have another shape.

    Examples
    --------
    >>> checked_labels(torch.tensor([0, 2], dtype=torch.uint8), torch.Size([2]))
    tensor([0, 2])
    """
    if not isinstance(labels, torch.Tensor) or not _holds_integers(labels.dtype):
        found = getattr(labels, "dtype", type(labels).__name__)
        raise ValueError(
            f"labels are {found}, but a tensor of integers (torch.int64) is needed; pass "
            "class indices or token ids, no probabilities"
        )
    if labels.shape != shape:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)} but this batch needs {tuple(shape)}: "
            "an integer for each example (CausalLM: for each token)"
        )
    return labels.long()


def _holds_integers(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
