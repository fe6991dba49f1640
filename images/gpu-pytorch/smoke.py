"""Run inside the built image: PyTorch calculates, and uses a GPU where the session has one."""

import json
import os

import torch


def main() -> None:
    """Print one JSON object; fail where the arithmetic or a granted GPU is missing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if os.environ.get("COMMONS_GPU_UUIDS"):
        assert torch.cuda.device_count() == len(os.environ["COMMONS_GPU_UUIDS"].split(",")), "not the granted GPUs"
    a = torch.arange(6, dtype=torch.float32, device=device).reshape(2, 3)
    assert (a @ a.T).tolist() == [[5.0, 14.0], [14.0, 50.0]]
    print(json.dumps({"torch": torch.__version__, "device": device, "devices": torch.cuda.device_count()}))


main()
