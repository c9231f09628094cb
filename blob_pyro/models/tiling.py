"""Several draws in one forward pass: the batch once for each."""

import torch


def tile(batch: dict[str, torch.Tensor], num_draws: int) -> dict[str, torch.Tensor]:
    """Repeat a batch, draw after draw.

    Parameters
    ----------
    batch
        Tensors by name, each of B rows.
    num_draws
        Number of draws K.

    Returns
    -------
    dict
        Tensors of ``K * B`` rows.

    Examples
    --------
    >>> tile({"input_ids": torch.tensor([[5], [6]])}, 2)["input_ids"].flatten()
    tensor([5, 6, 5, 6])
    """
    if num_draws == 1:
        return batch
    return {
        name: tensor.repeat(num_draws, *[1] * (tensor.dim() - 1)) for name, tensor in batch.items()
    }


def untile(logits: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Give each of several draws a dimension of its own, and go up to float32.

    Parameters
    ----------
    logits
        ``(K * rows) x V``, floating; the log probabilities of half-precision logits would not be
        exact enough.
    num_draws
        Number of draws K.

    Returns
    -------
    torch.Tensor
        ``rows x V`` for one draw, else ``K x rows x V``; float32 or wider.

    Examples
    --------
    >>> untile(torch.zeros(6, 4, dtype=torch.bfloat16), 3).shape
    torch.Size([3, 2, 4])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if num_draws == 1:
        return logits
    return logits.reshape(num_draws, -1, logits.shape[-1])
