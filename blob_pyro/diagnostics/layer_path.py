"""What the name of a LoRA site says: which module it is, and of which layer."""

PEFT_PREFIX = "base_model.model."
LORA_SUFFIX = ".lora_A.weight"


def site_path(site: str) -> str:
    """Give the path of a site's module, without PEFT's wrapping.

    Examples
    --------
    >>> site_path("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight")
    'model.layers.3.self_attn.q_proj'
    """
    # A latent B is another matrix of the module, so its name keeps `.lora_B`.
    return site.removeprefix(PEFT_PREFIX).removesuffix(LORA_SUFFIX).removesuffix(".weight")


def layer_path(site: str) -> tuple[str, int | None]:
    """Split the name of a site into the path of its module and the number of its layer.

    Parameters
    ----------
    site
        A dotted path, such as ``base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight``.

    Returns
    -------
    module
        The path without PEFT's wrapping and without the number.
    layer
        The first number in the path (a later one counts experts, say), None if there is none.

    Examples
    --------
    >>> layer_path("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight")
    ('model.layers.self_attn.q_proj', 3)
    >>> layer_path("base_model.model.lm_head.lora_A.weight")
    ('lm_head', None)
    """
    parts = site_path(site).split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return ".".join(parts), None
    return ".".join(parts[:number] + parts[number + 1 :]), int(parts[number])
