"""Small checkpoints that the checkpoint tests share."""

import shutil

import torch


def save_beside_config(folder, tensors, config_of, name="checkpoint.pt"):
    folder.mkdir(exist_ok=True)
    shutil.copy(config_of.parent / "config.json", folder / "config.json")
    torch.save(tensors, folder / name)
    return folder / name


def same_tensors(one, other):
    for part, tensors in one.parts.items():
        assert tensors.keys() == other.parts[part].keys()
        assert all(torch.equal(tensor, other.parts[part][name]) for name, tensor in tensors.items())
