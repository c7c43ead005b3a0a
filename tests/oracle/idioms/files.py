"""Tensors and modules in files and pickles."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import nn

from tests.oracle.idioms import data, idiom, net


@idiom
def save_and_load(device: str) -> Any:
    file = io.BytesIO()
    m = net(device)
    torch.save({"model": m.state_dict(), "view": m[0].weight.detach()[1:, 2:]}, file)
    file.seek(0)
    there = torch.load(file)
    file.seek(0)
    here = torch.load(file, map_location="cpu")
    return there["model"]["0.weight"], there["view"], here["model"]["2.bias"], here["model"]["0.weight"].device.type == "cpu"


@idiom
def pickled_and_saved_in_the_old_format(device: str) -> Any:
    x, file = data(device, 6), io.BytesIO()
    torch.save([x, x[::2], x.long()], file, _use_new_zipfile_serialization=False)
    file.seek(0)
    there = torch.load(file)
    file.seek(0)
    return there, torch.load(file, map_location="cpu"), pickle.loads(pickle.dumps({"x": x, "p": nn.Parameter(x[1:])}))


@idiom
def loaded_to_other_places(device: str) -> Any:
    file, found = io.BytesIO(), []
    x = data(device, 6)
    torch.save([x, x[2:4]], file)
    place = "cpu" if device == "cpu" else "remote:0"
    seen: list[bool] = []
    places = (
        device, torch.device(device), "cpu", {place: "cpu"}, {"cuda:3": "cpu"}, {place: "meta"}, "cuda",
        lambda storage, location: seen.append(location == place), lambda storage, location: storage,
    )  # fmt: skip
    for to in places:
        file.seek(0)
        try:
            a, b = torch.load(file, map_location=to)
        except RuntimeError as error:
            found += [str(error).split(".")[0]]
            continue
        found += [a.shape if a.is_meta else a, b.stride()]
    file.seek(0)
    with torch.device("meta"):
        found += torch.load(file)
    return found, set(seen)


@idiom
def saved_views_share_a_storage(device: str) -> Any:
    base = data(device, 6)
    file = io.BytesIO()
    torch.save([base, base[2:4]], file)
    file.seek(0)
    a, b = torch.load(file)
    b.fill_(7)
    return a, b
