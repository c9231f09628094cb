from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blob_pyro import push_to_hub, save_posterior
from blob_pyro.files import card
from blob_pyro.guides import LowRankGaussianGuide


class Client:
    """Keeps what a client of the Hub is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls.append(("create", {"repo_id": repo_id, **options}))

        class Url(str):
            repo_id = "me/tickets"

        return Url("https://huggingface.co/me/tickets")

    def upload_folder(self, **options: Any) -> Any:
        self.calls.append(("upload", options))
        return SimpleNamespace()


@pytest.fixture
def folder(tmp_path: Path, classifier: Any) -> Path:
    model = classifier("llama")
    model.network.peft_config["default"].base_model_name_or_path = "somebody/tiny-llama"
    save_posterior(tmp_path / "p", model, LowRankGaussianGuide(model))
    (tmp_path / "p" / "evaluations").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine alone")
    return tmp_path / "p"


def test_the_files_of_a_posterior_are_uploaded_and_no_others(folder: Path) -> None:
    client: Any = Client()
    address = push_to_hub(folder, "tickets", private=True, client=client)
    assert address == "https://huggingface.co/me/tickets"
    (_, created), (_, uploaded) = client.calls
    assert created == {"repo_id": "tickets", "private": True, "exist_ok": True}
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/tickets", folder)
    assert sorted(uploaded["allow_patterns"]) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "features.safetensors",
        "posterior.safetensors",
        "posterior_config.json",
    ]


def test_the_hub_itself_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(card, "HfApi", lambda **_: client)
    push_to_hub(folder, "me/tickets")
    assert [name for name, _ in client.calls] == ["create", "upload"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", r"adapter_model.safetensors is not the file that was saved"),
        ("absent", r"posterior_config.json is missing"),
    ],
)
def test_what_is_no_whole_posterior_is_refused(folder: Path, what: str, message: str) -> None:
    if what == "cut":
        file = folder / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (folder / "posterior_config.json").unlink()
    client: Any = Client()
    with pytest.raises(ValueError, match=message):
        push_to_hub(folder, "me/tickets", client=client)
    assert client.calls == []
