"""Likelihood of a network with a classification head."""

import torch
from peft import PeftModel
from typing_extensions import override

from blob_pyro.lora import Latent, Prior, check_peft_model
from blob_pyro.models.classifier import Classifier


class SequenceClassifier(Classifier):
    """Any ``AutoModelForSequenceClassification`` under PEFT, as a Pyro model.

    The head (``modules_to_save``) is a point estimate; the LoRA ``A`` matrices (or ``A`` and ``B``)
    are latent.

    Parameters
    ----------
    net
        PEFT model of task type ``SEQ_CLS``; ``net.config.num_labels`` is the number of classes.
    num_data
        Number of training examples.
    prior_scale
        Standard deviation of the prior.
    adapter
        Name of the PEFT adapter.
    prior, latent
        See :class:`BayesianLora`.

    Raises
    ------
    ValueError
        If the network has fewer than two labels, or gives other logits than one row a text.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=10)
    >>> model(input_ids=torch.tensor([[5, 6, 7]])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        net: PeftModel,
        num_data: int,
        prior_scale: float = 0.2,
        adapter: str = "default",
        *,
        prior: Prior | None = None,
        latent: Latent = ("A",),
    ) -> None:
        check_peft_model(net)
        if net.config.num_labels < 2:
            raise ValueError(
                f"net.config.num_labels={net.config.num_labels}: classification needs at least 2; "
                "load the network with num_labels=..."
            )
        super().__init__(net, num_data, prior_scale, adapter, prior=prior, latent=latent)
        # Absolute positions count from the first token, so it is a real one where that is possible.
        self.find_padding_side("right", "left")

    @property
    @override
    def num_classes(self) -> int:
        return int(self.network.config.num_labels)

    @override
    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.network(**self.align(batch, self.padding_side)).logits
        if logits.shape != (wanted := (len(batch["input_ids"]), self.num_classes)):
            raise ValueError(
                f"{type(self.network.get_base_model()).__name__} gives logits of the shape "
                f"{tuple(logits.shape)}, where one row a text and one column a class are "
                f"{wanted}; load the network with AutoModelForSequenceClassification"
            )
        return logits
